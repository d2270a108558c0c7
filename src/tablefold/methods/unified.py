"""Unified embedding: one table of rows for all features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tablefold.hashing import derive_key
from tablefold.method import Method
from tablefold.partitions import hashed
from tablefold.spec import SHOWN
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec, common_dim
from tablefold.terms import AddressMap, MapBuilder, Term


@dataclass(frozen=True)
class Unified(Method):
    """Unified embedding (Coleman, Kang, Fahrbach, Wang, Hong, Chi and Cheng, NeurIPS 2023, arXiv 2305.12102).

        e(x) = memory[h_1(x)], .., memory[h_k(x)]    end to end, each row of dim / lookups floats

    One table of rows for all features; every feature hashes under seeds of its own, once per lookup.

    Args:
        lookups: k, rows concatenated to a vector.
        rows: rows of the one table. Set by a budget.

    When to use it: as `robe` with aligned blocks, where memory should be rows that other software can serve.

    >>> from tablefold import TableSpec, Unified
    >>> Unified(lookups=2, rows=1000).num_parameters([TableSpec("user", 10**6, 16), TableSpec("item", 10**6, 16)])
    8000
    """

    name: ClassVar[str] = "unified"
    summary: ClassVar[str] = "one table of rows for all features, several hashed lookups concatenated"
    size_options: ClassVar[tuple[str, ...]] = ("rows",)

    lookups: int = field(default=2, metadata=SHOWN)
    rows: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lookups < 1:
            raise ValueError(f"unified: lookups={self.lookups} must be at least 1")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"unified: rows={self.rows} must be at least 1")

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From one row to as many floats as the full tables have."""
        closed = [table.rows for table in tables if table.rows is not None]
        return 1, sum(closed) * self.lookups if len(closed) == len(tables) else 1 << 40

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """A term per lookup."""
        if self.rows is None:
            raise ValueError("unified needs a size: rows=100000, or a budget")
        width, left = divmod(dim := common_dim(tables, "unified"), self.lookups)
        if left:
            raise ValueError(f"unified: lookups={self.lookups} must divide dim={dim}")
        builder = MapBuilder(tables)
        base = builder.add_region(self.rows, width, FULL_START)
        for column in range(len(tables)):
            for number in range(self.lookups):
                partition = hashed(self.rows, derive_key(seed, column, number))
                builder.add_term(column, Term(partition, base, stride=width, width=width, slot=number * width))
        return builder.finish()
