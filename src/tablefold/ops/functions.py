"""Many small functions of vectors, each vector sent through the one its bucket names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

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

    first: Tensor

    def __init__(self, num_buckets: Sequence[int], dim: int, hidden: int | None, seed: int) -> None:
        super().__init__()
        starts = torch.tensor([0, *num_buckets[:-1]]).cumsum(0)
        self.register_buffer("first", starts, persistent=False)
        count = sum(num_buckets)
        generator = torch.Generator().manual_seed(seed)
        widths = [(dim, dim)] if hidden is None else [(dim, hidden), (hidden, dim)]
        weights = [_start(count, rows, columns, generator) for rows, columns in widths]
        if hidden is not None:
            _mirror(*weights)
        _keep_length(weights)
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(count, columns)) for _, columns in widths)

    def forward(
        self, vectors: Float[Tensor, "batch columns dim"], buckets: Int64[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch columns dim"]:
        """Each vector's value under its function."""
        function = (buckets + self.first).flatten()
        flat = vectors.reshape(-1, vectors.shape[-1])
        # Blocks depend on the data, which a tracer cannot follow.
        compute = self.one_by_one if torch.compiler.is_compiling() else self.in_blocks
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


def _start(count: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random matrices `[count, rows, columns]` that keep the variance of what they multiply."""
    bound = (3 / rows) ** 0.5  # a uniform distribution of variance 1/rows
    return torch.empty(count, rows, columns).uniform_(-bound, bound, generator=generator)


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
