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
def _counted(target, ids, count, first):
    for i in range(count):
        target[i] = ids[i] - first


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
def _reached(numbers, places, count, edges, first, total):
    """Turn numbers into how many of `total` edges each has reached, by halving: the same steps for all of them, so that
    no branch depends on what is compared. `places` is scratch."""
    for i in range(count):
        places[i] = first
    while total > 1:
        half = total // 2
        for i in range(count):
            places[i] += half if types.int64(edges[places[i] + half - 1]) <= numbers[i] else 0
        total -= half
    for i in range(count):
        numbers[i] = places[i] - first + (1 if types.int64(edges[places[i]]) <= numbers[i] else 0)


@part
def buckets(arguments, part, numbers, words, count):
    """Turn `numbers` from ids into buckets; `words` get the hashed words where the partition hashes."""
    divisor = part.div
    if divisor != 1:
        quotients(numbers, count, divisor, part.div_exact != 0)
    if part.hashed:
        _hashed(numbers, words, count, part.key)
    elif part.lookup >= 0:
        _looked_up(numbers, count, arguments.lookups, arguments.lookup_size, part)
    elif part.edges:
        if arguments.edge_size == 4:
            _reached(numbers, words, count, pointer_int32(arguments.edges), part.first_edge, part.edges)
        else:
            _reached(numbers, words, count, pointer_int64(arguments.edges), part.first_edge, part.edges)
    if part.buckets:
        remainders(numbers, count, part.buckets, part.buckets_exact != 0)


@part
def places_of(arguments, piece, ids, places, words, spare, count):
    """Fill `places` with the first float that `piece` reads for each id.

    Where the piece wraps, that is the place within its region, not yet wrapped, without `BASE`. `spare` is scratch.
    """
    _counted(places, ids, count, piece.first)
    buckets(arguments, piece.part, places, words, count)
    stride = piece.stride
    first = piece.offset
    if piece.wrap == 0:
        first += piece.base
    _scaled(places, count, stride, first)
    neighbours = piece.neighbours
    if neighbours > 1:
        _counted(spare, ids, count, piece.first)
        remainders(spare, count, neighbours, piece.part.div_exact != 0)
        _add_scaled(places, spare, count, piece.step)
    wrap = piece.wrap
    if wrap:
        remainders(places, count, wrap, True)


@part
def weights_of(arguments, piece, ids, places, words, count):
    """Fill `places` with the float that is the learned weight of each id."""
    _counted(places, ids, count, piece.first)
    buckets(arguments, piece.weight_part, places, words, count)
    _scaled(places, count, piece.weight_stride, piece.weight_base)


@part
def signs_of(words, signs, count):
    """Fill `signs` with the +-1 that bit 0 of the hashed words says."""
    for i in range(count):
        signs[i] = 1 - 2 * (words[i] & 1)
