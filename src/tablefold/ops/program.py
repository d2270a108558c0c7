"""Terms as a kernel reads them: one int64 array that says all, the same for every device.

A term is cut into *pieces* such that any two pieces write the same output slots or none in common. The pieces of one
slot interval form a *chain*: the first is assigned, each later one is added or multiplied onto it. An array program
holds, as int64 words:

    header     the counts and places of what follows (`HEADER`)
    rows       per table: its rows, 0 for an open vocabulary
    columns    per table: its first chain, one more at the end
    chains     per chain: its first piece, one more at the end
    pieces     `PIECE_WORDS` words per piece (`PIECE`), each with two partitions of `PART_WORDS` words (`PART`)
    quantiles  `QUANTILES` + 1 places in memory between which equally many reads are expected
    segments   stretches of memory, in its order, that no read crosses (`SEGMENT`): sorted apart, they are sorted
    reads      per segment, for each row of memory that an example reads in it (`READ_WORDS`): the slot whose gradient
               is the row's (-1 where it must be computed first), its number among those computed, its table
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tablefold.partitions import Lookup, Partition
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Term, Weight

# Words of the header.
TABLES, SEGMENTS, READS, COMPUTED, MOST_READS, LONGEST, WIDEST, UNIT = range(8)
ROWS_AT, COLUMNS_AT, CHAINS_AT, PIECES_AT, QUANTILES_AT, SEGMENTS_AT, READS_AT = range(8, 15)
HEADER_WORDS = 15

# Words of a partition; `BUCKETS` is 0 where no number ever reaches num_buckets, `EXACT` asks for true 64-bit division.
DIV, DIV_EXACT, BUCKETS, BUCKETS_EXACT, HASHED, KEY, LOOKUP = range(7)
PART_WORDS = 7

# Words of a piece; `STEP` is the term's width, `OFFSET` the first float of the term that the piece reads.
BASE, STRIDE, NEIGHBOURS, STEP, WRAP, OFFSET, WIDTH, SLOT, OP, SIGNED, LOW, HIGH = range(12)
WEIGHTED, WEIGHT_BASE, WEIGHT_STRIDE, WEIGHT_LOW, WEIGHT_HIGH, PART = range(12, 18)
WEIGHT_PART = PART + PART_WORDS
ROW_READS = WEIGHT_PART + PART_WORDS
WEIGHT_READS = ROW_READS + 3
TABLE = WEIGHT_READS + 3
PIECE_WORDS = TABLE + 1

# Words of `ROW_READS` and `WEIGHT_READS`: the segment that is read in, the first read there, and the number of the
# first computed read, -1 where the gradient of the slots is that of the rows.
SEGMENT, READ, FIRST_COMPUTED = range(3)

# Words of a segment: its rows of memory, and its reads per example, each as first and count.
FIRST_ROW, SEGMENT_ROWS, FIRST_READ, SEGMENT_READS = range(4)
SEGMENT_WORDS = 4

READ_WORDS = 3

ASSIGN, ADD, MULTIPLY = range(3)
"""How a piece joins its chain."""

QUANTILES = 64
"""Into so many ranges of equally many reads memory is cut: the most threads that a dense gradient keeps busy."""

LINE = 16
"""Floats of a cache line: two threads write no line in common."""

_EXACT_IN_FLOAT64 = 1 << 53


@dataclass(frozen=True)
class Piece:
    """The part of a term that writes one slot interval."""

    term: Term
    offset: int
    width: int
    slot: int
    op: int


def array_program(address_map: AddressMap) -> NDArray[np.int64]:
    """The array program of an address map."""
    sizes = [len(lookup.buckets) for lookup in address_map.lookups]
    starts = dict(zip(address_map.lookups, _starts(sizes), strict=True))
    rows: list[int] = []
    columns, chains, pieces = [0], [0], []
    chain_of: list[int] = []
    first_slot = longest = widest = 0
    for number, (table, terms) in enumerate(zip(address_map.tables, address_map.terms, strict=True)):
        for chain in table_chains(terms):
            for piece in chain:
                chain_of.append(len(chains) - 1)
                pieces.append(_piece_words(piece, first_slot, number, table, starts))
            chains.append(len(pieces))
            longest, widest = max(longest, len(chain)), max(widest, chain[0].width)
        columns.append(len(chains) - 1)
        rows.append(table.rows or 0)
        first_slot += address_map.features[number] * table.dim
    segments, reads, computed = _segments(pieces, chain_of, address_map.unit)
    flat_pieces = [word for piece in pieces for word in piece]
    sections = [rows, columns, chains, flat_pieces, _quantiles(pieces, address_map), segments, reads]
    counts = [
        len(rows),
        len(segments) // SEGMENT_WORDS,
        len(reads) // READ_WORDS,
        computed,
        max(segments[SEGMENT_READS::SEGMENT_WORDS]),
        longest,
        widest,
        address_map.unit,
    ]
    section_starts = _starts([len(section) for section in sections], HEADER_WORDS)
    return np.array(counts + section_starts + [word for section in sections for word in section], dtype=np.int64)


def table_chains(terms: Sequence[Term]) -> list[list[Piece]]:
    """The chains of one table, in slot order."""
    edges = sorted({edge for term in terms for edge in (term.slot, term.slot + term.width)})
    chains = []
    for begin, end in pairwise(edges):
        writers = [term for term in terms if term.slot <= begin and end <= term.slot + term.width]
        chain = []
        for number, term in enumerate(writers):
            op = ASSIGN if number == 0 else MULTIPLY if term.combine == "mul" else ADD
            chain.append(Piece(term, begin - term.slot, end - begin, begin, op))
        chains.append(chain)
    return chains


def _starts(sizes: Sequence[int], first: int = 0) -> list[int]:
    return [first + sum(sizes[:index]) for index in range(len(sizes))]


def _piece_words(
    piece: Piece, first_slot: int, table_number: int, table: TableSpec, starts: dict[Lookup, int]
) -> list[int]:
    term = piece.term
    weight = term.weight or Weight(Partition(1), 0, 0)
    return [
        term.base,
        term.stride,
        term.neighbours,
        term.width,
        term.wrap,
        piece.offset,
        piece.width,
        first_slot + piece.slot,
        piece.op,
        int(term.signed),
        *_interval(piece),
        int(term.weight is not None),
        weight.base,
        weight.stride,
        weight.base,
        weight.base + weight.stride * (weight.partition.num_buckets - 1) + 1,
        *_part_words(term.partition, table.rows, starts),
        *_part_words(weight.partition, table.rows, starts),
        *[-1] * 6,  # `_segments` fills them in
        table_number,
    ]


def _interval(piece: Piece) -> tuple[int, int]:
    """The floats of memory that the piece may read: from the first, up to the second."""
    term = piece.term
    if term.wrap:
        return term.base, term.end
    last = term.end - term.width + piece.offset + piece.width
    return term.base + piece.offset, last


def _part_words(part: Partition, rows: int | None, starts: dict[Lookup, int]) -> list[int]:
    most = _EXACT_IN_FLOAT64 + 1 if rows is None else rows
    number = -(-most // part.div)  # numbers before the last step are less than this
    if part.lookup is not None:
        number = int(part.lookup.buckets.max()) + 1
    if part.key is not None:
        number = _EXACT_IN_FLOAT64
    return [
        part.div,
        int(most > _EXACT_IN_FLOAT64),
        0 if number <= part.num_buckets else part.num_buckets,
        int(number > _EXACT_IN_FLOAT64),
        int(part.key is not None),
        part.key or 0,
        -1 if part.lookup is None else starts[part.lookup],
    ]


def _quantiles(pieces: list[list[int]], address_map: AddressMap) -> list[int]:
    """Places in memory, whole rows of `unit` and lines, between which equally many reads are expected."""
    words = np.array(pieces)
    low, high, width = (words[:, word].astype(np.float64) for word in (LOW, HIGH, WIDTH))
    edges = np.unique(words[:, [LOW, HIGH]])
    reads = (np.clip((edges[:, None] - low) / (high - low), 0, 1) * width).sum(axis=1)
    wanted = np.linspace(0, reads[-1], QUANTILES + 1)
    step = address_map.unit * max(1, LINE // address_map.unit)
    inner = (np.interp(wanted, reads, edges)[1:-1] // step * step).astype(np.int64)
    return [0, *inner.tolist(), address_map.floats]


def _segments(pieces: list[list[int]], chain_of: list[int], unit: int) -> tuple[list[int], list[int], int]:
    """(segments, reads, how many reads per example need their gradient computed); pieces are told their reads."""
    spans = [(piece[LOW], piece[HIGH], number, ROW_READS) for number, piece in enumerate(pieces)]
    spans += [
        (piece[WEIGHT_LOW], piece[WEIGHT_HIGH], number, WEIGHT_READS)
        for number, piece in enumerate(pieces)
        if piece[WEIGHTED]
    ]
    multiplied = {chain for piece, chain in zip(pieces, chain_of, strict=True) if piece[OP] == MULTIPLY}
    segments: list[list[int]] = []
    reads: list[int] = []
    computed = last = 0
    for low, high, number, place in sorted(spans):
        piece = pieces[number]
        first_row, end_row = low // unit, -(-high // unit)
        if not segments or first_row >= last:
            segments.append([first_row, 0, len(reads) // READ_WORDS, 0])
        segment, last = segments[-1], max(last, end_row)
        count = 1 if place == WEIGHT_READS else piece[WIDTH] // unit
        direct = not (place == WEIGHT_READS or chain_of[number] in multiplied or piece[SIGNED] or piece[WEIGHTED])
        piece[place : place + 3] = [len(segments) - 1, segment[SEGMENT_READS], -1 if direct else computed]
        for chunk in range(count):
            reads += [piece[SLOT] + chunk * unit, -1] if direct else [-1, computed + chunk]
            reads.append(piece[TABLE])
        computed += 0 if direct else count
        segment[SEGMENT_ROWS] = last - segment[FIRST_ROW]
        segment[SEGMENT_READS] += count
    return [word for segment in segments for word in segment], reads, computed
