"""ROBE: blocks of one shared array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tablefold.hashing import derive_key
from tablefold.method import Method
from tablefold.partitions import hashed
from tablefold.spec import SHOWN
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term


@dataclass(frozen=True)
class Robe(Method):
    """ROBE-Z, random offset block embeddings (Desai, Chou and Shrivastava, MLSys 2022, arXiv 2108.02191).

        e(x)[cZ : cZ + Z] = sign_c(x) * memory[h_c(x) : h_c(x) + Z],    c = 0 .. ceil(dim / Z) - 1

    One array of `floats` weights for all tables; every block of Z weights of every row starts at a hashed place in it.

    Args:
        block: Z, floats per block. 1 hashes every weight on its own, dim a whole row.
        sign: multiply each block by a hashed +-1, so that shared weights meet with random signs.
        floats: size of the array, for all tables together. Set by a budget.

    When to use it: for high compression (100x to 10,000x), many tables, or ids without a vocabulary.

    >>> from tablefold import Robe, TableSpec
    >>> Robe(block=16, floats=540_000).num_parameters([TableSpec("user", rows=33_762_577, dim=16)])
    540000
    """

    name: ClassVar[str] = "robe"
    summary: ClassVar[str] = "blocks of one array shared by all tables; for 100x to 10,000x or open vocabularies"
    size_options: ClassVar[tuple[str, ...]] = ("floats",)

    block: int = field(default=16, metadata=SHOWN)
    sign: bool = False
    floats: int | None = None

    def __post_init__(self) -> None:
        if self.block < 1:
            raise ValueError(f"robe: block={self.block} must be at least 1")
        if self.floats is not None and self.floats < self.block:
            raise ValueError(f"robe: floats={self.floats} must hold at least one block of {self.block}")

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From one block to as many floats as the full tables have."""
        closed = [table.vocabulary * table.dim for table in tables if table.rows is not None]
        full = sum(closed) if len(closed) == len(tables) else 1 << 40
        return self.block, max(self.block, full)

    def num_parameters(self, tables: Sequence[TableSpec]) -> int:
        """`floats`, whatever the tables."""
        return self._floats()

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """A term per block of a row."""
        floats = self._floats()
        builder = MapBuilder(tables)
        base = builder.add_region(floats, 1, FULL_START)
        for column, table in enumerate(tables):
            for number, slot in enumerate(range(0, table.dim, self.block)):
                partition = hashed(floats - self.block + 1, derive_key(seed, column, number))
                width = min(self.block, table.dim - slot)
                builder.add_term(column, Term(partition, base, stride=1, width=width, slot=slot, signed=self.sign))
        return builder.finish()

    def _floats(self) -> int:
        if self.floats is None:
            raise ValueError("robe needs a size: floats=540000, or a budget")
        return self.floats
