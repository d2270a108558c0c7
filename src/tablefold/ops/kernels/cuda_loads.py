"""What is read of an array of memory in Triton, whatever its format: see `tablefold.formats`.

Every lane finds the scale of its own block of a master from the 32 floats of that block, which the first-level cache
holds after the first lane; what `freeze()` packed is decoded. Both follow `tablefold.formats.codes` step by step and
give its bits: divisions are `div_rn`, since Triton's `/` is approximate in float32, and kernels are compiled as
`tablefold.ops.gpu.EXACT` says, or a product and a sum might be rounded once instead of twice.
"""

# Triton infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, SIM114

from __future__ import annotations

import triton
import triton.language as tl

from tablefold.formats import codes
from tablefold.formats.format import BLOCK as FLOATS_OF_BLOCK
from tablefold.ops import gpu
from tablefold.ops import program as p
from tablefold.ops.cpu import Source

AS_THEY_ARE, DECODED, ENCODED = (tl.constexpr(each) for each in (gpu.AS_THEY_ARE, gpu.DECODED, gpu.ENCODED))
BLOCK, PLAIN = tl.constexpr(FLOATS_OF_BLOCK), tl.constexpr(p.PLAIN)
SCALE_SHIFT, SCALE_LEAST = tl.constexpr(codes.SCALE_SHIFT), tl.constexpr(codes.SCALE_LEAST)
SCALE_HALF = tl.constexpr(1 << codes.SCALE_SHIFT - 1)
SCALE_NAN, INFINITE = tl.constexpr(codes.SCALE_NAN), tl.constexpr(codes.INFINITE)
ARRAY_WORDS = tl.constexpr(p.words(p.Array))
SOURCE_WORDS = tl.constexpr(p.words(Source))

field = triton.constexpr_function(p.word)
"""The word of a field within its record. Every kernel is compiled for a `LAYOUT` of the records."""


@triton.constexpr_function
def _source_field(name):
    return getattr(Source, name).offset // 8


@triton.jit
def get(program, record, name: tl.constexpr):
    """A field of the record that begins at a word of the program."""
    return tl.load(program + record + field(name))


@triton.jit
def array_at(program, number):
    """Where the record of an array begins."""
    return get(program, 0, "header.arrays_at") + number * ARRAY_WORDS


@triton.jit
def source_of(sources, number, name: tl.constexpr):
    """A field of an array's `Source`."""
    return tl.load(sources + number * SOURCE_WORDS + _source_field(name))


@triton.jit
def read(program, sources, number, places, inside, like, READS: tl.constexpr):
    """What is read at `places` of an array where they are `inside`, in the type that `like` points to.

    READS: what the formats of all arrays call for, the costliest of `AS_THEY_ARE`, `DECODED`, `ENCODED`.
    """
    memory = source_of(sources, number, "memory")
    if READS == AS_THEY_ARE:
        floats = tl.load(memory.to(like.dtype) + places, mask=inside, other=0)
    else:
        array = array_at(program, number)
        bits, packed = get(program, array, "array.bits"), source_of(sources, number, "packed")
        if bits == PLAIN:
            floats = tl.load(memory.to(like.dtype) + places, mask=inside, other=0)
        elif bits == 16:
            floats = _brain(memory, packed, places, inside, like).to(like.dtype.element_ty)
        else:
            floats = _coded(program, array, memory, packed, places, inside, like, READS).to(like.dtype.element_ty)
    return floats


@triton.jit
def _coded(program, array, memory, packed, places, inside, like, READS: tl.constexpr):
    """What is read of codes: packed, or what would be of a master's."""
    if READS == DECODED:  # known to the compiler: no code to encode
        floats = _decode(program, array, memory, places, inside)
    elif packed != 0:
        floats = _decode(program, array, memory, places, inside)
    else:
        floats = _encode(program, array, memory.to(like.dtype), places, inside)
    return floats


