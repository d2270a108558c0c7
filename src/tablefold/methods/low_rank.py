"""Low rank: narrow rows of one width, times a projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tablefold.methods.narrow import Narrow
from tablefold.tables import TableSpec


@dataclass(frozen=True)
class LowRank(Narrow):
    """Low rank: every table a product of two matrices (Lan, Chen, Goodman, Gimpel, Sharma and Soricut, "ALBERT", ICLR
    2020, arXiv 1909.11942, section 3.1, for the table of a language model).

        e(x) = row[x] @ P,    row: [rows, rank],  P: [rank, dim],    rank * (rows + dim) floats for each table

    No two ids share a row: what they share is the rank-dimensional space that their vectors lie in.

    Args:
        rank: floats of an id's row, the same for all tables; those that would not be smaller stay full. Set by a
            budget.

    Learning rate: every id of a table trains its projection: take an optimiser that scales each weight's step by
    itself, or give projections a rate of their own (`group.param_groups()`).

    When to use it: for a few times smaller (2x to dim) without any two ids sharing weights, and beneath few bits
    (`--storage int2`), which multiply with it.

    >>> from tablefold import LowRank, TableSpec
    >>> LowRank(rank=4).num_parameters([TableSpec("user", rows=10_000, dim=16)])
    40064
    """

    name: ClassVar[str] = "low_rank"
    summary: ClassVar[str] = "narrow rows times a matrix per table: no id shares a row; for 2x up to dim"
    size_options: ClassVar[tuple[str, ...]] = ("rank",)

    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"low_rank: rank={self.rank} must be at least 1")

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From one float a row to full tables."""
        return 1, max(table.dim for table in tables)

    def width(self, table: TableSpec) -> int:
        """The rank."""
        if self.rank is None:
            raise ValueError("low_rank needs a size: rank=4, or a budget")
        return self.rank
