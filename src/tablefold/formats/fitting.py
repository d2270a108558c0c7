"""Trained values in few bits: masters whose codes and scales have the least error.

A format computes a block's scale from its master. What nobody trains through the codes (Choi and others, LSQ; here:
values that are trained already) fares better with another scale: in four bits a smaller one that clips the outliers, in
two bits a larger one. These functions find the scale of least error and a master that gives it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tablefold.formats.codes import Codes
from tablefold.formats.format import BLOCK, Format

_PIECE = 1 << 22

_CLIPPED = tuple(1 - 0.05 * step for step in range(11))
_RAISED = tuple(0.8 + 0.1 * step for step in range(11))


def fitted(
    values: Float[Tensor, "rows width"], kept: Format, weights: Float[Tensor, " rows"] | None = None
) -> Float[Tensor, "rows width"]:
    """A master for `values`: what a format reads of it has, block by block, the least weighted squared error found.

    Args:
        values: float32.
        kept: the format.
        weights: how much each row counts; all alike unless given.

    >>> import torch
    >>> from tablefold.formats import INT2
    >>> values = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    >>> plain, best = ((INT2.read(each) - values).square().mean() for each in (values, fitted(values, INT2)))
    >>> round(float(plain), 2), round(float(best), 2)
    (0.13, 0.11)
    """
    if not isinstance(kept, Codes) or kept.bits >= 8:  # eight bits lose next to nothing
        return values.clone()
    rows, width = values.shape
    step = max(BLOCK, _PIECE // width // BLOCK * BLOCK)  # whole blocks
    master = torch.empty_like(values)
    for first in range(0, rows, step):
        part = values[first : first + step]
        own = None if weights is None else weights[first : first + step]
        master[first : first + step] = _fitted(part, kept, own)
    return master


def _fitted(values: Tensor, kept: Codes, weights: Tensor | None) -> Tensor:
    best, least = values.clone(), _costs(values, values, kept, weights)
    for factor in _CLIPPED if kept.statistic == "max" else _RAISED:
        candidate = _clipped(values, factor) if kept.statistic == "max" else _raised(values, factor)
        costs = _costs(candidate, values, kept, weights)
        better = (costs < least).repeat_interleave(BLOCK)[: values.numel()].view_as(values)
        best, least = torch.where(better, candidate, best), torch.minimum(costs, least)
    return best


def _costs(master: Tensor, values: Tensor, kept: Codes, weights: Tensor | None) -> Float[Tensor, " blocks"]:
    errors = (kept.read(master) - values).square()
    return _by_block(errors if weights is None else errors * weights[:, None]).sum(dim=1)


def _clipped(values: Tensor, factor: float) -> Tensor:
    """Every block cut at a part of its largest magnitude, and so its scale."""
    blocks = _by_block(values)
    bound = factor * blocks.abs().amax(dim=1, keepdim=True)
    return _flat(blocks.clamp(-bound, bound), values)


def _raised(values: Tensor, factor: float) -> Tensor:
    """Every block with a multiple of its mean magnitude: what lies beyond the mean wanted is moved out, where it makes
    no difference to its code."""
    blocks = _by_block(values)
    magnitudes = blocks.abs()
    counts = torch.full_like(magnitudes[:, :1], BLOCK)
    counts[-1] = (values.numel() - 1) % BLOCK + 1
    scale = factor * magnitudes.sum(dim=1, keepdim=True) / counts
    outer = torch.where(magnitudes >= scale, magnitudes, 0.0)
    stretch = (counts * scale - (magnitudes - outer).sum(dim=1, keepdim=True)) / outer.sum(dim=1, keepdim=True)
    stretch = torch.nan_to_num(stretch, nan=1.0, posinf=1.0, neginf=1.0).clamp(min=0.0)
    return _flat(torch.where(outer > 0, torch.sign(blocks) * torch.maximum(outer * stretch, scale), blocks), values)


def _by_block(values: Tensor) -> Float[Tensor, "blocks 32"]:
    flat = values.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)


def _flat(blocks: Tensor, values: Tensor) -> Tensor:
    return blocks.reshape(-1)[: values.numel()].view_as(values)
