"""The reads of a batch, sorted by the row of memory they go to: the first half of a gradient of touched rows.

A read is one word: its row within the segment in the upper 32 bits; in the lower 32 which read it is, numbered example
by example. Segments are sorted apart, each by one thread, with a radix sort that keeps the order of equal rows: sums
are taken in the order of the batch, whatever the number of threads.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.numba_gather import SIGNATURE, load_ids, piece_at
from tablefold.ops.numba_places import quotients
from tablefold.ops.numba_rows import (
    TILE,
    compiled,
    fetch_add,
    inlined,
    pointer_float32,
    pointer_float64,
    pointer_int64,
    pointer_like,
    scratch_like,
)
from tablefold.ops.numba_scatter import chain_rule, inner_product, locate, part_of, space_words


def kernel(dtype, version):
    """The address of the compiled kernel; `version` keeps the disk cache from serving code of older sources."""
    if dtype == "float32":

        @cfunc(SIGNATURE, cache=True)
        def float32(arguments):
            if version:
                sort_reads(arguments, pointer_float32(arguments[a.MEMORY]))

        return float32.address

    @cfunc(SIGNATURE, cache=True)
    def float64(arguments):
        if version:
            sort_reads(arguments, pointer_float64(arguments[a.MEMORY]))

    return float64.address


@inlined
def sort_reads(arguments, memory):
    """Take segments until none is left: collect, sort and count what the batch reads in each."""
    program = pointer_int64(arguments[a.PROGRAM])
    counts = pointer_int64(arguments[a.COUNTS])
    batch = arguments[a.BATCH]
    while True:
        number = fetch_add(arguments, a.NEXT, 1)
        if number >= program[p.SEGMENTS]:
            return
        segment = program[p.SEGMENTS_AT] + number * p.SEGMENT_WORDS
        space = arguments[a.SPACE] + 8 * number * space_words(program)
        offset = 8 * batch * program[segment + p.FIRST_READ]
        reads = pointer_int64(arguments[a.READS] + offset)
        other = pointer_int64(arguments[a.SORTED] + offset)
        first = program[segment + p.FIRST_MEMBER]
        for index in range(first, first + program[segment + p.SEGMENT_MEMBERS]):
            member = program[p.MEMBERS_AT] + index * p.MEMBER_WORDS
            _collect(arguments, program, segment, member, memory, reads, space)
        count = batch * program[segment + p.SEGMENT_READS]
        digits = pointer_int64(space)
        _sort(reads, other, count, program[segment + p.SEGMENT_ROWS], digits)
        counts[number] = _distinct(reads, count)


@compiled
def _collect(arguments, program, segment, member, memory, reads, space):
    """Write the reads of one member; compute their gradients where those of its slots do not do."""
    vectors = pointer_like(memory, arguments[a.VECTORS])
    batch, step, unit = arguments[a.BATCH], arguments[a.FLOATS], program[p.UNIT]
    ids, places = scratch_like(program), scratch_like(program)
    wanted = program[member + p.MEMBER_PIECE]
    first, last = wanted, wanted + 1
    computed = program[member + p.MEMBER_COMPUTED] >= 0
    if computed:
        chain = program[p.CHAINS_AT] + program[member + p.MEMBER_CHAIN]
        first, last = program[chain], program[chain + 1]
    rows = pointer_like(memory, part_of(space, 4 * (last - first)))
    own = part_of(space, 4 * (wanted - first))
    piece = piece_at(program, wanted)
    is_weight = program[member + p.IS_WEIGHT]
    for begin in range(0, batch, TILE):
        count = min(TILE, batch - begin)
        if not load_ids(arguments, program, program[member + p.MEMBER_TABLE], begin, ids, count):
            for i in range(count):
                ids[i] = 0  # refused when the kernel has ended
        for number in range(first, last):
            locate(
                arguments, program, piece_at(program, number), ids, count, memory, part_of(space, 4 * (number - first))
            )
        source = pointer_int64(part_of(own, 1) if is_weight else own)
        for i in range(count):
            places[i] = source[i]
        quotients(places, count, unit, False)
        _write_reads(program, segment, member, piece, places, begin, count, reads)
        if computed:
            start = begin * step + program[piece + p.SLOT]
            chain_rule(program, first, last, wanted, space, vectors, start, step, memory, rows, count)
            _write_gradients(arguments, program, member, piece, own, begin, count, memory, rows)


@compiled
def _write_reads(program, segment, member, piece, rows, begin, count, reads):
    """The reads of a tile; `rows` are the first rows of memory that the member reads for each example."""
    unit, per_example = program[p.UNIT], program[segment + p.SEGMENT_READS]
    read = program[member + p.MEMBER_READ]
    wrap, base = program[piece + p.WRAP] // unit, program[piece + p.BASE] // unit
    chunks = program[piece + p.WIDTH] // unit
    if program[member + p.IS_WEIGHT]:
        wrap, chunks = 0, 1
    shift = (base if wrap else 0) - program[segment + p.FIRST_ROW]
    for i in range(count):
        number = (begin + i) * per_example + read
        row = rows[i]
        for chunk in range(chunks):
            reads[number + chunk] = ((row + shift) << 32) | (number + chunk)
            row += 1
            if row == wrap:
                row = 0


@compiled
def _write_gradients(arguments, program, member, piece, own, begin, count, memory, rows):
    """The gradients of a tile's reads: `rows` times the factors; for a weight, one float in a row of zeros."""
    unit, batch = program[p.UNIT], arguments[a.BATCH]
    width = program[piece + p.WIDTH]
    gradients = pointer_like(memory, arguments[a.COMPUTED])
    places, weights = pointer_int64(own), pointer_int64(part_of(own, 1))
    signs, factors = pointer_like(memory, part_of(own, 2)), pointer_like(memory, part_of(own, 3))
    first = program[member + p.MEMBER_COMPUTED]
    if program[member + p.IS_WEIGHT]:
        for i in range(count):
            row = (first * batch + begin + i) * unit
            for j in range(unit):
                gradients[row + j] = 0
            total = signs[i] * inner_product(program, piece, memory, places[i], rows, i * width)
            gradients[row + weights[i] % unit] = total
        return
    for chunk in range(width // unit):
        row = ((first + chunk) * batch + begin) * unit
        for i in range(count):
            for j in range(unit):
                gradients[row + i * unit + j] = factors[i] * rows[i * width + chunk * unit + j]


@compiled
def _sort(reads, other, count, rows, digits):
    """Sort by the upper 32 bits, which are less than `rows`; the result is in `reads`."""
    shift = 32
    source, target = reads, other
    while rows > 1:
        for digit in range(a.DIGITS):
            digits[digit] = 0
        for i in range(count):
            digits[(source[i] >> shift) & (a.DIGITS - 1)] += 1
        before = 0
        for digit in range(a.DIGITS):
            size = digits[digit]
            digits[digit] = before
            before += size
        for i in range(count):
            read = source[i]
            digit = (read >> shift) & (a.DIGITS - 1)
            target[digits[digit]] = read
            digits[digit] += 1
        source, target = target, source
        shift += 8
        rows = (rows + a.DIGITS - 1) // a.DIGITS
    if (shift // 8) % 2:
        for i in range(count):
            reads[i] = other[i]


@compiled
def _distinct(reads, count):
    """How many rows the sorted reads go to."""
    found = 1 if count else 0
    for i in range(1, count):
        found += (reads[i] >> 32) != (reads[i - 1] >> 32)
    return found
