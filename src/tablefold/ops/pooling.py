"""Bags: vectors pooled by where each bag begins, as `torch.nn.EmbeddingBag` does, after they were composed."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

PoolMode = Literal["sum", "mean", "max"]
"""How the vectors of a bag become one."""


def pool(
    vectors: Float[Tensor, "ids features dim"],
    offsets: Int[Tensor, " bags"],
    mode: PoolMode = "sum",
    weights: Float[Tensor, " ids"] | None = None,
) -> Float[Tensor, "bags features dim"]:
    """The sum, mean or elementwise maximum of each bag's vectors; zeros for an empty bag.

    Args:
        vectors: of all bags, one after the other.
        offsets: index of each bag's first vector; the first is 0.
        mode: `sum`, `mean` or `max`.
        weights: a factor per vector, for `sum` only.

    Raises:
        ValueError: for another mode, for offsets that do not begin with 0, fall or pass the end, for weights that
            do not fit.
    """
    check(vectors.shape[0], offsets, mode, weights)
    sizes = torch.diff(offsets, append=offsets.new_tensor([vectors.shape[0]]))
    bag = torch.repeat_interleave(torch.arange(offsets.shape[0], device=offsets.device), sizes)
    if weights is not None:
        vectors = vectors * weights[:, None, None]
    shape = (offsets.shape[0], *vectors.shape[1:])
    if mode == "max":
        # A start of 0 would, left out of the maximum, still take half the gradient of vectors that are 0 themselves.
        lowest = vectors.new_full(shape, -torch.inf)
        most = lowest.scatter_reduce(0, bag[:, None, None].expand_as(vectors), vectors, "amax")
        return torch.where((sizes == 0)[:, None, None], 0, most)
    pooled = vectors.new_zeros(shape).index_add(0, bag, vectors)
    return pooled / sizes.clamp(min=1)[:, None, None] if mode == "mean" else pooled


def check(ids: int, offsets: Tensor, mode: str, weights: Tensor | None) -> None:
    """Refuse offsets and weights that do not fit so many ids; see `pool`."""
    if mode not in get_args(PoolMode):
        raise ValueError(f"mode={mode!r} must be one of {', '.join(get_args(PoolMode))}")
    if weights is not None and mode != "sum":
        raise ValueError(f"per-sample weights are for mode='sum' only; got mode={mode!r}")
    if weights is not None and weights.shape != (ids,):
        raise ValueError(f"{ids} ids need as many per-sample weights; got {list(weights.shape)}")
    if offsets.ndim != 1 or offsets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"offsets must be 1-D int64 or int32; got {offsets.dtype} {list(offsets.shape)}")
    if offsets.shape[0] and (int(offsets[0]) != 0 or bool((torch.diff(offsets) < 0).any())):
        raise ValueError(f"offsets must begin with 0 and never fall; got {offsets.tolist()[:8]}...")
    last = int(offsets[-1]) if offsets.shape[0] else 0
    if last > ids or (not offsets.shape[0] and ids):
        raise ValueError(f"offsets must cover the {ids} ids; the last bag begins at {last}")
