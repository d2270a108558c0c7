"""What an error in a table costs: how often each id is read, and the metric of the loss, from some batches of data.

An error e of a vector changes the loss by g @ e to first order, g its gradient; over many examples by e @ M @ e with M
the mean of g g' (the empirical Fisher matrix; Amari, 1998). Directions that the network does not look at cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tablefold.folding.finding import Table

BATCHES = 40
"""So many batches of data are looked at."""

Loss = Callable[[nn.Module, Any], Tensor]
"""The loss of a model on a batch, a number."""


@dataclass(frozen=True, eq=False)
class Costs:
    """How much each row counts, and the metric of its errors, by the name of a table; what is missing is alike.

    `renumbers` says whether ids may get new numbers, which cost nothing.
    """

    weights: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    renumbers: bool = False


def measure(
    model: nn.Module, tables: Sequence[Table], data: Iterable[Any], loss: Loss
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Tensor]]:
    """(how often each id was read, the metric of the loss), by the names of tables. The model stays as it is.

    Args:
        model: it is run in `eval` mode.
        tables: of the model.
        data: batches, of which the first `BATCHES` are looked at.
        loss: of the model on a batch.

    Raises:
        ValueError: for no batches, or a loss that is no number with a gradient.
    """
    counts = {table.spec.name: np.zeros(table.spec.vocabulary) for table in tables}
    metrics = {table.spec.name: torch.zeros(table.spec.dim, table.spec.dim) for table in tables}
    seen = 0
    with evaluating(model), torch.enable_grad():
        for batch in islice(data, BATCHES):
            seen += 1
            with _reading(tables) as reads:
                value = loss(model, batch)
            if value.numel() != 1 or not value.requires_grad:
                raise ValueError(f"loss(model, batch) gave {list(value.shape)}: it must be a number with a gradient")
            if not reads:
                raise ValueError("loss(model, batch) reads none of the tables: it must call the model that is folded")
            gradients = torch.autograd.grad(value, [read.vectors for read in reads], allow_unused=True)
            for read, gradient in zip(reads, gradients, strict=True):
                ids = read.ids.flatten().cpu().numpy()
                counts[read.name] += np.bincount(ids, minlength=len(counts[read.name]))
                if gradient is not None:
                    flat = gradient.detach().flatten(0, -2).float().cpu()
                    metrics[read.name] += read.factor * (flat.T @ flat)
    if not seen:
        raise ValueError("data has no batches to measure the loss on")
    return counts, {name: metric for name, metric in metrics.items() if bool(metric.any())}


@dataclass(frozen=True, eq=False)
class _Read:
    """One call of a table's module: its ids, the vectors that the model got, what the pooling of bags does to g g'."""

    name: str
    ids: Tensor
    vectors: Tensor
    factor: float


@contextmanager
def _reading(tables: Sequence[Table]) -> Iterator[list[_Read]]:
    """Collect the calls of all tables' modules."""
    reads: list[_Read] = []

    def note(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            ids, vectors = args[0] if args else kwargs["input"], output.detach().requires_grad_()
            pooled = ids.numel() * vectors.shape[-1] / max(1, vectors.numel())  # ids of a bag, on average
            factor = {"sum": pooled, "mean": 1 / max(pooled, 1e-9)}.get(getattr(module, "mode", ""), 1.0)
            reads.append(_Read(name, ids, vectors, factor))
            return vectors

        return hook

    handles = [
        module.register_forward_hook(note(table.spec.name), with_kwargs=True)
        for table in tables
        for module, _ in table.readers
    ]
    try:
        yield reads
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In `eval` mode; afterwards every module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
