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

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tablefold.compilation import part
from tablefold.hashing import _BUCKET_SHIFT, _MULTIPLY_1, _MULTIPLY_2
from tablefold.ops.kernels.lanes import (
    loop,
    past,
    pointer_int16,
    pointer_int32,
    pointer_int64,
    pointer_uint8,
    scratch_like,
    splat,
)
from tablefold.ops.program import LINE

FEW_EDGES = 64
"""So many edges are compared to sixteen ids at once in less time than a search by halving takes."""


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


_LANES = 8
"""Ids to an instruction. Numbers are read and written up to the next multiple of it: scratch has that much room."""


@intrinsic
def scale(_context, target, numbers, count, first, factor, summand):
    """Set target[i] to (numbers[i] - first) * factor + summand."""

    def generate(context, builder, _signature, arguments):
        target, numbers, count, first, factor, summand = arguments
        vector = ir.VectorType(ir.IntType(64), _LANES)
        first, factor, summand = (splat(builder, each, vector) for each in (first, factor, summand))

        def at(pointer, i):
            return builder.bitcast(builder.gep(pointer, [i]), vector.as_pointer())

        with loop(builder, count.type(0), count, _LANES) as (i, _):
            counted = builder.sub(builder.load(at(numbers, i), align=8), first)
            builder.store(builder.add(builder.mul(counted, factor), summand), at(target, i), align=8)
        return context.get_dummy_value()

    word = types.int64
    return types.void(target, numbers, word, word, word, word), generate


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
def _reached_32(numbers, count, edges, total):
    """`_reached` where edges are int32: so are places, and sixteen of them are read at once."""
    if total <= FEW_EDGES:
        count_reached(numbers, count, edges, total)
        return
    places, ids = scratch_like(edges), scratch_like(edges)
    for i in range(count):
        ids[i] = types.int32(min(max(numbers[i], -1), _MOST))
        places[i] = 0
    while total > 1:
        half = types.int32(total // 2)
        for i in range(count):
            further = types.int32(places[i] + half)
            places[i] = further if edges[further - 1] <= ids[i] else places[i]
        total -= half
    for i in range(count):
        numbers[i] = places[i] + (1 if edges[places[i]] <= ids[i] else 0)


_MOST = (1 << 31) - 1


@intrinsic
def count_reached(_context, numbers, count, edges, total):
    """Turn numbers into how many of `total` int32 edges each has reached, by comparing it to all, a line of them at a
    time: numbers up to the next multiple of a line are turned too."""

    def generate(_target, builder, _signature, arguments):
        numbers, count, edges, total = arguments
        wide, narrow = (ir.VectorType(ir.IntType(bits), LINE) for bits in (64, 32))

        def all_lanes(number):
            return ir.Constant(wide, [number] * LINE)

        def between(value, least, most):
            value = builder.select(builder.icmp_signed("<", value, all_lanes(least)), all_lanes(least), value)
            return builder.select(builder.icmp_signed(">", value, all_lanes(most)), all_lanes(most), value)

        with loop(builder, count.type(0), count, LINE) as (i, _):
            at = builder.bitcast(builder.gep(numbers, [i]), wide.as_pointer())
            ids = builder.trunc(between(builder.load(at, align=8), -1, _MOST), narrow)
            found = cgutils.alloca_once_value(builder, ir.Constant(narrow, [0] * LINE))
            with loop(builder, total.type(0), total) as (j, _):
                edge = splat(builder, builder.load(builder.gep(edges, [j])), narrow)
                reached = builder.sext(builder.icmp_signed("<=", edge, ids), narrow)
                builder.store(builder.sub(builder.load(found), reached), found)
            builder.store(builder.zext(builder.load(found), wide), at, align=8)
        return _target.get_dummy_value()

    word = types.int64
    return types.void(numbers, word, edges, word), generate


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
            _reached_32(numbers, count, past(pointer_int32(arguments.edges), part.first_edge), part.edges)
        else:
            _reached(numbers, words, count, pointer_int64(arguments.edges), part.first_edge, part.edges)
    if part.buckets:
        remainders(numbers, count, part.buckets, part.buckets_exact != 0)


@part
def _numbered(piece, part, ids, target, words, count, arguments, factor, summand):
    """Set `target` to the buckets of ids, times a factor, plus a summand."""
    first = piece.first
    if part.hashed or part.lookup >= 0 or part.edges or part.buckets or part.div != 1:
        scale(target, ids, count, first, 1, 0)
        buckets(arguments, part, target, words, count)
        scale(target, target, count, 0, factor, summand)
    else:
        scale(target, ids, count, first, factor, summand)


@part
def places_of(arguments, piece, ids, places, words, spare, count):
    """Fill `places` with the first float that `piece` reads for each id.

    Where the piece wraps, that is the place within its region, not yet wrapped, without `BASE`. `spare` is scratch.
    """
    first = piece.offset
    if piece.wrap == 0:
        first += piece.base
    _numbered(piece, piece.part, ids, places, words, count, arguments, piece.stride, first)
    neighbours = piece.neighbours
    if neighbours > 1:
        scale(spare, ids, count, piece.first, 1, 0)
        remainders(spare, count, neighbours, piece.part.div_exact != 0)
        _add_scaled(places, spare, count, piece.step)
    wrap = piece.wrap
    if wrap:
        remainders(places, count, wrap, True)


@part
def weights_of(arguments, piece, ids, places, words, count):
    """Fill `places` with the float that is the learned weight of each id."""
    _numbered(piece, piece.weight_part, ids, places, words, count, arguments, piece.weight_stride, piece.weight_base)


@part
def signs_of(words, signs, count):
    """Fill `signs` with the +-1 that bit 0 of the hashed words says."""
    for i in range(count):
        signs[i] = 1 - 2 * (words[i] & 1)
