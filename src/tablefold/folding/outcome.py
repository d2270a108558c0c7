"""What a fold did: the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tablefold.folding.finding import LeftAlone
from tablefold.folding.tuning import Tuned
from tablefold.plans import Plan
from tablefold.tables import show_bytes
from tablefold.text_tables import text_table


@dataclass(frozen=True)
class FoldedTable:
    """What a fold did to a table.

    Args:
        names: of the modules that read it.
        rows, dim: of it.
        bytes_before: of its weight.
        num_bytes: now. Of tables that share memory the first has all of it, the others 0.
        representation: the spec of its method; `as it is` where it stays.
        format: of its rows.
        error: the share of the squared norm of its rows that is lost, weighted by counts; None where it starts afresh.
        why: it got that.
    """

    names: tuple[str, ...]
    rows: int
    dim: int
    bytes_before: int
    num_bytes: int
    representation: str
    format: str
    error: float | None
    why: str


@dataclass(frozen=True)
class Report:
    """What `fold` did; `print` shows it as a table.

    Args:
        tables: that were planned, folded or left exact within the budget.
        left: tables that were left alone, and why.
        notes: what to know before going on.
        plan: that was built.
        model: with the drop-ins in it.
        numbering: with `ids="renumber"`, by each name of a planned table the new number of every id, int64 `[rows]`:
            look ids up in it before the model does. A padding id becomes 0.
        tuned: what tuning did, where it was asked for. The tables' errors are those before it.
    """

    tables: tuple[FoldedTable, ...]
    left: tuple[LeftAlone, ...]
    notes: tuple[str, ...]
    plan: Plan = field(repr=False)
    model: nn.Module = field(repr=False, compare=False)
    numbering: Mapping[str, NDArray[np.int64]] = field(default_factory=dict, repr=False, compare=False)
    tuned: Tuned | None = None

    @property
    def bytes_before(self) -> int:
        """Of all planned tables."""
        return sum(table.bytes_before for table in self.tables)

    @property
    def num_bytes(self) -> int:
        """Of all planned tables now: memory in its formats, scales, pointers."""
        return sum(table.num_bytes for table in self.tables)

    @property
    def compression(self) -> float:
        """How many times smaller they are."""
        return self.bytes_before / self.num_bytes

    def __str__(self) -> str:
        header = ["module", "rows", "dim", "before", "after", "representation", "format", "lost"]
        lines = [text_table(header, [_cells(table) for table in self.tables]), ""]
        before, after = show_bytes(self.bytes_before), show_bytes(self.num_bytes)
        lines.append(f"{before} -> {after}, {self.compression:.4g}x smaller")
        return "\n".join([*lines, *self._remarks()])

    def _remarks(self) -> Iterator[str]:
        for each in self.left:
            yield f"left alone: {', '.join(each.names)} ({show_bytes(each.num_bytes)}): {each.reason}"
        if self.tuned is not None:
            yield str(self.tuned)
        yield from self.notes


def _cells(table: FoldedTable) -> list[str]:
    lost = "-" if table.error is None else f"{100 * table.error:.2g} %" if table.error else "0"
    return [
        " = ".join(table.names),
        f"{table.rows:,}",
        str(table.dim),
        show_bytes(table.bytes_before),
        show_bytes(table.num_bytes) if table.num_bytes else "shared",
        table.representation,
        table.format,
        lost,
    ]
