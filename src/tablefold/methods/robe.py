"""ROBE: blocks of one shared array."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

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
        block: Z, floats per block. 1 hashes every weight on its own (HashedNets, Chen et al., ICML 2015), dim a whole
            row; a multiple of dim keeps so many neighbouring ids together in one block.
        sign: multiply each block by a hashed +-1, so that shared weights meet with random signs.
        wrap: let blocks that begin near the end go on at the beginning, as published; otherwise they begin early enough
            to fit. It matters only to arrays of few blocks.
        aligned: let blocks begin at multiples of Z alone: memory is then read in whole rows of Z floats, at most one
            cache line for Z = 16, and weights are shared by whole blocks.
        floats: size of memory, for all tables together. Set by a budget.

    Learning rate: a shared weight gets gradients of many ids, which disagree. Take an optimiser that scales the step of
    each weight, and try larger rates first: AMSGrad learned faster at 8e-3 than at 2e-3, and far slower at 5e-4, at
    4x and at 60x; Adagrad at 0.05 was the best of all at 60x; SGD stayed far behind (`studies/LOG.md`, "Training shared
    weights").

    When to use it: for high compression (100x to 10,000x), many tables, or ids without a vocabulary (`rows=None`).

    >>> from tablefold import Robe, TableSpec
    >>> Robe(block=16, floats=540_000).num_parameters([TableSpec("user", rows=33_762_577, dim=16)])
    540000
    """

    name: ClassVar[str] = "robe"
    summary: ClassVar[str] = "blocks of one array shared by all tables; for 100x to 10,000x or open vocabularies"
    size_options: ClassVar[tuple[str, ...]] = ("floats",)
    retired: ClassVar[Mapping[str, Any]] = {"share": "all", "gradient": "sum"}

    block: int = field(default=16, metadata=SHOWN)
    sign: bool = False
    wrap: bool = False
    aligned: bool = False
    floats: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1:
            raise ValueError(f"robe: block={self.block} must be at least 1")
        if self.floats is not None and self.floats < self.block:
            raise ValueError(f"robe: floats={self.floats} must hold at least one block of {self.block}")

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From one block to as many floats as the full tables have."""
        closed = [table.rows * table.dim for table in tables if table.rows is not None]
        full = sum(closed) if len(closed) == len(tables) else 1 << 40
        return self.block, max(self.block, full)

    def num_parameters(self, tables: Sequence[TableSpec]) -> int:
        """`floats`, whatever the tables; in whole blocks if `aligned`."""
        if self.floats is None:
            raise ValueError("robe needs a size: floats=540000, or a budget")
        unit = self.block if self.aligned else 1
        return self.floats // unit * unit

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """A term per block of a row."""
        for table in tables:
            if self.block > table.dim and self.block % table.dim:
                raise ValueError(
                    f"robe: block={self.block} must hold whole rows: at most dim={table.dim}, or a multiple of it"
                )
        builder = MapBuilder(tables)
        floats = self.num_parameters(tables)
        width = math.gcd(self.block, *(table.dim for table in tables)) if self.aligned else 1
        base = builder.add_region(floats // width, width, FULL_START)
        for column, table in enumerate(tables):
            for number, slot in enumerate(range(0, table.dim, self.block)):
                key = derive_key(seed, column, number)
                builder.add_term(column, self._block(base, floats, table.dim, slot, key))
        return builder.finish()

    def _block(self, base: int, floats: int, dim: int, slot: int, key: int) -> Term:
        neighbours = max(1, self.block // dim)
        stride = self.block if self.aligned else 1
        room = floats if self.wrap else floats - self.block + 1
        places = floats // self.block if self.aligned else room
        return Term(
            hashed(places, key, neighbours),
            base,
            stride=stride,
            width=min(self.block, dim - slot),
            neighbours=neighbours,
            wrap=floats if self.wrap else 0,
            slot=slot,
            signed=self.sign,
        )
