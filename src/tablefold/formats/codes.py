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

from tablefold.formats.format import BLOCK, Answer, Format, replaced
from tablefold.formats.pages import in_large_pages

SCALE_SHIFT = 20
"""Bits of a float32 that a scale drops: all but its exponent and 3 bits."""

SCALE_LEAST = (127 - 24) << 3
"""What is left of 2^-24, the smallest scale."""

INFINITE = 0x7F800000
"""The bits of an infinite float32; those of what is no number are larger."""

SCALE_NAN = 255
"""The scale's byte where the block is not finite."""

SCALE_ZERO = 256
"""No byte: what an exported program looks up for a row of zeros."""


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
        scale = self._scales_of_blocks(blocks, flat.numel())
        codes = self._codes(blocks, scales_of(scale))
        per_byte = 8 // self.bits
        shifts = self.bits * torch.arange(per_byte, device=codes.device)
        return torch.cat([scale[:, None], (codes.view(len(codes), -1, per_byte) << shifts).sum(-1)], dim=1)

    def decode(self, packed: Tensor, places: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The float32 at some places."""
        block, bit = places // BLOCK, places % BLOCK * self.bits
        scale = scales_of(packed[block, 0].to(torch.int32))
        powers = torch.tensor([1 << shift for shift in range(8)], device=packed.device)  # ONNX shifts no signed words
        code = packed[block, 1 + bit // 8] // powers[bit % 8] % (1 << self.bits)
        return self._level(code, scale)

    def master(self, packed: Tensor, rows: int, width: int) -> Float[Tensor, "rows width"]:
        """What is read, but for the largest of each block: they lie where the scale comes out as it was, within the
        reach of their codes. (What is read has another mean or maximum, so packing it again would shrink it.)"""
        floats = rows * width
        master = in_large_pages(torch.empty(rows, width, dtype=torch.float32, device="meta"), packed.device).view(-1)
        for first in range(0, len(packed), _STRETCH):
            places = torch.arange(first * BLOCK, min(floats, (first + _STRETCH) * BLOCK), device=packed.device)
            read, part = self.decode(packed, places), packed[first : first + _STRETCH]
            master[places] = self._restored(read, scales_of(part[:, 0])[:, None])
        return master.view(rows, width)

    def _restored(self, read: Tensor, scales: Tensor) -> Tensor:
        """The masters of what is read of some blocks, float32 `[floats]`."""
        blocks = _blocks(read)
        magnitudes, top, wanted = blocks.abs(), ((1 << self.bits) - 1) / 2 * scales, scales / self.factor
        if self.statistic == "max":
            peak = magnitudes.amax(dim=1, keepdim=True)
            reach = (0.5 - _MARGIN) * scales
            moved = torch.minimum(torch.maximum(wanted, peak - reach), torch.where(peak < top, peak + reach, math.inf))
        else:
            peak, counts = top, torch.full_like(scales, BLOCK)
            counts[-1] = (read.numel() - 1) % BLOCK + 1
            at_top = magnitudes == top
            inner = torch.where(at_top, 0.0, magnitudes).sum(dim=1, keepdim=True)
            least = top - (0.5 - _MARGIN) * scales
            moved = torch.maximum((counts * wanted - inner) / at_top.sum(dim=1, keepdim=True), least)
        restored = torch.where((magnitudes == peak) & moved.isfinite(), torch.sign(blocks) * moved, blocks)
        return restored.view(-1)[: read.numel()]

    @property
    def answers_in_scales(self) -> bool:
        """A scale of NaN makes a row of NaN, one of 0 zeros."""
        return True

    def lower(self, packed: Tensor, rows: int, width: int) -> tuple[Tensor, ...]:
        """Bytes of rows `[rows, bytes]`, in which the k-th lanes of all bytes lie one after the other: they are taken
        apart by arithmetic on whole rows. A row carries its scales in front where that adds little to the array, since
        a second gather takes as long as the first; elsewhere the scales follow, `[blocks, 1]`.

        Rows that share bytes stay packed as they are.
        """
        if not self._has_own_bytes(width):
            return (packed,)
        scales, codes = packed[:, 0], packed[:, 1:].reshape(-1)[: rows * width * self.bits // 8].reshape(rows, -1)
        per_byte = 8 // self.bits
        shifts = torch.arange(0, 8, self.bits, dtype=torch.uint8, device=packed.device)
        lanes = ((codes[..., None] >> shifts) & ((1 << self.bits) - 1)).reshape(rows, per_byte, -1)
        codes = (lanes << shifts[:, None]).sum(1, dtype=torch.uint8)
        if not self._has_own_scales(width):
            return codes, scales[:, None].contiguous()
        first = torch.arange(rows, device=packed.device)[:, None] * width
        pieces = torch.arange(0, width, math.gcd(width, BLOCK), device=packed.device)
        return (torch.cat([scales[(first + pieces) // BLOCK], codes], dim=1),)

    def lowered_rows(
        self, kept: tuple[Tensor, ...], numbers: Int64[Tensor, "*shape"], width: int, answer: Answer | None
    ) -> Float[Tensor, "*shape width"]:
        """Codes as floats, which are exact and fast to take apart, times scales looked up by their bytes."""
        if not self._has_own_bytes(width):
            rows = self.decode(kept[0], numbers[..., None] * width + torch.arange(width, device=numbers.device))
            return replaced(rows, answer)
        lanes, pieces = math.gcd(width, BLOCK), width // math.gcd(width, BLOCK)
        codes = F.embedding(numbers, kept[0])
        if len(kept) == 1:
            scale, codes = codes[..., :pieces], codes[..., pieces:]
        else:
            places = numbers[..., None] * width + torch.arange(0, width, lanes, device=numbers.device)
            scale = F.embedding(torch.div(places, BLOCK, rounding_mode="trunc"), kept[1])[..., 0]
        index = scale.to(torch.int32)
        if pieces == 1:  # onnxruntime computes dimensions of size 1 ten times as slowly
            index = index.squeeze(-1)
        if answer is not None:  # the largest: it takes ten times as long to choose
            told = SCALE_NAN if math.isnan(answer[1]) else SCALE_ZERO
            index = torch.maximum(index, (answer[0] if pieces == 1 else answer[0][..., None]).to(torch.int32) * told)
        table = torch.tensor([*_SCALES, 0.0], dtype=torch.float32, device=numbers.device)
        scales = F.embedding(index, table[:, None].expand(-1, lanes))  # of every lane: to multiply alike is faster
        return self._levels(codes.to(torch.float32)) * (scales if pieces == 1 else scales.flatten(-2))

    def _levels(self, codes: Tensor) -> Tensor:
        """Lanes of bytes `[*shape, bytes]` as levels of scale 1."""
        lanes, most = [], 1 << self.bits
        for _ in range(8 // self.bits - 1):
            above = torch.floor(codes * (1 / most))
            lanes.append(codes - above * most)
            codes = above
        return torch.cat([*lanes, codes], dim=-1) - (most - 1) / 2

    def _has_own_bytes(self, width: int) -> bool:
        """Whether no two rows, and no two scales, share a byte of codes."""
        return math.gcd(width, BLOCK) * self.bits % 8 == 0

    def _has_own_scales(self, width: int) -> bool:
        """Whether each row can carry its scales: an array gets larger by one tenth at most."""
        alone = width // math.gcd(width, BLOCK) + width * self.bits / 8
        return alone <= 1.1 * width * self.record / BLOCK

    def read(self, memory: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """What the packed blocks would give."""
        blocks = _blocks(memory.detach())
        scales = scales_of(self._scales_of_blocks(blocks, memory.numel()))
        levels = self._level(self._codes(blocks, scales), scales[:, None])
        return levels.reshape(-1)[: memory.numel()].view_as(memory) + (memory - memory.detach())

    def _level(self, code: Tensor, scale: Tensor) -> Tensor:
        return (code.to(torch.float32) - ((1 << self.bits) - 1) / 2) * scale

    def _codes(self, blocks: Tensor, scales: Tensor) -> Tensor:
        most = (1 << self.bits) - 1
        steps = torch.floor(blocks / scales[:, None] + (1 << self.bits - 1))
        return torch.nan_to_num(steps, nan=0.0).clamp(0, most).to(torch.int32)

    def _scales_of_blocks(self, blocks: Tensor, floats: int) -> Tensor:
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
        return self.scale_bytes(found * torch.tensor(self.factor, dtype=torch.float32, device=found.device))

    def scale_bytes(self, exact: Float[Tensor, " blocks"]) -> Tensor:
        """The bytes of the scales that are nearest to some positive float32, int32 of the same shape."""
        powers = torch.tensor(_SCALES[:SCALE_NAN:8], dtype=torch.float32, device=exact.device)
        power = ((exact[:, None] >= powers).sum(1) - 1).clamp(min=0)
        code = 8 * power + torch.floor(exact / powers[power] * 8 + 0.5) - 8
        return torch.nan_to_num(code, nan=SCALE_NAN).clamp(0, SCALE_NAN).to(torch.int32)


_MARGIN = 2.0**-13
"""Of a step: what keeps a float within its code's reach, whatever is rounded on the way."""


def _blocks(memory: Tensor) -> Float[Tensor, "blocks 32"]:
    flat = memory.reshape(-1)
    return F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)


_STRETCH = 1 << 16  # blocks that are packed at a time: what that takes on the way stays below 100 MB

_SCALES = [2.0 ** ((byte >> 3) - 24) * (1 + byte % 8 / 8) for byte in range(SCALE_NAN)] + [math.nan]
"""By their bytes."""


def scales_of(scale_bytes: Tensor) -> Tensor:
    """The scales, float32, that bytes stand for."""
    return torch.tensor(_SCALES, dtype=torch.float32, device=scale_bytes.device)[scale_bytes.long()]
