"""Bags on a CPU: a block of bags at a time, table by table; vectors are composed in a tile of scratch and added up."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.numba_gather import (
    SIGNATURE,
    ask_for,
    compose,
    first_piece,
    first_slot,
    load_ids,
    piece_at,
    table_floats,
)
from tablefold.ops.numba_places import places_of
from tablefold.ops.numba_rows import (
    TILE,
    add_up,
    compiled,
    fetch_add,
    inlined,
    pointer_float32,
    pointer_float64,
    pointer_int64,
    pointer_like,
    scratch_like,
    zero,
)


def kernel(dtype, version):
    """The address of the compiled kernel; `version` keeps the disk cache from serving code of older sources."""
    if dtype == "float32":

        @cfunc(SIGNATURE, cache=True)
        def float32(arguments):
            if version:
                pool_bags(arguments, pointer_float32(arguments[a.MEMORY]))

        return float32.address

    @cfunc(SIGNATURE, cache=True)
    def float64(arguments):
        if version:
            pool_bags(arguments, pointer_float64(arguments[a.MEMORY]))

    return float64.address


@inlined
def pool_bags(arguments, memory):
    """Take blocks of bags until none is left; write the sums of their vectors."""
    program = pointer_int64(arguments[a.PROGRAM])
    sums, step = pointer_like(memory, arguments[a.VECTORS]), arguments[a.FLOATS]
    bags, tables = arguments[a.NUM_BAGS], program[p.TABLES]
    starts, offsets = pointer_int64(arguments[a.STARTS]), pointer_int64(arguments[a.OFFSETS])
    rows = pointer_like(memory, arguments[a.SPACE] + 8 * TILE * step * fetch_add(arguments, a.SLOT, 1))
    ids = scratch_like(program)
    while True:
        first = TILE * fetch_add(arguments, a.NEXT, 1)
        if first >= bags:
            return
        last = min(first + TILE, bags)
        zero(sums, first * step, last * step)
        for table in range(tables):
            slot, width = first_slot(program, table), table_floats(program, table, step)
            end = starts[table + 1] - starts[table] if last == bags else offsets[table * bags + last]
            for begin in range(offsets[table * bags + first], end, TILE):
                count = min(TILE, end - begin)
                if load_ids(arguments, program, table, begin, ids, count):
                    if arguments[a.WEIGHTS] == 0 and _is_plain(program, table):
                        _add_memory(arguments, program, table, first, last, begin, ids, count, memory, sums)
                    else:
                        tile = (rows, -slot, width)
                        compose(arguments, program, table, ids, count, memory, tile, tile, False)
                        _add_composed(arguments, table, first, last, begin, count, rows, sums, slot, width)


@compiled
def _is_plain(program, table):
    """Whether a table's vectors are rows of memory side by side, or sums of such."""
    for number in range(first_piece(program, table), first_piece(program, table + 1)):
        piece = piece_at(program, number)
        scaled = program[piece + p.SIGNED] or program[piece + p.WEIGHTED]
        if scaled or program[piece + p.WRAP] or program[piece + p.OP] == p.MULTIPLY:
            return False
    return True


@compiled
def _add_memory(arguments, program, table, first, last, begin, ids, count, memory, sums):
    """Add the rows of memory that a tile's ids read to the sums of their bags: nothing is composed on the way."""
    lookup, size = arguments[a.LOOKUPS], arguments[a.LOOKUP_SIZE]
    places, words, spare = scratch_like(program), scratch_like(program), scratch_like(program)
    for number in range(first_piece(program, table), first_piece(program, table + 1)):
        piece = piece_at(program, number)
        places_of(program, piece, lookup, size, ids, places, words, spare, count)
        ask_for(memory, places, count, program[piece + p.WIDTH])
        slot, width = program[piece + p.SLOT], program[piece + p.WIDTH]
        _add_to_bags(arguments, table, first, last, begin, count, memory, places, sums, slot, width)


@compiled
def _add_composed(arguments, table, first, last, begin, count, rows, sums, slot, width):
    """Add a tile's composed vectors, times their weights, to the sums of their bags."""
    places = scratch_like(pointer_int64(arguments[a.STARTS]))
    for i in range(count):
        places[i] = i * width
    if arguments[a.WEIGHTS]:
        weights, start = pointer_like(rows, arguments[a.WEIGHTS]), pointer_int64(arguments[a.STARTS])[table] + begin
        for i in range(count):
            for j in range(i * width, (i + 1) * width):
                rows[j] *= weights[start + i]
    _add_to_bags(arguments, table, first, last, begin, count, rows, places, sums, slot, width)


@compiled
def _add_to_bags(arguments, table, first, last, begin, count, source, places, sums, slot, width):
    """Add the rows of `source` at a tile's `places` to the sums of bags first .. last; example `begin` is its first."""
    offsets, step = pointer_int64(arguments[a.OFFSETS] + 8 * table * arguments[a.NUM_BAGS]), arguments[a.FLOATS]
    bag = first
    while bag + 1 < last and offsets[bag + 1] <= begin:
        bag += 1
    i = 0
    while i < count:
        end = count
        if bag + 1 < last:
            end = min(count, offsets[bag + 1] - begin)
        if i < end:
            add_up(sums, bag * step + slot, source, places, i, end, width)
        i = end
        bag += 1
