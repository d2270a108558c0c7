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
    prefetch,
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
    """Take tiles until none is left; write the vectors of their examples."""
    program = pointer_int64(arguments[a.PROGRAM])
    vectors = pointer_like(memory, arguments[a.VECTORS])
    batch = arguments[a.BATCH]
    ids = scratch_like(program)
    while True:
        begin = TILE * fetch_add(arguments, a.NEXT, 1)
        if begin >= batch:
            return
        count = min(TILE, batch - begin)
        for table in range(program[p.TABLES]):
            if load_ids(arguments, program, table, begin, ids, count):
                step = arguments[a.FLOATS]
                compose(arguments, program, table, ids, count, memory, vectors, begin * step, step)


@inlined
def piece_at(program, number):
    """Where in the program a piece is."""
    return program[p.PIECES_AT] + number * p.PIECE_WORDS


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
def compose(arguments, program, table, ids, count, memory, vectors, begin, step):
    """Write the vectors of a tile's ids of one table: slot s of the i-th to `vectors[begin + i * step + s]`."""
    lookup, size = arguments[a.LOOKUPS], arguments[a.LOOKUP_SIZE]
    places, words = scratch_like(program), scratch_like(program)
    spare, weights = scratch_like(program), scratch_like(program)
    factors = scratch_like(memory)
    columns, chains = program[p.COLUMNS_AT], program[p.CHAINS_AT]
    first_piece = program[chains + program[columns + table]]
    last_piece = program[chains + program[columns + table + 1]]
    for number in range(first_piece, last_piece):
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
        start = begin + program[piece + p.SLOT]
        op = program[piece + p.OP]
        read_rows(program, piece, op, scaled, vectors, start, step, memory, places, factors, count)


@compiled
def ask_for(memory, places, count, width):
    """Have the first and the last line of each row fetched, all at once rather than as many as a core looks ahead."""
    for i in range(count):
        prefetch(memory, places[i])
        prefetch(memory, places[i] + width - 1)


@compiled
def read_rows(program, piece, op, scaled, vectors, start, step, memory, places, factors, count):
    """Assign, add or multiply the rows of memory at `places` into rows of `vectors`."""
    width = program[piece + p.WIDTH]
    if program[piece + p.WRAP]:
        _read_wrapped(program, piece, op, scaled, vectors, start, step, memory, places, factors, count)
    elif op == p.ASSIGN:
        if scaled:
            assign_scaled(vectors, start, step, memory, places, factors, count, width)
        else:
            assign_rows(vectors, start, step, memory, places, factors, count, width)
    elif op == p.ADD:
        if scaled:
            add_scaled(vectors, start, step, memory, places, factors, count, width)
        else:
            add_rows(vectors, start, step, memory, places, factors, count, width)
    elif scaled:
        multiply_scaled(vectors, start, step, memory, places, factors, count, width)
    else:
        multiply_rows(vectors, start, step, memory, places, factors, count, width)


@compiled
def _read_wrapped(program, piece, op, scaled, vectors, start, step, memory, places, factors, count):
    width = program[piece + p.WIDTH]
    base, wrap = program[piece + p.BASE], program[piece + p.WRAP]
    for i in range(count):
        place = places[i]
        slot = start + i * step
        for j in range(slot, slot + width):
            value = memory[base + place]
            if scaled:
                value *= factors[i]
            if op == p.ADD:
                value += vectors[j]
            elif op == p.MULTIPLY:
                value *= vectors[j]
            vectors[j] = value
            place += 1
            if place == wrap:
                place = 0
