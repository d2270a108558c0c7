"""Bags of every table at once: what they mean in plain torch, and the call of their kernel.

Vectors are composed, then pooled. The kernel composes and sums in tiles that fit the cache; what is not for it is done
in plain torch: maxima, weights that learn, other devices, recorded programs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.ops import cpu
from tablefold.ops.backends import is_fused, is_plain, is_recorded
from tablefold.ops.gather import Memory, Sparse, by_reference, paired, read_type
from tablefold.ops.program import Program

PoolMode = Literal["sum", "mean", "max"]
"""How the vectors of a bag become one."""

_INTEGERS = (torch.int64, torch.int32)


def pool(
    vectors: Float[Tensor, "ids features dim"],
    offsets: Int[Tensor, " bags"],
    mode: PoolMode = "sum",
    weights: Float[Tensor, " ids"] | None = None,
    counted: Tensor | None = None,
) -> Float[Tensor, "bags features dim"]:
    """The sum, mean or elementwise maximum of each bag's vectors; zeros for an empty bag.

    Args:
        vectors: of all bags, one after the other.
        offsets: index of each bag's first vector; the first is 0.
        mode: `sum`, `mean` or `max`.
        weights: a factor per vector, for `sum` only.
        counted: bool `[ids]`, False for vectors that count for nothing; None where all count.

    Raises:
        ValueError: for another mode, for offsets that do not begin with 0, fall or pass the end, for weights that
            do not fit. (A recorded program cannot look at its offsets: whoever runs it sees to them.)
    """
    check(vectors.shape[0], offsets, mode, weights)
    count, bags = vectors.shape[0], offsets.shape[0]
    begins = offsets.to(torch.int64)
    marks = begins.new_zeros(count + 1).scatter_add(0, begins, torch.ones_like(begins))
    bag = marks.cumsum(0)[:count] - 1
    there = torch.ones_like(bag) if counted is None else counted.to(torch.int64)
    sizes = begins.new_zeros(bags).scatter_add(0, bag, there)
    if weights is not None:
        vectors = vectors * weights[:, None, None]
    place = bag[:, None, None].expand_as(vectors)
    shape = (bags, *vectors.shape[1:])
    if mode == "max":
        if counted is not None:
            vectors = torch.where(counted[:, None, None], vectors, -torch.inf)
        # A start of 0 would, left out of the maximum, still take half the gradient of vectors that are 0 themselves.
        most = vectors.new_full(shape, -torch.inf).scatter_reduce(0, place, vectors, "amax")
        return torch.where((sizes == 0)[:, None, None], 0, most)
    if counted is not None:
        vectors = torch.where(counted[:, None, None], vectors, 0)
    pooled = vectors.new_zeros(shape).scatter_add(0, place, vectors)
    return pooled / sizes.clamp(min=1)[:, None, None] if mode == "mean" else pooled


def check(ids: int, offsets: Tensor, mode: str, weights: Tensor | None) -> None:
    """Refuse offsets and weights that do not fit so many ids; see `pool`."""
    if mode not in get_args(PoolMode):
        raise ValueError(f"mode={mode!r} must be one of {', '.join(get_args(PoolMode))}")
    if weights is not None and mode != "sum":
        raise ValueError(f"per-sample weights are for mode='sum' only; got mode={mode!r}")
    if weights is not None and weights.shape != (ids,):
        raise ValueError(f"{ids} ids need as many per-sample weights; got {list(weights.shape)}")
    if offsets.ndim != 1 or offsets.dtype not in _INTEGERS:
        raise ValueError(f"offsets must be 1-D int64 or int32; got {offsets.dtype} {list(offsets.shape)}")
    if is_recorded():
        return
    if offsets.shape[0] and (int(offsets[0]) != 0 or bool((torch.diff(offsets) < 0).any())):
        raise ValueError(f"offsets must begin with 0 and never fall; got {offsets.tolist()[:8]}...")
    last = int(offsets[-1]) if offsets.shape[0] else 0
    if last > ids or (not offsets.shape[0] and ids):
        raise ValueError(f"offsets must cover the {ids} ids; the last bag begins at {last}")


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
    begins = None if is_recorded() else _stacked(values, offsets)
    if begins is None or weights is not None or mode not in ("sum", "mean", "max"):
        for column, (ids, own) in enumerate(zip(values, offsets, strict=True)):
            check(ids.shape[0], own, mode, None if weights is None else weights[column])
        if any(own.shape[0] != offsets[0].shape[0] for own in offsets):
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


def pool_composed(
    compose: Callable[[Tensor], Tensor],
    features: Sequence[int],
    values: Sequence[Tensor],
    offsets: Sequence[Tensor],
    mode: PoolMode,
    weights: Sequence[Tensor] | None = None,
    counted: Sequence[Tensor] | None = None,
) -> Float[Tensor, "bags features dim"]:
    """What bags mean: the vectors of all ids first, then pooled.

    Args:
        compose: the vectors `[batch, features, dim]` of ids `[batch, tables]`.
        features: of each table.
        values, offsets, weights: for each table, as `EmbeddingGroup.pool` takes them.
        mode: `sum`, `mean` or `max`.
        counted: for each table, as `pool` takes it.
    """
    longest = reduce(torch.sym_max, [ids.shape[0] for ids in values])
    columns = [F.pad(ids.to(torch.int64), (0, longest - ids.shape[0])) for ids in values]
    vectors = compose(torch.stack(columns, dim=1))
    pooled = []
    for column, part in enumerate(torch.split(vectors, list(features), dim=1)):
        table_weights = None if weights is None else weights[column]
        table_counted = None if counted is None else counted[column]
        pooled.append(pool(part[: values[column].shape[0]], offsets[column], mode, table_weights, table_counted))
    return torch.cat(pooled, dim=1)


def can_pool(
    program: Program, memory: Memory, values: Sequence[Tensor], mode: PoolMode, weights: Sequence[Tensor] | None
) -> bool:
    """Whether the kernel pools: sums and means of plain tensors on a CPU, weights that learn nothing."""
    if mode == "max" or any(weight.requires_grad for weight in weights or ()):
        return False
    return is_fused(memory, program.packed) and is_plain(*memory, *values, *(weights or ()))


def pool_bags(
    program: Program,
    memory: Memory,
    lookup: Tensor | None,
    edges: Tensor | None,
    values: Sequence[Tensor],
    offsets: Int64[Tensor, "tables bags"],
    mode: PoolMode,
    weights: Sequence[Tensor] | None,
    sparse: Sparse,
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
        offsets.contiguous(),
        None if weights is None else torch.cat([weight.to(read_type(memory)) for weight in weights]),
    )
    if torch.is_grad_enabled() and any(array.requires_grad for array in memory):
        work = (program, bags, program.by_row(sparse), lookup, edges, bags.weights)
        sums: Tensor = _Pooled.apply(*work, *bags.ids, *memory)  # type: ignore[no-untyped-call]
    else:
        sums = cpu.pool(memory, lookup, bags, program, edges)
    if mode == "sum":
        return sums
    table_of = program.reference.table_of(sums.device)
    return sums / bags.sizes.clamp(min=1).t()[:, table_of, None]


class _Pooled(torch.autograd.Function):
    """Weighted sums of composed vectors. Ids are arguments, so that torch notices when they change before backward."""

    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        bags: cpu.Bags,
        sparse: Sparse,
        lookup: Tensor | None,
        edges: Tensor | None,
        weights: Tensor | None,
        *ids_and_memory: Tensor,
    ) -> Tensor:
        memory = ids_and_memory[len(bags.ids) :]
        ctx.save_for_backward(lookup, edges, weights, *ids_and_memory)
        ctx.program, ctx.bags, ctx.sparse = program, bags, sparse
        return cpu.pool(memory, lookup, bags, program, edges)

    @staticmethod
    def backward(ctx: Any, sums: Tensor) -> tuple[Tensor | None, ...]:
        lookup, edges, _, *ids_and_memory = ctx.saved_tensors
        memory = ids_and_memory[len(ctx.bags.ids) :]
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            found = _differentiable(ctx.program, sums, memory, lookup, edges, ctx.bags)
        else:
            given = cpu.gradients(sums, memory, lookup, ctx.bags, ctx.program, ctx.sparse, edges)
            found = paired(given, memory, ctx.sparse)
        return (None,) * (6 + len(ctx.bags.ids)) + tuple(found)


def _differentiable(
    program: Program, sums: Tensor, memory: Memory, lookup: Tensor | None, edges: Tensor | None, bags: cpu.Bags
) -> list[Tensor | None]:
    """The gradient of memory as a function of memory and of the sums' gradient."""
    counts = [ids.shape[0] for ids in bags.ids]
    weights = None if bags.weights is None else torch.split(bags.weights, counts)
    pooled = pool_composed(
        lambda ids: program.reference(memory, lookup, ids, edges),
        program.address_map.features,
        bags.ids,
        list(bags.offsets),
        "sum",
        weights,
    )
    return by_reference(pooled, memory, sums)
