"""Sums over sorted reads: the last third of a gradient of touched rows."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc, types

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
    set_scaled,
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
    starts, bits = pointer_int64(arguments[a.READ_STARTS]), arguments[a.EXAMPLE_BITS]
    first_read = program[segment + p.FIRST_READ]
    first, last = starts[first_read], starts[first_read + program[segment + p.SEGMENT_READS]]
    reads = pointer_int64(arguments[a.READS])
    rows, values = pointer_int64(arguments[a.ROWS]), pointer_like(vectors, arguments[a.VALUES])
    computed = pointer_like(vectors, arguments[a.COMPUTED])
    sources = program[p.READS_AT] + p.READ_WORDS * first_read
    out = pointer_int64(arguments[a.COUNTS])[number] - 1
    latest = -1
    for i in range(first, last):
        row, label = reads[i] >> 32, reads[i] & 0xFFFFFFFF
        source = sources + p.READ_WORDS * (label >> bits)
        example = label & ((1 << bits) - 1)
        gradients, begin, factor = vectors, example * step + program[source], types.float64(1)
        if program[source] < 0:
            gradients, begin = computed, (program[source + 1] * batch + example) * unit
        elif arguments[a.STARTS]:
            place = pointer_int64(arguments[a.STARTS])[program[source + 2]] + example
            begin = pointer_int64(arguments[a.BAGS])[place] * step + program[source]
            if arguments[a.WEIGHTS]:
                factor = types.float64(pointer_like(vectors, arguments[a.WEIGHTS])[place])
        if row != latest:
            latest = row
            out += 1
            rows[out] = row + program[segment + p.FIRST_ROW]
            set_scaled(values, out * unit, gradients, begin, factor, unit)
        else:
            spill_row(values, out * unit, gradients, begin, factor, unit)
