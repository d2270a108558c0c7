"""The reads of each segment sorted by the row of memory they go to: the second third of a gradient of touched rows.

Segments are sorted apart, each by one thread, with a radix sort that keeps the order of equal rows: sums are taken in
the order of the batch, whatever the number of threads.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.numba_gather import SIGNATURE
from tablefold.ops.numba_rows import compiled, fetch_add, inlined, pointer_int64


def kernel(_dtype, version):
    """The address of the compiled kernel; `version` keeps the disk cache from serving code of older sources."""

    @cfunc(SIGNATURE, cache=True)
    def int64(arguments):
        if version:
            sort_reads(arguments)

    return int64.address


@inlined
def sort_reads(arguments):
    """Take segments until none is left: sort their reads, and count the rows that are read."""
    program, counts = pointer_int64(arguments[a.PROGRAM]), pointer_int64(arguments[a.COUNTS])
    digits = pointer_int64(arguments[a.SPACE] + 8 * a.DIGITS * fetch_add(arguments, a.SLOT, 1))
    starts = pointer_int64(arguments[a.READ_STARTS])
    while True:
        number = fetch_add(arguments, a.NEXT, 1)
        if number >= program[p.SEGMENTS]:
            return
        segment = program[p.SEGMENTS_AT] + number * p.SEGMENT_WORDS
        first = program[segment + p.FIRST_READ]
        begin, end = starts[first], starts[first + program[segment + p.SEGMENT_READS]]
        reads, other = pointer_int64(arguments[a.READS] + 8 * begin), pointer_int64(arguments[a.SORTED] + 8 * begin)
        count = end - begin
        _sort(reads, other, count, program[segment + p.SEGMENT_ROWS], digits)
        counts[number] = _distinct(reads, count)


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
