"""Mixed dimensions: the rarer a table's ids, the narrower its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tablefold.methods.narrow import Narrow
from tablefold.tables import TableSpec


@dataclass(frozen=True)
class MixedDimensions(Narrow):
    """Mixed dimension embeddings (Ginart, Naumov, Mudigere, Yang and Zou, ISIT 2021, arXiv 1909.11810).

        e(x) = row[x] @ P,    row: [rows, width],  P: [width, dim],    width = scale * (1 / rows)^alpha

    How often an id of a table is met is 1 / rows on average: its popularity. Tables of many rare ids get narrow rows,
    those of few frequent ones wide rows, up to dim.

    Args:
        alpha: the temperature: 0 gives all tables one width (as `low_rank`), 1 all tables equally many floats. The
            authors recommend 0.3 or so.
        scale: lambda, the width that a table of one id would have. Widths are rounded down to a power of two, of at
            least 1 and at most dim; tables that would not be smaller stay full. Set by a budget.

    Learning rate: as for `low_rank`.

    When to use it: as `low_rank`, where some tables have far more ids than others.

    >>> from tablefold import MixedDimensions, TableSpec
    >>> tables = [TableSpec("country", rows=200, dim=16), TableSpec("user", rows=1_000_000, dim=16)]
    >>> [MixedDimensions(scale=80).width(table) for table in tables]
    [16, 1]
    """

    name: ClassVar[str] = "mixed_dimensions"
    summary: ClassVar[str] = "low rank whose width falls with a table's rows: rare ids get narrow rows"
    size_options: ClassVar[tuple[str, ...]] = ("scale",)

    alpha: float = 0.3
    scale: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"mixed_dimensions: alpha={self.alpha} must lie in 0 .. 1")
        if self.scale is not None and self.scale < 1:
            raise ValueError(f"mixed_dimensions: scale={self.scale} must be at least 1")

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From one float a row to full tables."""
        return 1, max(math.ceil(table.dim * table.vocabulary**self.alpha) for table in tables)

    def width(self, table: TableSpec) -> int:
        """As the rows of the table say."""
        if self.scale is None:
            raise ValueError("mixed_dimensions needs a size: scale=64, or a budget")
        exact = self.scale / table.vocabulary**self.alpha * (1 + _SLACK)
        return table.dim if exact >= table.dim else 1 << max(0, math.floor(math.log2(exact)))


_SLACK = 1e-9  # a width that comes out whole must not depend on how powers are rounded
