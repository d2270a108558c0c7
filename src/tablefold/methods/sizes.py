"""What methods that keep rows per table share: their size options, read as a number of rows for each table."""

from __future__ import annotations

import math
from fractions import Fraction

from tablefold.tables import TableSpec


def check_size(name: str, collisions: float | None, max_rows: int | None) -> None:
    """`ValueError` for a size that no table can have, or for both sizes at once."""
    if collisions is not None and not (math.isfinite(collisions) and collisions >= 1):
        raise ValueError(f"{name}: collisions={collisions} must be a number of at least 1")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"{name}: max_rows={max_rows} must be at least 1")
    if collisions is not None and max_rows is not None:
        raise ValueError(f"{name}: give collisions={collisions} or max_rows={max_rows}, not both")


def colliding_rows(rows: int, collisions: float) -> int:
    """ceil(rows / collisions), exact for any number of rows."""
    return math.ceil(Fraction(rows) / Fraction(collisions))


def most_rows(tables: list[TableSpec] | tuple[TableSpec, ...]) -> int:
    """The largest `max_rows` that still changes something: the rows of the largest closed table."""
    return max((table.rows for table in tables if table.rows is not None), default=1 << 40)
