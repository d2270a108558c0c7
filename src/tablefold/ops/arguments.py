"""The words of a kernel's argument: addresses, sizes, and the counter that tasks are taken from."""

from __future__ import annotations

TILE = 64
"""Examples worked on together: their ids, places and one slot of their vectors fit the first-level cache."""

NEXT = 0
"""The next task; kernels take it atomically."""
WILD = 1
"""Place in the ids `[batch, tables]` of the first one outside its table; `NO_WILD` without any."""
BATCH, PROGRAM, MEMORY, LOOKUPS, LOOKUP_SIZE = range(2, 7)
"""Examples; addresses of program, memory and lookup arrays; bytes of one entry of these."""
IDS, ID_SIZE, ID_ROW, ID_COLUMN = range(7, 11)
"""Address of the ids, bytes of one, ids from one example to the next, ids from one table to the next."""
VECTORS, FLOATS = 11, 12
"""Address of the vectors (or of their gradient), floats per example."""
GRADIENT, RANGES, SPACE = 13, 14, 15
"""Addresses of memory's gradient; into how many ranges memory is cut; address of scratch, `space_words` per range (of
a gather, a tile of examples per thread, and 0 where it writes its vectors plainly)."""

SLOT = 22
"""The next free scratch, of `SPACE`; threads take theirs atomically."""
READS, SORTED, COUNTS, COMPUTED = range(16, 20)
"""Addresses of the reads of each segment, of as much room to sort them, of how many rows each segment reads (for the
sums: of its first row among all), and of the gradients that must be computed before they are summed."""
ROWS, VALUES = 20, 21
"""Addresses of the sorted row numbers and of their gradients."""
READ_STARTS, EXAMPLE_BITS = 23, 24
"""Address of where the examples of each read begin among all reads; bits of an example's number."""

STARTS, TABLE_IDS, OFFSETS = 25, 26, 27
"""Of bags, whose tables have examples of their own number each (`BATCH` is the largest), else 0. Addresses: of where
each table's examples begin among those of all, one more at the end; of the address of each table's ids; of each
table's first example of each bag."""
BAGS, NUM_BAGS, WEIGHTS = 28, 29, 30
"""Address of each example's bag; how many bags; address of each example's weight, 0 where all are 1."""

WORDS = 31

NO_WILD = (1 << 63) - 1

DIGITS = 256
"""Values of a digit that reads are sorted by."""


def space_words(longest: int, widest: int) -> int:
    """8-byte words of scratch per thread: four tiles per piece of the longest chain, three tiles of rows, digits."""
    return TILE * (4 * longest + 3 * widest) + DIGITS
