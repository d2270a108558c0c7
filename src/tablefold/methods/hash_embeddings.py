"""Hash embeddings: several shared rows, weighted by learned importances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tablefold.hashing import derive_key
from tablefold.method import Method
from tablefold.methods.sizing import check_count
from tablefold.partitions import hashed
from tablefold.spec import SHOWN
from tablefold.starts import FULL_START, Start
from tablefold.tables import TableSpec, common_dim
from tablefold.terms import AddressMap, MapBuilder, Term, Weight


@dataclass(frozen=True)
class HashEmbeddings(Method):
    """Hash embeddings (Svenstrup, Hansen and Winther, NeurIPS 2017, arXiv 1709.03933).

        e(x) = p_1(x) * memory[h_1(x)] + .. + p_k(x) * memory[h_k(x)]

    k rows of one table shared by all features, each times a learned importance p_j, itself a hashed weight. Importances
    start at random signs of 1/sqrt(k), so that the sum starts like a full table's row.

    Args:
        k: rows summed to a vector.
        importances: share of memory that holds importances, the rest holds rows.
        floats: size of memory, for all tables together. Set by a budget.

    When to use it: where ids share rows anyway and some matter more than others; needs no vocabulary.

    >>> from tablefold import HashEmbeddings, TableSpec
    >>> HashEmbeddings(floats=10_000).num_parameters([TableSpec("user", 10**6, 16)])
    10000
    """

    name: ClassVar[str] = "hash_embeddings"
    summary: ClassVar[str] = "k shared rows per id, summed with learned importances; needs no vocabulary"
    size_options: ClassVar[tuple[str, ...]] = ("floats",)

    k: int = field(default=2, metadata=SHOWN)
    importances: float = 0.2
    floats: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.name, self.k, 1, "rows")
        if not 0 < self.importances < 1:
            raise ValueError(f"hash_embeddings: importances={self.importances} must be a share between 0 and 1")

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From two rows to as many floats as the full tables have."""
        closed = [table.rows * table.dim for table in tables if table.rows is not None]
        smallest = math.ceil(
            2 * max(common_dim(tables, "hash_embeddings") / (1 - self.importances), self.k / self.importances)
        )
        return smallest, max(smallest, sum(closed)) if len(closed) == len(tables) else 1 << 40

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """k weighted terms per table."""
        if self.floats is None:
            raise ValueError("hash_embeddings needs a size: floats=540000, or a budget")
        dim = common_dim(tables, "hash_embeddings")
        rows = int(self.floats * (1 - self.importances)) // dim
        weights = (self.floats - rows * dim) // self.k
        if rows < 1 or weights < 1:
            raise ValueError(
                f"hash_embeddings: floats={self.floats} must hold a row of {dim} and {self.k} importances: raise floats"
            )
        builder = MapBuilder(tables)
        base = builder.add_region(rows, dim, FULL_START)
        start = Start(std=0, mean=self.k**-0.5, signs=True)
        weight_base = builder.add_region(self.floats - rows * dim, 1, start, "weights")
        for column in range(len(tables)):
            importance = hashed(weights, derive_key(seed, column, self.k))
            for number in range(self.k):
                partition = hashed(rows, derive_key(seed, column, number))
                weight = Weight(importance, weight_base + number, stride=self.k)
                builder.add_term(column, Term(partition, base, stride=dim, width=dim, weight=weight))
        return builder.finish()
