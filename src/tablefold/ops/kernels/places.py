"""Where a tile of ids reads: the bucket and address arithmetic of the formula, eight ids to a vector instruction.

A remainder by a divisor known only at run time costs a hardware division of some 10 to 40 cycles, which no vector unit
has. Here it is one multiplication with the reciprocal in float64 and a correction by at most one, exact for numbers up
to 2^53: x / d is off by less than one, so the truncated quotient is at most one off, which the sign of the remainder
(or its size) shows. Hashed words are cut to 53 bits for that reason. Larger vocabularies, and negative ids, take the
true division.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, D103

from __future__ import annotations

from numba import types

from tablefold.compilation import part
from tablefold.hashing import _BUCKET_SHIFT, _MULTIPLY_1, _MULTIPLY_2
from tablefold.ops.kernels.lanes import (
    pointer_int16,
    pointer_int32,
    pointer_int64,
    pointer_uint8,
)


@part
def mix(number, key):
    word = types.uint64(number) ^ types.uint64(key)
    word = (word ^ (word >> types.uint64(30))) * types.uint64(_MULTIPLY_1)
    word = (word ^ (word >> types.uint64(27))) * types.uint64(_MULTIPLY_2)
    return types.int64(word ^ (word >> types.uint64(31)))


@part
def quotients(numbers, count, divisor, exact):
    """numbers // divisor in place; `exact` where they may be negative or beyond 2^53."""
    if exact:
        for i in range(count):
            numbers[i] = numbers[i] // divisor
        return
    inverse = 1.0 / types.float64(divisor)
    for i in range(count):
        quotient = types.int64(types.float64(numbers[i]) * inverse)
        rest = numbers[i] - quotient * divisor
        numbers[i] = quotient - (1 if rest < 0 else 0) + (1 if rest >= divisor else 0)


@part
def remainders(numbers, count, divisor, exact):
    """numbers % divisor in place; `exact` where they may be negative or beyond 2^53."""
    if exact:
        for i in range(count):
            numbers[i] = numbers[i] % divisor
        return
    inverse = 1.0 / types.float64(divisor)
    for i in range(count):
        rest = numbers[i] - types.int64(types.float64(numbers[i]) * inverse) * divisor
        rest = rest + (divisor if rest < 0 else 0)
        numbers[i] = rest - (divisor if rest >= divisor else 0)


@part
def _hashed(numbers, words, count, key):
    for i in range(count):
        words[i] = mix(numbers[i], key)
    for i in range(count):
        numbers[i] = types.int64(types.uint64(words[i]) >> types.uint64(_BUCKET_SHIFT))


@part
def _scaled(numbers, count, factor, summand):
    for i in range(count):
        numbers[i] = numbers[i] * factor + summand


@part
def _copied(target, source, count):
    for i in range(count):
        target[i] = source[i]


@part
def _add_scaled(target, source, count, factor):
    for i in range(count):
        target[i] += source[i] * factor


@part
def _looked_up(numbers, count, array, size, part):
    """Buckets read from an array; none beyond the highest that the terms allow for, whatever it holds."""
    first, highest = part.lookup, types.uint64(part.highest)
    if size == 1:
        bytes_1 = pointer_uint8(array)
        for i in range(count):
            numbers[i] = types.int64(min(types.uint64(bytes_1[first + numbers[i]]), highest))
    elif size == 2:
        bytes_2 = pointer_int16(array)
        for i in range(count):
            numbers[i] = types.int64(min(types.uint64(bytes_2[first + numbers[i]]), highest))
    elif size == 4:
        bytes_4 = pointer_int32(array)
        for i in range(count):
            numbers[i] = types.int64(min(types.uint64(bytes_4[first + numbers[i]]), highest))
    else:
        bytes_8 = pointer_int64(array)
        for i in range(count):
            numbers[i] = types.int64(min(types.uint64(bytes_8[first + numbers[i]]), highest))


@part
def buckets(part, lookup, lookup_size, numbers, words, count):
    """Turn `numbers` from ids into buckets; `words` get the hashed words where the partition hashes."""
    divisor = part.div
    if divisor != 1:
        quotients(numbers, count, divisor, part.div_exact != 0)
    if part.hashed:
        _hashed(numbers, words, count, part.key)
    elif part.lookup >= 0:
        _looked_up(numbers, count, lookup, lookup_size, part)
    if part.buckets:
        remainders(numbers, count, part.buckets, part.buckets_exact != 0)


@part
def places_of(piece, lookup, lookup_size, ids, places, words, spare, count):
    """Fill `places` with the first float that `piece` reads for each id.

    Where the piece wraps, that is the place within its region, not yet wrapped, without `BASE`. `spare` is scratch.
    """
    _copied(places, ids, count)
    buckets(piece.part, lookup, lookup_size, places, words, count)
    stride = piece.stride
    first = piece.offset
    if piece.wrap == 0:
        first += piece.base
    _scaled(places, count, stride, first)
    neighbours = piece.neighbours
    if neighbours > 1:
        _copied(spare, ids, count)
        remainders(spare, count, neighbours, piece.part.div_exact != 0)
        _add_scaled(places, spare, count, piece.step)
    wrap = piece.wrap
    if wrap:
        remainders(places, count, wrap, True)


@part
def weights_of(piece, lookup, lookup_size, ids, places, words, count):
    """Fill `places` with the float that is the learned weight of each id."""
    _copied(places, ids, count)
    buckets(piece.weight_part, lookup, lookup_size, places, words, count)
    _scaled(places, count, piece.weight_stride, piece.weight_base)


@part
def signs_of(words, signs, count):
    """Fill `signs` with the +-1 that bit 0 of the hashed words says."""
    for i in range(count):
        signs[i] = 1 - 2 * (words[i] & 1)
