"""Bags of every table at once: checked together, then composed and summed by one kernel, in tiles that fit the cache.

`tablefold.ops.pooling` says what a bag means; what is not for the kernel goes that way.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from tablefold.ops import cpu, pooling
from tablefold.ops.backends import is_fused, is_plain
from tablefold.ops.gather import Gather, cpu_gradient
from tablefold.ops.pooling import PoolMode

_INTEGERS = (torch.int64, torch.int32)


def check_bags(
    values: Sequence[Tensor], offsets: Sequence[Tensor], mode: PoolMode, weights: Sequence[Tensor] | None
) -> Int64[Tensor, "tables bags"]:
    """The offsets of all tables. What is no list of bags per table, equally many for all, is refused.

    Raises:
        ValueError: that says what does not fit.
    """
    for ids in values:
        if ids.ndim != 1 or ids.dtype not in _INTEGERS:
            raise ValueError(f"a table's ids must be 1-D int64 or int32; got {ids.dtype} {list(ids.shape)}")
    begins = _stacked(values, offsets)
    if begins is None or weights is not None or mode not in ("sum", "mean", "max"):
        for column, (ids, own) in enumerate(zip(values, offsets, strict=True)):
            pooling.check(ids.shape[0], own, mode, None if weights is None else weights[column])
        if len({own.shape for own in offsets}) > 1:
            raise ValueError(f"all tables need equally many bags; got {[own.shape[0] for own in offsets]}")
        begins = torch.stack([own.to(torch.int64) for own in offsets])
    return begins


def _stacked(values: Sequence[Tensor], offsets: Sequence[Tensor]) -> Tensor | None:
    """The offsets of all tables if they are right; found out at once, where to look at each table would take as long
    as its bags."""
    first = offsets[0]
    alike = all(own.shape == first.shape and own.dtype == first.dtype for own in offsets)
    if not alike or first.dtype not in _INTEGERS or first.ndim != 1 or not first.shape[0]:
        return None
    begins = torch.stack(list(offsets)).to(torch.int64)
    sizes = [ids.shape[0] for ids in values]
    if any(begins[:, 0].tolist()) or any(map(operator.gt, begins[:, -1].tolist(), sizes)):
        return None
    return None if bool((begins[:, 1:] < begins[:, :-1]).any()) else begins


def can_pool(memory: Tensor, values: Sequence[Tensor], mode: PoolMode, weights: Sequence[Tensor] | None) -> bool:
    """Whether the kernel pools: sums and means of plain tensors on a CPU, weights that learn nothing."""
    if mode == "max" or any(weight.requires_grad for weight in weights or ()):
        return False
    return is_fused(memory) and is_plain(memory, *values, *(weights or ()))


def pool_bags(
    gather: Gather,
    memory: Tensor,
    lookup: Tensor | None,
    values: Sequence[Tensor],
    offsets: Int64[Tensor, "tables bags"],
    mode: PoolMode,
    weights: Sequence[Tensor] | None,
) -> Float[Tensor, "bags features dim"]:
    """The sum or mean of each bag's vectors, of bags that `check_bags` let pass and memory that `can_pool` did.

    Raises:
        WildIdError: for an id outside its table; its example counts the table's ids.
    """
    kinds = {ids.dtype for ids in values}
    if len(kinds) > 1:
        values = [ids.to(torch.int64) for ids in values]
    bags = cpu.Bags(
        tuple(ids.contiguous() for ids in values),
        offsets,
        None if weights is None else torch.cat([weight.to(memory.dtype) for weight in weights]),
    )
    sums: Tensor = _Pooled.apply(memory, lookup, bags, gather)  # type: ignore[no-untyped-call]
    if mode == "sum":
        return sums
    return sums / bags.sizes.clamp(min=1).t()[:, gather.table_of, None]


class _Pooled(torch.autograd.Function):
    """Weighted sums of composed vectors."""

    @staticmethod
    def forward(ctx: Any, memory: Tensor, lookup: Tensor | None, bags: cpu.Bags, gather: Gather) -> Tensor:
        ctx.save_for_backward(memory, lookup)
        ctx.bags, ctx.program, ctx.rows = bags, gather.program, gather.gives_rows(memory)
        return cpu.pool(memory, lookup, bags, gather.program, gather.features, gather.dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, sums: Tensor) -> tuple[Tensor, None, None, None]:
        memory, lookup = ctx.saved_tensors
        return cpu_gradient(ctx.rows, sums, memory, lookup, ctx.bags, ctx.program), None, None, None
