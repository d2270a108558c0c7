"""Rounding on a CPU: block by block, in one pass over what is rounded."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tablefold.compilation import part
from tablefold.ops.kernels.lanes import (
    fetch_add,
    make_kernel,
    pointer_int32,
    pointer_int64,
    prefetch_write,
)
from tablefold.ops.kernels.places import mix
from tablefold.ops.rounding import AHEAD, BLOCK, CHANCE_BITS, LARGEST_HALF, LARGEST_INTEGER, RoundArguments

CHANCES = 1 << CHANCE_BITS


@intrinsic
def float_of(_context, bits):
    """The float32 of an int32's bits."""

    def generate(_target, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def bits_of(_context, number):
    """The bits of a float32 as an int32."""

    def generate(_target, builder, _signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@part
def round_stretches(arguments, memory):
    """Take stretches of rows, or of blocks, until none is left. A block belongs to the first of the rows it holds."""
    count, width, rows = arguments.count, arguments.width, pointer_int64(arguments.rows)
    changed = 0
    while True:
        begin = arguments.stretch * fetch_add(arguments, "next", 1)
        if begin >= count:
            fetch_add(arguments, "changed", changed)
            return
        for i in range(begin, min(begin + arguments.stretch, count)):
            first = last = i
            if arguments.rows:
                if i + AHEAD < count:
                    prefetch_write(memory, rows[i + AHEAD] * width)
                first, last = rows[i] * width // BLOCK, (rows[i] * width + width - 1) // BLOCK
                if i:
                    first = max(first, (rows[i - 1] * width + width - 1) // BLOCK + 1)
            for block in range(first, last + 1):
                changed += _round_block(arguments, memory, block * BLOCK)


@part
def _round_block(arguments, memory, begin):
    """Round the block that begins at a float; how many of its floats moved."""
    end = min(begin + BLOCK, arguments.floats)
    if arguments.fraction:
        return _round_halves(memory, begin, end, arguments.fraction, arguments.smallest, arguments.key)
    return _round_integers(memory, pointer_int32(arguments.memory), begin, end, arguments.key)


@part
def _rounded(value, inverse, step, limit, place, key):
    """`value / step`, rounded by chance, within +-limit, times `step`."""
    word = mix(place >> 2, key) >> (16 * (place & 3))
    chance = (types.float32(word & (CHANCES - 1)) + types.float32(0.5)) * types.float32(1.0 / CHANCES)
    number = min(max(value * inverse, -limit), limit) + chance
    whole = types.float32(types.int32(number))
    if whole > number:  # a conversion rounds towards zero
        whole -= types.float32(1)
    return whole * step


@part
def _round_integers(memory, bits, begin, end, key):
    most = types.int32(0)
    for i in range(begin, end):
        most = max(most, bits[i] & types.int32(0x7FFFFFFF))
    share = bits_of(float_of(most) / types.float32(LARGEST_INTEGER))
    exponent = (share >> 23) - 126 - (1 if share & 0x7FFFFF == 0 else 0)
    exponent = min(max(exponent, -126), 120)
    step, inverse = float_of(types.int32((127 + exponent) << 23)), float_of(types.int32((127 - exponent) << 23))
    changed = 0
    for i in range(begin, end):
        rounded = _rounded(memory[i], inverse, step, types.float32(LARGEST_INTEGER), i, key)
        changed += rounded != memory[i]
        if memory[i] == memory[i]:  # what is not a number stays so
            memory[i] = rounded
    return changed


@part
def _round_halves(memory, begin, end, fraction, smallest, key):
    changed = 0
    for i in range(begin, end):
        exponent = ((bits_of(memory[i]) >> 23) & 0xFF) - 127
        exponent = max(max(exponent, smallest) - fraction, -126)
        step, inverse = float_of(types.int32((127 + exponent) << 23)), float_of(types.int32((127 - exponent) << 23))
        rounded = _rounded(memory[i], inverse, step, types.float32(1 << 12), i, key)
        if fraction == 10:
            rounded = min(max(rounded, types.float32(-LARGEST_HALF)), types.float32(LARGEST_HALF))
        changed += rounded != memory[i]
        if memory[i] == memory[i]:
            memory[i] = rounded
    return changed


round_kernel = make_kernel(round_stretches, RoundArguments, ("float32",))
