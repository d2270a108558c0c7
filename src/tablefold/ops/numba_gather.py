"""The gather on a CPU: a tile of examples at a time, table by table, in one pass over the ids."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc, types

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.numba_places import places_of, signs_of, weights_of
from tablefold.ops.numba_rows import (
    TILE,
    add_rows,
    add_scaled,
    assign_rows,
    assign_scaled,
    compiled,
    fence,
    fetch_add,
    fetch_min,
    inlined,
    multiply_rows,
    multiply_scaled,
    pointer_float32,
    pointer_float64,
    pointer_int32,
    pointer_int64,
    pointer_like,
    prefetch_read,
    scratch_like,
)

SIGNATURE = types.void(types.CPointer(types.int64))


def kernel(dtype, version):
    """The address of the compiled kernel; `version` keeps the disk cache from serving code of older sources."""
    if dtype == "float32":

        @cfunc(SIGNATURE, cache=True)
        def float32(arguments):
            if version:
                gather_tiles(arguments, pointer_float32(arguments[a.MEMORY]))

        return float32.address

    @cfunc(SIGNATURE, cache=True)
    def float64(arguments):
        if version:
            gather_tiles(arguments, pointer_float64(arguments[a.MEMORY]))

    return float64.address


@inlined
def gather_tiles(arguments, memory):
    """Take tiles until none is left; write the vectors of their examples.

    Where there is `SPACE`, vectors are written past the caches, and what has to be put together before is put together
    there. Plain writes fetch each line first, only to overwrite it, and drive rows of memory out of the caches.
    """
    program, step = pointer_int64(arguments[a.PROGRAM]), arguments[a.FLOATS]
    vectors = pointer_like(memory, arguments[a.VECTORS])
    tile = pointer_like(memory, arguments[a.SPACE] + 8 * TILE * step * fetch_add(arguments, a.SLOT, 1))
    batch, ids = arguments[a.BATCH], scratch_like(program)
    streams = arguments[a.SPACE] != 0
    copies = streams and not _is_in_lines(program)
    while True:
        begin = TILE * fetch_add(arguments, a.NEXT, 1)
        if begin >= batch:
            fence()
            return
        count = min(TILE, batch - begin)
        for table in range(program[p.TABLES]):
            if load_ids(arguments, program, table, begin, ids, count):
                vectors_of_tile = partial = target = (vectors, begin * step, step)
                if streams:
                    partial = (tile, -first_slot(program, table), table_floats(program, table, step))
                if copies:
                    target = partial
                compose(arguments, program, table, ids, count, memory, partial, target, streams and not copies)
                if copies:
                    _copy(program, partial, vectors_of_tile, count)


@compiled
def _copy(program, composed, vectors, count):
    """Write a tile's composed rows of one table past the caches."""
    places, factors = scratch_like(program), scratch_like(composed[0])
    for i in range(count):
        places[i] = i * composed[2]
    target = (vectors[0], vectors[1] - composed[1], vectors[2])
    assign_rows(target, target, composed[0], places, factors, count, composed[2], True)


@inlined
def _is_in_lines(program):
    """Whether each piece writes whole lines."""
    for number in range(first_piece(program, program[p.TABLES])):
        piece = piece_at(program, number)
        if (program[piece + p.SLOT] | program[piece + p.WIDTH]) % p.LINE or program[piece + p.WRAP]:
            return False
    return True


@inlined
def piece_at(program, number):
    """Where in the program a piece is."""
    return program[p.PIECES_AT] + number * p.PIECE_WORDS


@inlined
def first_piece(program, table):
    """The number of a table's first piece; of the table after the last, one more than that of the last piece."""
    return program[program[p.CHAINS_AT] + program[program[p.COLUMNS_AT] + table]]


@inlined
def first_slot(program, table):
    """The first slot that a table's pieces write."""
    return program[piece_at(program, first_piece(program, table)) + p.SLOT]


@inlined
def table_floats(program, table, floats):
    """How many slots a table's pieces write, of all `floats` of an example."""
    end = floats if table + 1 == program[p.TABLES] else first_slot(program, table + 1)
    return end - first_slot(program, table)


@inlined
def examples_of(arguments, table):
    """How many ids a table is given."""
    if arguments[a.STARTS]:
        starts = pointer_int64(arguments[a.STARTS])
        return starts[table + 1] - starts[table]
    return arguments[a.BATCH]


