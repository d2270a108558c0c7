"""The reads of a batch: the first third of a gradient of touched rows.

A read is one word: its row within the segment in the upper 32 bits; in the lower 32 which of the segment's reads it is,
and the example, which takes the last `EXAMPLE_BITS`.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.numba_gather import SIGNATURE, examples_of, load_ids, piece_at
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
from tablefold.ops.numba_scatter import chain_rule, inner_product, locate, part_of, space_words, unpool


def kernel(dtype, version):
    """The address of the compiled kernel; `version` keeps the disk cache from serving code of older sources."""
    if dtype == "float32":

        @cfunc(SIGNATURE, cache=True)
        def float32(arguments):
            if version:
                collect_reads(arguments, pointer_float32(arguments[a.MEMORY]))

        return float32.address

    @cfunc(SIGNATURE, cache=True)
    def float64(arguments):
        if version:
            collect_reads(arguments, pointer_float64(arguments[a.MEMORY]))

    return float64.address


@inlined
def collect_reads(arguments, memory):
    """Take tiles until none is left; write where their examples read, and gradients that are not the vectors'."""
    program = pointer_int64(arguments[a.PROGRAM])
    batch = arguments[a.BATCH]
    space = arguments[a.SPACE] + 8 * space_words(program) * fetch_add(arguments, a.SLOT, 1)
    ids = scratch_like(program)
    while True:
        begin = TILE * fetch_add(arguments, a.NEXT, 1)
        if begin >= batch:
            return
        for table in range(program[p.TABLES]):
            count = min(TILE, examples_of(arguments, table) - begin)
            if count <= 0 or not load_ids(arguments, program, table, begin, ids, count):
                continue
            columns = program[p.COLUMNS_AT] + table
            for chain in range(program[columns], program[columns + 1]):
                chains = program[p.CHAINS_AT] + chain
                first, last = program[chains], program[chains + 1]
                _collect(arguments, program, table, first, last, ids, begin, count, memory, space)


@compiled
def _collect(arguments, program, table, first, last, ids, begin, count, memory, space):
    """The reads of one chain."""
    vectors = pointer_like(memory, arguments[a.VECTORS])
    step = arguments[a.FLOATS]
    rows = pointer_like(memory, part_of(space, 4 * (last - first)))
    slot, width = program[piece_at(program, first) + p.SLOT], program[piece_at(program, first) + p.WIDTH]
    source, start = vectors, begin * step + slot
    if arguments[a.STARTS]:
        source, start, step = pointer_like(memory, part_of(space, 4 * (last - first) + 2 * width)), 0, width
        unpool(arguments, table, begin, count, vectors, slot, source, width)
    for number in range(first, last):
        own = part_of(space, 4 * (number - first))
        locate(arguments, program, piece_at(program, number), ids, count, memory, own)
    for number in range(first, last):
        own = part_of(space, 4 * (number - first))
        piece = piece_at(program, number)
        _write_reads(arguments, program, piece, False, own, begin, count)
        if program[piece + p.WEIGHTED]:
            _write_reads(arguments, program, piece, True, part_of(own, 1), begin, count)
        if program[piece + p.ROW_READS + p.FIRST_COMPUTED] >= 0:
            chain_rule(program, first, last, number, space, source, start, step, memory, rows, count)
            _write_gradients(arguments, program, piece, own, begin, count, memory, rows)


@compiled
def _write_reads(arguments, program, piece, is_weight, source, begin, count):
    """The reads of a tile, of a piece's rows or of its weights; `source` holds the places."""
    unit = program[p.UNIT]
    wrap, base = program[piece + p.WRAP] // unit, program[piece + p.BASE] // unit
    chunks = program[piece + p.WIDTH] // unit
    words = piece + p.ROW_READS
    if is_weight:
        wrap, chunks, words = 0, 1, piece + p.WEIGHT_READS
    segment = program[p.SEGMENTS_AT] + program[words + p.SEGMENT] * p.SEGMENT_WORDS
    first = program[segment + p.FIRST_READ] + program[words + p.READ]
    reads, read_starts = pointer_int64(arguments[a.READS]), pointer_int64(arguments[a.READ_STARTS])
    places, rows = pointer_int64(source), scratch_like(program)
    for i in range(count):
        rows[i] = places[i]
    quotients(rows, count, unit, False)
    shift = (base if wrap else 0) - program[segment + p.FIRST_ROW]
    for i in range(count):
        row = rows[i]
        for chunk in range(chunks):
            label = ((program[words + p.READ] + chunk) << arguments[a.EXAMPLE_BITS]) | (begin + i)
            reads[read_starts[first + chunk] + begin + i] = ((row + shift) << 32) | label
            row += 1
            if row == wrap:
                row = 0


@compiled
def _write_gradients(arguments, program, piece, own, begin, count, memory, rows):
    """The gradients of a tile's reads: `rows` times the factors; for weights, one float in a row of zeros."""
    unit, batch = program[p.UNIT], arguments[a.BATCH]
    width = program[piece + p.WIDTH]
    gradients = pointer_like(memory, arguments[a.COMPUTED])
    places, weights = pointer_int64(own), pointer_int64(part_of(own, 1))
    signs, factors = pointer_like(memory, part_of(own, 2)), pointer_like(memory, part_of(own, 3))
    if program[piece + p.WEIGHTED]:
        first = program[piece + p.WEIGHT_READS + p.FIRST_COMPUTED]
        for i in range(count):
            row = (first * batch + begin + i) * unit
            for j in range(unit):
                gradients[row + j] = 0
            total = signs[i] * inner_product(program, piece, memory, places[i], rows, i * width)
            gradients[row + weights[i] % unit] = total
    first = program[piece + p.ROW_READS + p.FIRST_COMPUTED]
    for chunk in range(width // unit):
        row = ((first + chunk) * batch + begin) * unit
        for i in range(count):
            for j in range(unit):
                gradients[row + i * unit + j] = factors[i] * rows[i * width + chunk * unit + j]
