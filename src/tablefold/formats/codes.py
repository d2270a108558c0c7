"""Codes: integers of a few bits, a scale of one byte for every 32 of them.

For a block w of 32 consecutive floats and b bits, with s(w) the block's scale:

    code(w_i) = clamp(floor(w_i / s + 2^(b-1)), 0, 2^b - 1),    read(w_i) = (code(w_i) - (2^b - 1) / 2) * s

The levels lie half a step to both sides of zero: +-.5 s, +-1.5 s for two bits. The scale is `factor` times the mean (or
the largest) magnitude of the block, rounded to a positive number of 5 exponent and 3 significant bits: a power of
two would be off by up to 41 %, this is by 6 %, and 16 bits would make two-bit memory 11 % larger.

A packed block is its scale's byte and then the codes, the first in the lowest bits: 9, 17 or 33 bytes on one or two
cache lines. What is not a finite number in a master, or too large, makes its whole block NaN.

Every step is exact or rounded as IEEE 754 says, and the mean is summed in one order (halves onto halves), so that every
implementation gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.formats.format import BLOCK, Format
from tablefold.formats.pages import in_large_pages

SCALE_SHIFT = 20
"""Bits of a float32 that a scale drops: all but its exponent and 3 bits."""

SCALE_LEAST = (127 - 24) << 3
"""What is left of 2^-24, the smallest scale."""

INFINITE = 0x7F800000
"""The bits of an infinite float32; those of what is no number are larger."""

SCALE_NAN = 255
"""The scale's byte where the block is not finite."""


@dataclass(frozen=True)
class Codes(Format):
    """Integers of a few bits with a scale for every 32 of them.

    Args:
        statistic: of a block's magnitudes: their mean or their maximum.
        factor: the scale, as a multiple of it.
    """

    statistic: Literal["mean", "max"]
    factor: float

    @property
    def record(self) -> int:
        """Bytes of a packed block: its scale and its codes."""
        return 1 + self.bits * BLOCK // 8

    def num_bytes(self, floats: int) -> int:
        """A packed block for each 32 floats, the last one whole."""
        return -(-floats // BLOCK) * self.record

    def packed_like(self, rows: int, width: int) -> Tensor:
        """uint8 `[blocks, bytes of a packed block]`."""
        return torch.empty(-(-rows * width // BLOCK), self.record, dtype=torch.uint8, device="meta")

    def encode(self, memory: Float[Tensor, "rows width"]) -> Tensor:
        """The packed blocks of a float32 master, a stretch at a time."""
        flat, packed = memory.reshape(-1), in_large_pages(self.packed_like(*memory.shape), memory.device)
        for first in range(0, len(packed), _STRETCH):
            part = flat[first * BLOCK : (first + _STRETCH) * BLOCK]
            packed[first : first + _STRETCH] = self._packed(part)
        return packed

    def _packed(self, flat: Float[Tensor, " floats"]) -> Tensor:
        blocks = _blocks(flat)
        scale = self._scale_bytes(blocks, flat.numel())
        codes = self._codes(blocks, _scales(scale))
        per_byte = 8 // self.bits
        shifts = self.bits * torch.arange(per_byte, device=codes.device)
        return torch.cat([scale[:, None], (codes.view(len(codes), -1, per_byte) << shifts).sum(-1)], dim=1)

    def decode(self, packed: Tensor, places: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The float32 at some places."""
        block, bit = places // BLOCK, places % BLOCK * self.bits
        scale = _scales(packed[block, 0].to(torch.int32))
        powers = torch.tensor([1 << shift for shift in range(8)], device=packed.device)  # ONNX shifts no signed words
        code = packed[block, 1 + bit // 8] // powers[bit % 8] % (1 << self.bits)
        return self._level(code, scale)

    def read(self, memory: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """What the packed blocks would give."""
        blocks = _blocks(memory.detach())
        scales = _scales(self._scale_bytes(blocks, memory.numel()))
        levels = self._level(self._codes(blocks, scales), scales[:, None])
        return levels.reshape(-1)[: memory.numel()].view_as(memory) + (memory - memory.detach())

    def _level(self, code: Tensor, scale: Tensor) -> Tensor:
        return (code.to(torch.float32) - ((1 << self.bits) - 1) / 2) * scale

    def _codes(self, blocks: Tensor, scales: Tensor) -> Tensor:
        most = (1 << self.bits) - 1
        steps = torch.floor(blocks / scales[:, None] + (1 << self.bits - 1))
        return torch.nan_to_num(steps, nan=0.0).clamp(0, most).to(torch.int32)

    def _scale_bytes(self, blocks: Tensor, floats: int) -> Tensor:
        """int32 `[blocks]`, 0 .. 255."""
        magnitudes = blocks.abs()
        halves = BLOCK // 2
        while halves:  # halves onto halves: the order that every implementation sums in
            left, right = magnitudes[:, :halves], magnitudes[:, halves:]
            magnitudes = left + right if self.statistic == "mean" else torch.maximum(left, right)
            halves //= 2
        found = magnitudes[:, 0]
        if self.statistic == "mean":
            counts = torch.full_like(found, BLOCK)
            counts[-1:] = (floats - 1) % BLOCK + 1
            found = found / counts
        exact = found * torch.tensor(self.factor, dtype=torch.float32, device=found.device)
        powers = torch.tensor(_SCALES[:SCALE_NAN:8], dtype=torch.float32, device=exact.device)
        power = ((exact[:, None] >= powers).sum(1) - 1).clamp(min=0)
        code = 8 * power + torch.floor(exact / powers[power] * 8 + 0.5) - 8
        return torch.nan_to_num(code, nan=SCALE_NAN).clamp(0, SCALE_NAN).to(torch.int32)


def _blocks(memory: Tensor) -> Float[Tensor, "blocks 32"]:
    flat = memory.reshape(-1)
    return F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)


_STRETCH = 1 << 16  # blocks that are packed at a time: what that takes on the way stays below 100 MB

_SCALES = [2.0 ** ((byte >> 3) - 24) * (1 + byte % 8 / 8) for byte in range(SCALE_NAN)] + [math.nan]
"""By their bytes."""


def _scales(scale_bytes: Tensor) -> Tensor:
    """The scales, float32, that bytes stand for."""
    return torch.tensor(_SCALES, dtype=torch.float32, device=scale_bytes.device)[scale_bytes.long()]
