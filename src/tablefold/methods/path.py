"""Path-based embeddings: one table of vectors, and a small function per bucket that turns them into others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tablefold import spec
from tablefold.hashing import derive_key
from tablefold.method import Method
from tablefold.methods.sizing import check_size, colliding_rows, largest_first_modulus, most_rows
from tablefold.ops.functions import BucketFunctions
from tablefold.ops.reference import Buckets
from tablefold.partitions import Partition, ceil_div, identity, mixed_radix, mixed_radix_moduli
from tablefold.spec import SHOWN
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term


@dataclass(frozen=True)
class PathBased(Method):
    """Path-based compositional embeddings (Shi, Mudigere, Naumov and Yang, KDD 2020, arXiv 1909.02107, section 4).

        e(x) = (M_k[b_k] o .. o M_2[b_2])(W[b_1]),    b_1 = x mod m_1, b_j the further digits of x

    W has m_1 rows. Every bucket of every further digit has a function of its own, dim -> hidden -> dim with biases and
    a ReLU: dim * hidden + hidden + hidden * dim + dim weights. `linear` functions are one matrix and a bias, dim * dim
    + dim weights. Functions start as random linear maps that keep the deviation of what they are given (hidden units
    begin in pairs of opposite sign, whose ReLUs sum to the identity): vectors begin like a full table's at any depth.

    Args:
        collisions: ids per row of W: m_1 = ceil(rows / collisions).
        max_rows: what a table may take, in rows of `dim` floats, functions included, instead: tables that fit stay
            full, the others get the most rows of W. Set by a budget.
        hidden: hidden units of each function; the paper tried 16, 32, 64 and 128.
        k: digits; k - 1 functions are applied one after the other.
        function: `mlp` or `linear`.

    Neither size: the split with the fewest weights, or the full table where that is smaller.

    When to use it: to try against `qr` where time matters less than bytes; each lookup computes k - 1 functions.

    >>> from tablefold import PathBased, TableSpec
    >>> per_bucket = 16 * 64 + 64 + 64 * 16 + 16
    >>> PathBased(collisions=4).num_parameters([TableSpec("user", rows=10_000, dim=16)]) == 2500 * 16 + 4 * per_bucket
    True
    """

    name: ClassVar[str] = "path"
    summary: ClassVar[str] = "remainder rows sent through a small function per quotient; slower lookups"
    size_options: ClassVar[tuple[str, ...]] = ("max_rows", "collisions")

    collisions: float | None = None
    max_rows: int | None = None
    hidden: int = field(default=64, metadata=SHOWN)
    k: int = 2
    function: Literal["mlp", "linear"] = "mlp"

    def __post_init__(self) -> None:
        check_size(self.name, self.collisions, self.max_rows)
        spec.check_choice(self.name, "function", self.function, ("mlp", "linear"))
        if self.hidden < 1:
            raise ValueError(f"path: hidden={self.hidden} must be at least 1 unit; for none take function=linear")
        if self.k < 2:
            raise ValueError(f"path: k={self.k} must be at least 2 digits")

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From the split with the fewest weights to full tables."""
        return 1, most_rows(tables)

    def function_parameters(self, dim: int) -> int:
        """Weights of one function."""
        if self.function == "linear":
            return dim * dim + dim
        return dim * self.hidden + self.hidden + self.hidden * dim + dim

    def digits(self, table: TableSpec) -> tuple[Partition, ...]:
        """The digit that chooses a row of W, then those that choose functions; the identity alone for a full table."""
        rows = table.vocabulary
        cost = self.function_parameters(table.dim) / table.dim

        def further(first: int) -> tuple[int, ...]:
            return mixed_radix_moduli(ceil_div(rows, first), self.k - 1)

        if self.collisions is not None:
            first = colliding_rows(rows, self.collisions)
        else:
            cheapest = min(rows, math.ceil((rows * cost ** (self.k - 1)) ** (1 / self.k)))
            first = largest_first_modulus(
                rows, self.max_rows or 1, cheapest, lambda modulus: modulus + cost * sum(further(modulus))
            )
        return (identity(rows),) if first == rows else mixed_radix(rows, moduli=(first, *further(first)))

    def num_parameters(self, tables: Sequence[TableSpec]) -> int:
        """Rows of W and the functions of all buckets."""
        total = 0
        for table in tables:
            first, *further = self.digits(table)
            functions = sum(digit.num_buckets for digit in further)
            total += first.num_buckets * table.dim + functions * self.function_parameters(table.dim)
        return total

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """One term per table: the row of W."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            first = self.digits(table)[0]
            base = builder.add_region(first.num_buckets, table.dim, FULL_START)
            builder.add_term(column, Term(first, base, stride=table.dim, width=table.dim))
        return builder.finish()

    def transform(self, tables: Sequence[TableSpec], columns: Sequence[int], seed: int = 0) -> nn.Module | None:
        """The functions of all tables that are not full."""
        digits = {column: self.digits(table)[1:] for column, table in zip(columns, tables, strict=True)}
        folded = {column: further for column, further in digits.items() if further}
        if not folded:
            return None
        hidden = self.hidden if self.function == "mlp" else None
        return PathFunctions(folded, tables[0].dim, hidden, seed)


class PathFunctions(nn.Module):
    """Sends the vectors of some columns through the functions that the ids' further digits choose.

    Args:
        digits: for each column the k - 1 partitions that choose its functions.
        dim: floats of a vector.
        hidden: hidden units, or None for linear functions.
        seed: of the start values.
    """

    columns: Tensor

    def __init__(self, digits: dict[int, tuple[Partition, ...]], dim: int, hidden: int | None, seed: int) -> None:
        super().__init__()
        self.register_buffer("columns", torch.tensor(list(digits)), persistent=False)
        levels = list(zip(*digits.values(), strict=True))
        self.buckets = nn.ModuleList(Buckets(list(digits), level, ()) for level in levels)
        self.functions = nn.ModuleList(
            BucketFunctions([digit.num_buckets for digit in level], dim, hidden, derive_key(seed, -1, number))
            for number, level in enumerate(levels)
        )

    def forward(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """`[batch, features, dim]` to the same."""
        chosen = vectors[:, self.columns]
        for buckets, functions in zip(self.buckets, self.functions, strict=True):
            bucket, _ = buckets(ids, None)
            chosen = functions(chosen, bucket)
        return vectors.index_copy(1, self.columns, chosen)
