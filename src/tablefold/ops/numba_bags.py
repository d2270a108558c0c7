"""Bags on a CPU: a block of bags at a time, table by table; vectors are composed in a tile of scratch and added up."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.numba_gather import SIGNATURE, compose, load_ids, piece_at
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
    spill_row,
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
            slot = _first_slot(program, table)
            width = (step if table + 1 == tables else _first_slot(program, table + 1)) - slot
            end = starts[table + 1] - starts[table] if last == bags else offsets[table * bags + last]
            for begin in range(offsets[table * bags + first], end, TILE):
                count = min(TILE, end - begin)
                if load_ids(arguments, program, table, begin, ids, count):
                    compose(arguments, program, table, ids, count, memory, rows, -slot, width)
                    _add_up(arguments, table, first, last, begin, count, sums, step, slot, rows, width)


@inlined
def _first_slot(program, table):
    """The first slot that a table's chains write."""
    chain = program[program[p.COLUMNS_AT] + table]
    return program[piece_at(program, program[program[p.CHAINS_AT] + chain]) + p.SLOT]


@compiled
def _add_up(arguments, table, first, last, begin, count, sums, step, slot, rows, width):
    """Add the rows of a tile that begins at example `begin`, times their weights, to the sums of bags first .. last."""
    offsets = pointer_int64(arguments[a.OFFSETS] + 8 * table * arguments[a.NUM_BAGS])
    weights, start = pointer_like(rows, arguments[a.WEIGHTS]), pointer_int64(arguments[a.STARTS])[table] + begin
    bag = first
    while bag + 1 < last and offsets[bag + 1] <= begin:
        bag += 1
    for i in range(count):
        while bag + 1 < last and offsets[bag + 1] <= begin + i:
            bag += 1
        weight = weights[start + i] if arguments[a.WEIGHTS] else 1
        spill_row(sums, bag * step + slot, rows, i * width, weight, width)
