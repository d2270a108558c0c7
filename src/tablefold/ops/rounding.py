"""Rounding memory at random to the grid of a format: what it means in plain torch, and the call of its compiled kernel.

A value v between two grid points, u below it and u + s above, becomes u + s with probability (v - u) / s: that is
u + s where (v - u) / s + c >= 1 for a chance c, uniform in (0, 1). On the grid v stays v. The chance of the float at
place i of memory is 12 bits of `mix64((i // 4) ^ key)`: it is the same on every device, whatever else is rounded.
"""

from __future__ import annotations

import ctypes

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.hashing import hash_id
from tablefold.ops.backends import is_fused
from tablefold.ops.cpu import kernel

BLOCK = 32
"""Consecutive floats of int8 memory that share a power of two."""

LARGEST_INTEGER = 127
LARGEST_HALF = 65_504.0

BITS = {"bf16": (7, -126), "fp16": (10, -14)}
"""Of the half precisions: bits of the fraction, smallest exponent of a normal number."""

CHANCE_BITS = 12
"""A sum of an integer of 11 bits and a chance of 12 is exact in float32."""

AHEAD = 8
"""So many rows ahead of the one in work, memory is asked for."""

_STRETCH = 256


class RoundArguments(ctypes.Structure):
    """What the kernel of rounding is given: the next task, `count` rows of `width` floats in tasks of `stretch`, those
    at the address `rows`, or without it all the blocks of the `floats` of memory; `fraction` 0 means int8; `changed`
    counts the floats that were not on the grid.
    """

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *(
                "next",
                "count",
                "stretch",
                "width",
                "floats",
                "memory",
                "rows",
                "fraction",
                "smallest",
                "key",
                "changed",
            ),
        )
    ]


def round_memory(memory: Tensor, rows: Tensor | None, storage: str, key: int) -> bool:
    """Round the blocks of memory that hold some of `rows` (ascending, none twice), or all, in place.

    Args:
        memory: `[rows, unit]`, contiguous.
        rows: int64; None for all.
        storage: "bf16", "fp16" or "int8".
        key: of the random draws; another one for each call.

    Returns:
        Whether any float was not on the grid.
    """
    if memory.is_cpu and memory.dtype == torch.float32 and is_fused(memory):
        return _round_compiled(memory, rows, storage, key)
    flat = memory.view(-1)
    blocks = torch.arange(-(-flat.numel() // BLOCK), device=memory.device)
    if rows is not None:
        blocks = blocks_of(rows, memory.shape[1])
    places = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=memory.device)
    there = places < flat.numel()
    before = F.embedding(places.clamp(max=flat.numel() - 1), flat[:, None]).squeeze(-1) * there
    after = round_at_random(before, storage, chances(places, key))
    flat[places[there]] = after[there]
    return not torch.equal(before, after)


def blocks_of(rows: Int64[Tensor, " rows"], width: int) -> Int64[Tensor, " blocks"]:
    """The blocks that hold floats of some rows of `width`, ascending."""
    first, last = rows * width // BLOCK, (rows * width + width - 1) // BLOCK
    reach = torch.arange(-(-width // BLOCK) + 1, device=rows.device)
    blocks: Tensor = torch.unique(torch.minimum(first[:, None] + reach, last[:, None]))
    return blocks


def chances(places: Int64[Tensor, "..."], key: int) -> Float[Tensor, "..."]:
    """The chances of the floats at `places`, in (0, 1)."""
    word = hash_id(places >> 2, key) >> (16 * (places & 3))
    return ((word & ((1 << CHANCE_BITS) - 1)).float() + 0.5) / (1 << CHANCE_BITS)


def round_at_random(
    values: Float[Tensor, "blocks block"], storage: str, chance: Float[Tensor, "blocks block"]
) -> Float[Tensor, "blocks block"]:
    """`values`, each on the grid of a format: itself, or one of its two neighbours."""
    step = grid_step(values, storage)
    number = torch.floor(values / step + chance)
    if storage == "int8":
        number.clamp_(-LARGEST_INTEGER, LARGEST_INTEGER)
    rounded = number * step
    return rounded.clamp_(-LARGEST_HALF, LARGEST_HALF) if storage == "fp16" else rounded


def grid_step(values: Float[Tensor, "blocks block"], storage: str) -> Tensor:
    """The distance of grid points around each value (int8: of each block, `[blocks, 1]`), a power of two."""
    if storage == "int8":
        share, exponent = torch.frexp(values.abs().amax(dim=-1, keepdim=True) / LARGEST_INTEGER)
        exponent = (exponent - (share == 0.5).to(exponent.dtype)).clamp_(-126, 120)
    else:
        fraction, smallest = BITS[storage]
        exponent = (torch.frexp(values).exponent - 1).clamp_(min=smallest) - fraction
        exponent.clamp_(min=-126)
    return power_of_two(exponent)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent for exponents of normal float32 numbers, by their bits: exact on every device."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def _round_compiled(memory: Tensor, rows: Tensor | None, storage: str, key: int) -> bool:
    fraction, smallest = BITS.get(storage, (0, 0))
    count, address = -(-memory.numel() // BLOCK), 0
    if rows is not None:
        rows = rows.contiguous()  # kept until the kernel has read it
        count, address = rows.shape[0], rows.data_ptr()
    fixed = (0, count, _STRETCH, memory.shape[1], memory.numel(), memory.data_ptr(), address)
    arguments = RoundArguments(*fixed, fraction, smallest, key, 0)
    kernel("grids", "round")(arguments, memory.dtype, -(-count // _STRETCH))
    if arguments.changed and not memory.is_inference():
        torch.autograd.graph.increment_version(memory)
    return bool(arguments.changed)
