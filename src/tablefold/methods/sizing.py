"""What methods that keep rows per table share: their size options, read as a number of rows for each table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from tablefold.partitions import ceil_div, ceil_root, largest
from tablefold.tables import TableSpec

MOST_PARTS = 64
"""No id of 64 bits has more digits, and no vector gains from more rows."""


def check_count(name: str, k: int, least: int, parts: str) -> None:
    """`ValueError` for fewer than `least` parts of a vector, or more than any id has digits."""
    if not least <= k <= MOST_PARTS:
        raise ValueError(f"{name}: k={k} must be at least {least} and at most {MOST_PARTS} {parts}")


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


def most_rows(tables: Sequence[TableSpec]) -> int:
    """The largest `max_rows` that still changes something: the rows of the largest closed table."""
    return max((table.rows for table in tables if table.rows is not None), default=1 << 40)


def largest_first_modulus(rows: int, max_rows: int, smallest: int, cost: Callable[[int], float]) -> int:
    """How many rows the first part of a split may have.

    Args:
        rows: ids of the table.
        max_rows: what the whole split may cost, in rows.
        smallest: the first part of the cheapest split. From there on, the cost must not fall as the first part grows.
        cost: rows that a split takes in all, by the size of its first part.

    Returns:
        The largest m whose split costs at most `max_rows`, or `smallest` if none does; `rows` (a full table) where the
        table fits as it is, or where no split is cheaper.

    >>> largest_first_modulus(1000, 300, smallest=32, cost=lambda m: m + -(-1000 // m))
    296
    """
    if rows <= max_rows or cost(smallest) >= rows:
        return rows
    return largest(smallest, rows - 1, lambda first: cost(first) <= max_rows)


def remainder_rows(rows: int, max_rows: int) -> int:
    """The m that splits `rows` ids into m remainders and ceil(rows / m) quotients of together at most `max_rows`.

    >>> remainder_rows(1000, 300), remainder_rows(1000, 1), remainder_rows(5, 1)
    (296, 32, 5)
    """
    return largest_first_modulus(rows, max_rows, ceil_root(rows, 2), lambda first: first + ceil_div(rows, first))
