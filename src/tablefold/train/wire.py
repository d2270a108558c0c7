"""What the processes of a training send each other in a step, computed from the model alone."""

from __future__ import annotations

from dataclasses import dataclass

from tablefold.group import EmbeddingGroup
from tablefold.models import Network
from tablefold.tables import FLOAT_BYTES

NUMBER_BYTES = 8
"""A row travels as its number, int64, and its gradient, float32."""


@dataclass(frozen=True)
class StepBytes:
    """What one process contributes to the gradients of a step, bytes.

    Args:
        summed: gradients of every float, added up on the way: those of the network, and of a memory that travels whole.
        gathered: the most that rows of a large memory take; every process receives those of all others.
    """

    summed: int
    gathered: int

    @property
    def sent(self) -> int:
        """Both together."""
        return self.summed + self.gathered

    def received(self, processes: int) -> int:
        """Bytes that reach each of so many processes: `2 (N - 1) / N * summed + (N - 1) * gathered`.

        The sum travels in a ring, as gloo's and NCCL's do: every process receives N - 1 partial sums of an N-th of the
        floats, and N - 1 whole ones.

        >>> StepBytes(summed=1000, gathered=10).received(2), StepBytes(summed=1000, gathered=10).received(100)
        (1010, 2970)
        """
        return round(2 * (processes - 1) / processes * self.summed) + (processes - 1) * self.gathered


def step_bytes(model: Network, batch_size: int) -> StepBytes:
    """What a process sends in a step on `batch_size` rows of its own, at the most.

    The memory of a large group travels as the rows that the batch has read, any other one whole. A row is counted once
    per id that can read it, and never more rows than there are.

    Args:
        model: on any device; on "meta" nothing is allocated.
        batch_size: rows of a batch per process.

    >>> import torch
    >>> from tablefold import TableSpec, parse
    >>> from tablefold.models import build_model
    >>> tables = [TableSpec("user", rows=1_000_000, dim=16), TableSpec("country", rows=200, dim=16)]
    >>> group = parse("full").build(tables, device="meta")
    >>> step_bytes(build_model("neumf", group, 0, top_mlp=(8,)), batch_size=1000).gathered  # (1,000 + 200) * (8 + 64)
    86400
    """
    group = model.group
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    floats = sum(parameter.numel() for parameter in learnable)
    if not group.gather.gives_rows(group.memory):
        return StepBytes(floats * FLOAT_BYTES, 0)
    rows, unit = min(_rows_read(group, batch_size), group.memory.shape[0]), group.memory.shape[1]
    return StepBytes((floats - group.memory.numel()) * FLOAT_BYTES, rows * (NUMBER_BYTES + unit * FLOAT_BYTES))


def _rows_read(group: EmbeddingGroup, batch_size: int) -> int:
    """Rows of memory that a batch can read at the most, each term's for itself."""
    unit, rows = group.memory.shape[1], 0
    for term in (term for terms in group.address_map.terms for term in terms):
        starts = term.wrap // unit if term.wrap else term.partition.num_buckets * term.neighbours
        rows += min(batch_size, starts) * (term.width // unit)
        if term.weight is not None:
            rows += min(batch_size, term.weight.partition.num_buckets)
    return rows
