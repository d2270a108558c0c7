"""Rounding on a CPU: block by block, in one pass over what is rounded."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

from tablefold.ops import rounding as r
from tablefold.ops.numba_gather import SIGNATURE
from tablefold.ops.numba_places import mix
from tablefold.ops.numba_rows import (
    compiled,
    fetch_add,
    inlined,
    pointer_float32,
    pointer_int32,
    pointer_int64,
    prefetch_write,
)

CHANCES = 1 << r.CHANCE_BITS


def kernel(_dtype, version):
    """The address of the compiled kernel; `version` keeps the disk cache from serving code of older sources."""

    @cfunc(SIGNATURE, cache=True)
    def float32(arguments):
        if version:
            round_stretches(arguments)

    return float32.address


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


@inlined
def round_stretches(arguments):
    """Take stretches of rows, or of blocks, until none is left. A block belongs to the first of the rows it holds."""
    count, width, rows = arguments[r.COUNT], arguments[r.WIDTH], pointer_int64(arguments[r.ROWS])
    memory, changed = pointer_float32(arguments[r.MEMORY]), 0
    while True:
        begin = arguments[r.STRETCH] * fetch_add(arguments, r.NEXT, 1)
        if begin >= count:
            fetch_add(arguments, r.CHANGED, changed)
            return
        for i in range(begin, min(begin + arguments[r.STRETCH], count)):
            first = last = i
            if arguments[r.ROWS]:
                if i + r.AHEAD < count:
                    prefetch_write(memory, rows[i + r.AHEAD] * width)
                first, last = rows[i] * width // r.BLOCK, (rows[i] * width + width - 1) // r.BLOCK
                if i:
                    first = max(first, (rows[i - 1] * width + width - 1) // r.BLOCK + 1)
            for block in range(first, last + 1):
                changed += _round_block(arguments, memory, block * r.BLOCK)


@compiled
def _round_block(arguments, memory, begin):
    """Round the block that begins at a float; how many of its floats moved."""
    end = min(begin + r.BLOCK, arguments[r.FLOATS])
    if arguments[r.FRACTION]:
        return _round_halves(memory, begin, end, arguments[r.FRACTION], arguments[r.SMALLEST], arguments[r.KEY])
    return _round_integers(memory, pointer_int32(arguments[r.MEMORY]), begin, end, arguments[r.KEY])


@inlined
def _rounded(value, inverse, step, limit, place, key):
    """`value / step`, rounded by chance, within +-limit, times `step`."""
    word = mix(place >> 2, key) >> (16 * (place & 3))
    chance = (types.float32(word & (CHANCES - 1)) + types.float32(0.5)) * types.float32(1.0 / CHANCES)
    number = min(max(value * inverse, -limit), limit) + chance
    whole = types.float32(types.int32(number))
    if whole > number:  # a conversion rounds towards zero
        whole -= types.float32(1)
    return whole * step


@inlined
def _round_integers(memory, bits, begin, end, key):
    most = types.int32(0)
    for i in range(begin, end):
        most = max(most, bits[i] & types.int32(0x7FFFFFFF))
    share = bits_of(float_of(most) / types.float32(r.LARGEST_INTEGER))
    exponent = (share >> 23) - 126 - (1 if share & 0x7FFFFF == 0 else 0)
    exponent = min(max(exponent, -126), 120)
    step, inverse = float_of(types.int32((127 + exponent) << 23)), float_of(types.int32((127 - exponent) << 23))
    changed = 0
    for i in range(begin, end):
        rounded = _rounded(memory[i], inverse, step, types.float32(r.LARGEST_INTEGER), i, key)
        changed += rounded != memory[i]
        if memory[i] == memory[i]:  # what is not a number stays so
            memory[i] = rounded
    return changed


@inlined
def _round_halves(memory, begin, end, fraction, smallest, key):
    changed = 0
    for i in range(begin, end):
        exponent = ((bits_of(memory[i]) >> 23) & 0xFF) - 127
        exponent = max(max(exponent, smallest) - fraction, -126)
        step, inverse = float_of(types.int32((127 + exponent) << 23)), float_of(types.int32((127 - exponent) << 23))
        rounded = _rounded(memory[i], inverse, step, types.float32(1 << 12), i, key)
        if fraction == 10:
            rounded = min(max(rounded, types.float32(-r.LARGEST_HALF)), types.float32(r.LARGEST_HALF))
        changed += rounded != memory[i]
        if memory[i] == memory[i]:
            memory[i] = rounded
    return changed