@triton.jit
def _brain(memory, packed, places, inside, like):
    """What is read of bfloat16: packed, or of a master that is rounded to the nearest, ties to even."""
    if packed != 0:
        shorts = tl.load(memory.to(tl.pointer_type(tl.int16)) + places, mask=inside, other=0)
        floats = (shorts.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        value = tl.load(memory.to(like.dtype) + places, mask=inside, other=0).to(tl.float32)
        word = value.to(tl.int32, bitcast=True)
        word = (word + 0x7FFF + ((word >> 16) & 1)) & -0x10000
        floats = tl.where(value == value, word.to(tl.float32, bitcast=True), value)  # NaN stays NaN
    return floats


@triton.jit
def _decode(program, array, memory, places, inside):
    """What is read of packed codes."""
    bits = get(program, array, "array.bits").to(tl.int32)
    block = memory.to(tl.pointer_type(tl.uint8)) + places // BLOCK * get(program, array, "array.record")
    scale = _scale_of(tl.load(block, mask=inside, other=0).to(tl.int32))
    first_bit = (places % BLOCK).to(tl.int32) * bits
    byte = tl.load(block + 1 + first_bit // 8, mask=inside, other=0).to(tl.int32)
    code = (byte >> first_bit % 8) & ((1 << bits) - 1)
    return _level(code.to(tl.float32), scale, bits)


@triton.jit
def _encode(program, array, memory, places, inside):
    """What would be read of a master's codes."""
    bits = get(program, array, "array.bits").to(tl.int32)
    end = get(program, array, "array.end")
    begin = places // BLOCK * BLOCK
    count = tl.minimum(end - begin, BLOCK)
    of_most = get(program, array, "array.of_most") != 0
    found = _joined(memory + begin, count, inside, of_most, 0, 1)
    found = tl.where(of_most, found, tl.div_rn(found, count.to(tl.float32)))
    factor = get(program, array, "array.factor").to(tl.float64, bitcast=True).to(tl.float32)
    scale = _scale_of(_scale_byte(found * factor))
    value = tl.load(memory + places, mask=inside, other=0).to(tl.float32)
    # libdevice's floor takes subnormal numbers for zero, which here are none: the code is the same.
    code = tl.floor(tl.div_rn(value, scale) + (1 << bits - 1).to(tl.float32))
    code = tl.minimum(tl.maximum(code, 0.0), ((1 << bits) - 1).to(tl.float32))
    return _level(code, scale, bits)


@triton.jit
def _joined(blocks, count, inside, of_most, FIRST: tl.constexpr, STEP: tl.constexpr):
    """The magnitudes of the floats FIRST, FIRST + STEP, ... of the first `count` of blocks joined to one: their sum or
    the largest. Halves are joined onto halves, from floats that are half a block apart down to neighbours.
    """
    if STEP == BLOCK:
        joined = tl.abs(tl.load(blocks + FIRST, mask=inside & (count > FIRST), other=0).to(tl.float32))
    else:
        left = _joined(blocks, count, inside, of_most, FIRST, 2 * STEP)
        right = _joined(blocks, count, inside, of_most, FIRST + STEP, 2 * STEP)
        joined = tl.where(of_most, _larger(left, right), left + right)
    return joined


@triton.jit
def _larger(left, right):
    """The larger of two magnitudes by their bits, in which what is no number is the largest."""
    larger = tl.maximum(left.to(tl.int32, bitcast=True), right.to(tl.int32, bitcast=True))
    return larger.to(tl.float32, bitcast=True)


@triton.jit
def _scale_byte(exact):
    """The byte of the scale that is nearest."""
    word = tl.minimum(exact.to(tl.int32, bitcast=True), INFINITE)
    byte = ((word + SCALE_HALF) >> SCALE_SHIFT) - SCALE_LEAST
    return tl.minimum(tl.maximum(byte, 0), SCALE_NAN)


@triton.jit
def _scale_of(byte):
    """The scale that a byte stands for."""
    word = tl.where(byte == SCALE_NAN, INFINITE + 1, (byte + SCALE_LEAST) << SCALE_SHIFT)
    return word.to(tl.float32, bitcast=True)


@triton.jit
def _level(code, scale, bits):
    return (code - ((1 << bits) - 1).to(tl.float32) * 0.5) * scale
