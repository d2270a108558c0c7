"""Path-based embeddings: one table of vectors, and a small function per bucket that turns them into others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tablefold import spec
from tablefold.hashing import derive_key
from tablefold.method import Method
from tablefold.methods.sizing import check_count, check_size, colliding_rows, largest_first_modulus, most_rows
from tablefold.ops.backends import is_recorded, is_transformed
from tablefold.ops.reference import bucket_of
from tablefold.partitions import Partition, ceil_div, identity, mixed_radix, mixed_radix_moduli
from tablefold.spec import SHOWN
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec, common_dim
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

    Without either size: the split with the fewest weights, or the full table where that is smaller.

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
        super().__post_init__()
        check_size(self.name, self.collisions, self.max_rows)
        spec.check_choice(self.name, "function", self.function, ("mlp", "linear"))
        if self.hidden < 1:
            raise ValueError(f"path: hidden={self.hidden} must be at least 1 unit; for none take function=linear")
        check_count(self.name, self.k, 2, "digits")

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
        return PathFunctions(folded, common_dim(tables, "path"), hidden, seed)


class PathFunctions(nn.Module):
    """Sends the vectors of some columns through the functions that the ids' further digits choose.

    Args:
        digits: for each column the k - 1 partitions that choose its functions.
        dim: floats of a vector.
        hidden: hidden units, or None for linear functions.
        seed: of the start values.
    """

    def __init__(self, digits: dict[int, tuple[Partition, ...]], dim: int, hidden: int | None, seed: int) -> None:
        super().__init__()
        self.columns = list(digits)
        self.levels = list(zip(*digits.values(), strict=True))
        self.functions = nn.ModuleList(
            BucketFunctions([digit.num_buckets for digit in level], dim, hidden, derive_key(seed, -1, number))
            for number, level in enumerate(self.levels)
        )

    def forward(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """`[batch, features, dim]` to the same."""
        columns = torch.tensor(self.columns, device=vectors.device)
        chosen = vectors[:, columns]
        for level, functions in zip(self.levels, self.functions, strict=True):
            pairs = zip(self.columns, level, strict=True)
            buckets = [bucket_of(digit, ids[:, column])[0] for column, digit in pairs]
            chosen = functions(chosen, torch.stack(buckets, dim=1))
        return vectors.index_copy(1, columns, chosen.to(vectors.dtype))  # under autocast products are in half precision


BLOCK = 32
"""Vectors that share a function are multiplied in blocks of so many, the last of each function padded with zeros."""


class BucketFunctions(nn.Module):
    """A function dim -> hidden -> dim (with biases and a ReLU) or dim -> dim (linear) per bucket of every column.

    Args:
        num_buckets: functions of each column.
        dim: floats of a vector.
        hidden: hidden units; None for linear functions.
        seed: of the start values: random linear maps of gain 1, no offset.

    Attributes:
        weights, biases: of all functions of all columns, one array per layer: `[functions, in, out]`,
            `[functions, out]`.
    """

    def __init__(self, num_buckets: Sequence[int], dim: int, hidden: int | None, seed: int) -> None:
        super().__init__()
        self.first = [sum(num_buckets[:column]) for column in range(len(num_buckets))]
        count = sum(num_buckets)
        generator = torch.Generator("cpu").manual_seed(seed)
        widths = [(dim, dim)] if hidden is None else [(dim, hidden), (hidden, dim)]
        weights = [_start(count, rows, columns, generator) for rows, columns in widths]
        if hidden is not None:
            _mirror(*weights)
        _keep_length(weights)
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        self.biases = nn.ParameterList(nn.Parameter(_array(count, columns).zero_()) for _, columns in widths)

    def forward(
        self, vectors: Float[Tensor, "batch columns dim"], buckets: Int64[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch columns dim"]:
        """Each vector's value under its function."""
        function = (buckets + torch.tensor(self.first, device=buckets.device)).flatten()
        flat = vectors.reshape(-1, vectors.shape[-1])
        # Blocks depend on the data, which a tracer cannot follow.
        compute = self.one_by_one if is_recorded() or is_transformed() else self.in_blocks
        return compute(flat, function).reshape(vectors.shape)

    def one_by_one(self, flat: Float[Tensor, "n dim"], function: Int64[Tensor, " n"]) -> Float[Tensor, "n dim"]:
        """What the functions mean: a matrix product per vector, by a copy of its function's weights."""
        return self._layers(flat[:, None], function)[:, 0]

    def in_blocks(self, flat: Float[Tensor, "n dim"], function: Int64[Tensor, " n"]) -> Float[Tensor, "n dim"]:
        """The same, by blocks of vectors that share a function: as many fewer copies of weights."""
        counts = torch.bincount(function, minlength=self.weights[0].shape[0])
        blocks = (counts + BLOCK - 1) // BLOCK
        order = torch.argsort(function, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        # A vector's place: where its function's blocks begin, and its rank among those of its function.
        begin = (blocks.cumsum(0) - blocks) * BLOCK - (counts.cumsum(0) - counts)
        place = begin[function] + rank
        block_function = torch.repeat_interleave(torch.arange(len(blocks), device=order.device), blocks)
        padded = flat.new_zeros(len(block_function) * BLOCK, flat.shape[1]).index_copy(0, place, flat)
        values = self._layers(padded.view(-1, BLOCK, flat.shape[1]), block_function)
        return values.flatten(0, 1)[place]

    def _layers(self, values: Tensor, function: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number:
                values = values.relu()
            values = torch.baddbmm(bias[function][:, None], values, weight[function])
        return values


def _array(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.float32, device="cpu")


def _start(count: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random matrices `[count, rows, columns]` that keep the variance of what they multiply."""
    bound = (3 / rows) ** 0.5  # a uniform distribution of variance 1/rows
    return _array(count, rows, columns).uniform_(-bound, bound, generator=generator)


def _mirror(inner: Tensor, outer: Tensor) -> None:
    """Make every second hidden unit the mirror of the one before: relu(a) - relu(-a) = a, so the function is linear.

    A random ReLU layer would add an offset as large as its signal, alike for all ids of a bucket.
    """
    pairs = inner.shape[2] // 2
    inner[:, :, 1 : 2 * pairs : 2] = -inner[:, :, : 2 * pairs : 2]
    outer[:, 1 : 2 * pairs : 2] = -outer[:, : 2 * pairs : 2]
    if pairs:
        outer[:, 2 * pairs :] = 0


def _keep_length(weights: list[Tensor]) -> None:
    """Scale the last layer so that each function's linear map has a mean square gain of exactly 1."""
    inner, outer = weights[0], weights[-1]
    linear = inner if len(weights) == 1 else inner[:, :, ::2] @ outer[:, ::2]  # one unit of each mirrored pair
    outer *= (linear.shape[1] / linear.square().sum((1, 2), keepdim=True)).sqrt()
