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
"""Addresses of memory's gradient; into how many ranges memory is cut; address of scratch, `space_words` per range."""

SLOT = 22
"""The next free scratch, of `SPACE`; threads take theirs atomically."""
READS, SORTED, COUNTS, COMPUTED = range(16, 20)
"""Addresses of the reads of each segment, of as much room to sort them, of how many rows each segment reads (for the
sums: of its first row among all), and of the gradients that must be computed before they are summed."""
ROWS, VALUES = 20, 21
"""Addresses of the sorted row numbers and of their gradients."""

WORDS = 24

NO_WILD = (1 << 63) - 1

DIGITS = 256
"""Values of a digit that reads are sorted by."""


def space_words(longest: int, widest: int) -> int:
    """8-byte words of scratch per thread: four tiles for each piece of the longest chain, two tiles of rows, digits."""
    return TILE * (4 * longest + 2 * widest) + DIGITS
