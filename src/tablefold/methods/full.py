"""The full table: every id owns a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tablefold.method import Method
from tablefold.partitions import identity
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term


@dataclass(frozen=True)
class Full(Method):
    """The full table: `e(x) = memory[x]`, rows * dim floats for each table.

    Weights start uniform with standard deviation 0.02; why, and how every other method matches it, is told in
    `tablefold.starts`.

    When to use it: as the line to measure against, and for small tables beside a folded one (a threshold).

    >>> from tablefold import Full, TableSpec
    >>> Full().num_bytes([TableSpec("user", rows=29_858, dim=16)])
    1910912
    """

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "every id owns a row; the line to measure against"

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """One term per table: the identity."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            base = builder.add_region(table.vocabulary, table.dim, FULL_START)
            builder.add_term(column, Term(identity(table.vocabulary), base, stride=table.dim, width=table.dim))
        return builder.finish()
