"""Sums over sorted reads: the last third of a gradient of touched rows."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.numba_gather import SIGNATURE
from tablefold.ops.numba_rows import (
    compiled,
    fetch_add,
    inlined,
    pointer_float32,
    pointer_float64,
    pointer_int64,
    pointer_like,
    set_row,
    spill_row,
)


def kernel(dtype, version):
    """The address of the compiled kernel; `version` keeps the disk cache from serving code of older sources."""
    if dtype == "float32":

        @cfunc(SIGNATURE, cache=True)
        def float32(arguments):
            if version:
                sum_rows(arguments, pointer_float32(arguments[a.VECTORS]))

        return float32.address

    @cfunc(SIGNATURE, cache=True)
    def float64(arguments):
        if version:
            sum_rows(arguments, pointer_float64(arguments[a.VECTORS]))

    return float64.address


@inlined
def sum_rows(arguments, vectors):
    """Take segments until none is left: write the number and the gradient of each row that is read in it."""
    program = pointer_int64(arguments[a.PROGRAM])
    while True:
        number = fetch_add(arguments, a.NEXT, 1)
        if number >= program[p.SEGMENTS]:
            return
        _sum_segment(arguments, program, number, vectors)


@compiled
def _sum_segment(arguments, program, number, vectors):
    segment = program[p.SEGMENTS_AT] + number * p.SEGMENT_WORDS
    batch, step, unit = arguments[a.BATCH], arguments[a.FLOATS], program[p.UNIT]
    reads = pointer_int64(arguments[a.READS] + 8 * batch * program[segment + p.FIRST_READ])
    rows, values = pointer_int64(arguments[a.ROWS]), pointer_like(vectors, arguments[a.VALUES])
    computed = pointer_like(vectors, arguments[a.COMPUTED])
    per_example = program[segment + p.SEGMENT_READS]
    sources = program[p.READS_AT] + 2 * program[segment + p.FIRST_READ]
    out = pointer_int64(arguments[a.COUNTS])[number] - 1
    last = -1
    for i in range(batch * per_example):
        row, which = reads[i] >> 32, reads[i] & 0xFFFFFFFF
        example = which // per_example if per_example > 1 else which
        source = sources + 2 * (which - example * per_example)
        from_vectors = program[source] >= 0
        begin = example * step + program[source]
        if not from_vectors:
            begin = (program[source + 1] * batch + example) * unit
        if row != last:
            last = row
            out += 1
            rows[out] = row + program[segment + p.FIRST_ROW]
            if from_vectors:
                set_row(values, out * unit, vectors, begin, 1, unit)
            else:
                set_row(values, out * unit, computed, begin, 1, unit)
        elif from_vectors:
            spill_row(values, out * unit, vectors, begin, 1, unit)
        else:
            spill_row(values, out * unit, computed, begin, 1, unit)