@compiled
def load_ids(arguments, program, table, begin, ids, count):
    """Copy a tile's ids of one table to `ids`; False, and `WILD` lowered, where one is outside the table."""
    row, first, address = arguments[a.ID_ROW], begin, arguments[a.IDS]
    if arguments[a.STARTS]:
        address = pointer_int64(arguments[a.TABLE_IDS])[table]
    else:
        first = begin * row + table * arguments[a.ID_COLUMN]
    if arguments[a.ID_SIZE] == 8:
        long = pointer_int64(address)
        for i in range(count):
            ids[i] = long[first + i * row]
    else:
        short = pointer_int32(address)
        for i in range(count):
            ids[i] = types.int64(short[first + i * row])
    rows = program[program[p.ROWS_AT] + table]
    if rows == 0:
        return True
    wild = 0
    for i in range(count):
        wild += types.uint64(ids[i]) >= types.uint64(rows)
    if wild:
        _tell_wild(arguments, program, table, begin, ids, count, rows)
    return wild == 0


@compiled
def _tell_wild(arguments, program, table, begin, ids, count, rows):
    """Lower `WILD` to the place of a tile's first id that is outside its table."""
    for i in range(count):
        if ids[i] < 0 or ids[i] >= rows:
            place = (begin + i) * program[p.TABLES] + table
            if arguments[a.STARTS]:
                place = pointer_int64(arguments[a.STARTS])[table] + begin + i
            fetch_min(arguments, a.WILD, place)
            return


@inlined
def compose(arguments, program, table, ids, count, memory, partial, target, streamed):
    """Write the vectors of a tile's ids of one table to the rows of `target`, at their slots.

    What a chain's pieces before the last come to is kept in `partial`, rows with the same slots, which may be `target`.
    The last pieces write past the caches if `streamed`.
    """
    lookup, size = arguments[a.LOOKUPS], arguments[a.LOOKUP_SIZE]
    places, words = scratch_like(program), scratch_like(program)
    spare, weights = scratch_like(program), scratch_like(program)
    factors = scratch_like(memory)
    end = first_piece(program, table + 1)
    for number in range(first_piece(program, table), end):
        piece = piece_at(program, number)
        places_of(program, piece, lookup, size, ids, places, words, spare, count)
        scaled = program[piece + p.SIGNED] or program[piece + p.WEIGHTED]
        if scaled:
            for i in range(count):
                factors[i] = 1
            if program[piece + p.SIGNED]:
                signs_of(words, factors, count)
            if program[piece + p.WEIGHTED]:
                weights_of(program, piece, lookup, size, ids, weights, spare, count)
                for i in range(count):
                    factors[i] *= memory[weights[i]]
        if program[piece + p.WRAP] == 0:
            ask_for(memory, places, count, program[piece + p.WIDTH])
        op, slot = program[piece + p.OP], program[piece + p.SLOT]
        base = (partial[0], partial[1] + slot, partial[2])
        if number + 1 == end or program[piece_at(program, number + 1) + p.OP] == p.ASSIGN:
            to = (target[0], target[1] + slot, target[2])
            read_rows(program, piece, op, scaled, to, base, memory, places, factors, count, streamed)
        else:
            read_rows(program, piece, op, scaled, base, base, memory, places, factors, count, False)


@compiled
def ask_for(memory, places, count, width):
    """Have the first and the last line of each row fetched, all at once rather than as many as a core looks ahead."""
    for i in range(count):
        prefetch_read(memory, places[i])
        prefetch_read(memory, places[i] + width - 1)


@compiled
def read_rows(program, piece, op, scaled, target, base, memory, places, factors, count, streamed):
    """Assign the rows of memory at `places` to the rows of `target`, or their sum or product with those of `base`."""
    width = program[piece + p.WIDTH]
    if program[piece + p.WRAP]:
        _read_wrapped(program, piece, op, scaled, target, base, memory, places, factors, count)
    elif op == p.ASSIGN:
        if scaled:
            assign_scaled(target, base, memory, places, factors, count, width, streamed)
        else:
            assign_rows(target, base, memory, places, factors, count, width, streamed)
    elif op == p.ADD:
        if scaled:
            add_scaled(target, base, memory, places, factors, count, width, streamed)
        else:
            add_rows(target, base, memory, places, factors, count, width, streamed)
    elif scaled:
        multiply_scaled(target, base, memory, places, factors, count, width, streamed)
    else:
        multiply_rows(target, base, memory, places, factors, count, width, streamed)


@compiled
def _read_wrapped(program, piece, op, scaled, target, base, memory, places, factors, count):
    region, wrap = program[piece + p.BASE], program[piece + p.WRAP]
    for i in range(count):
        place = places[i]
        to, onto = target[1] + i * target[2], base[1] + i * base[2]
        for j in range(program[piece + p.WIDTH]):
            value = memory[region + place]
            if scaled:
                value *= factors[i]
            if op == p.ADD:
                value += base[0][onto + j]
            elif op == p.MULTIPLY:
                value *= base[0][onto + j]
            target[0][to + j] = value
            place += 1
            if place == wrap:
                place = 0
