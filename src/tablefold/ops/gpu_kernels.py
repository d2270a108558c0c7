"""The gather and its gradient in Triton: a block of examples and one chain of pieces per program.

They read the same array program as the CPU's kernels and follow the same steps; see `tablefold.ops.program`.
"""

# Triton infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, SIM108

from __future__ import annotations

import triton
import triton.language as tl

from tablefold import hashing
from tablefold.ops import program as p

MULTIPLY_1 = tl.constexpr(hashing.signed64(hashing._MULTIPLY_1))
MULTIPLY_2 = tl.constexpr(hashing.signed64(hashing._MULTIPLY_2))
MASK_34, MASK_37, MASK_33, MASK_53 = (tl.constexpr((1 << bits) - 1) for bits in (34, 37, 33, 53))

TABLES, ROWS_AT, CHAINS_AT, PIECES_AT, PIECE_WORDS = (
    tl.constexpr(word) for word in (p.TABLES, p.ROWS_AT, p.CHAINS_AT, p.PIECES_AT, p.PIECE_WORDS)
)
BASE, STRIDE, NEIGHBOURS, STEP, WRAP, OFFSET, WIDTH, SLOT, OP, SIGNED = (tl.constexpr(word) for word in range(10))
WEIGHTED, WEIGHT_BASE, WEIGHT_STRIDE, PART, WEIGHT_PART, TABLE = (
    tl.constexpr(word) for word in (p.WEIGHTED, p.WEIGHT_BASE, p.WEIGHT_STRIDE, p.PART, p.WEIGHT_PART, p.TABLE)
)
DIV, DIV_EXACT, BUCKETS, BUCKETS_EXACT, HASHED, KEY, LOOKUP = (tl.constexpr(word) for word in range(7))
UNIT, SEGMENTS_AT, SEGMENT_WORDS, FIRST_READ = (
    tl.constexpr(word) for word in (p.UNIT, p.SEGMENTS_AT, p.SEGMENT_WORDS, p.FIRST_READ)
)
ROW_READS, WEIGHT_READS, READ = (tl.constexpr(word) for word in (p.ROW_READS, p.WEIGHT_READS, p.READ))
ADD, MULTIPLY = tl.constexpr(p.ADD), tl.constexpr(p.MULTIPLY)


@triton.jit
def _quotient(x, divisor, exact):
    """x // divisor, rounded down; as on the CPU, by a float64 reciprocal where that is exact."""
    if exact != 0:
        quotient = x // divisor
        quotient -= ((x - quotient * divisor) < 0).to(tl.int64)  # Triton rounds towards zero
    else:
        quotient = (x.to(tl.float64) * (1.0 / divisor.to(tl.float64))).to(tl.int64)
        rest = x - quotient * divisor
        quotient += (rest >= divisor).to(tl.int64) - (rest < 0).to(tl.int64)
    return quotient


@triton.jit
def _mix(x, key):
    word = x ^ key
    word = (word ^ ((word >> 30) & MASK_34)) * MULTIPLY_1
    word = (word ^ ((word >> 27) & MASK_37)) * MULTIPLY_2
    return word ^ ((word >> 31) & MASK_33)


@triton.jit
def _bucket(program, part, lookup, x, mask):
    """(buckets, hashed words) of a partition."""
    number = x
    divisor = tl.load(program + part + DIV)
    if divisor != 1:
        number = _quotient(number, divisor, tl.load(program + part + DIV_EXACT))
    word = number
    first = tl.load(program + part + LOOKUP)
    if tl.load(program + part + HASHED) != 0:
        word = _mix(number, tl.load(program + part + KEY))
        number = (word >> 11) & MASK_53
    elif first >= 0:
        number = tl.load(lookup + first + number, mask=mask, other=0).to(tl.int64)
    buckets = tl.load(program + part + BUCKETS)
    if buckets != 0:
        number -= _quotient(number, buckets, tl.load(program + part + BUCKETS_EXACT)) * buckets
    return number, word


@triton.jit
def _locate(program, piece, lookup, x, lane, mask):
    """(places `[block, lanes]`, hashed words `[block]`) of what a piece reads."""
    number, word = _bucket(program, piece + PART, lookup, x, mask)
    place = tl.load(program + piece + STRIDE) * number + tl.load(program + piece + OFFSET)
    neighbours = tl.load(program + piece + NEIGHBOURS)
    if neighbours > 1:
        side = x - _quotient(x, neighbours, tl.load(program + piece + PART + DIV_EXACT)) * neighbours
        place += tl.load(program + piece + STEP) * side
    places = place[:, None] + lane[None, :]
    wrap = tl.load(program + piece + WRAP)
    if wrap != 0:
        places = places % wrap
    return tl.load(program + piece + BASE) + places, word


@triton.jit
def _factor(program, piece, memory, lookup, x, word, mask):
    """(signs, places of weights, weights) `[block]`; 1 without."""
    sign = tl.full(x.shape, 1, memory.dtype.element_ty)
    weight = tl.full(x.shape, 1, memory.dtype.element_ty)
    place = tl.zeros(x.shape, tl.int64)
    if tl.load(program + piece + SIGNED) != 0:
        sign = (1 - 2 * (word & 1)).to(memory.dtype.element_ty)
    if tl.load(program + piece + WEIGHTED) != 0:
        bucket, _ = _bucket(program, piece + WEIGHT_PART, lookup, x, mask)
        place = tl.load(program + piece + WEIGHT_BASE) + tl.load(program + piece + WEIGHT_STRIDE) * bucket
        weight = tl.load(memory + place, mask=mask, other=0)
    return sign, place, weight


@triton.jit
def _read(program, piece, memory, lookup, x, lane, mask):
    """The rows that a piece contributes, signs and weights included."""
    places, word = _locate(program, piece, lookup, x, lane, mask)
    sign, _, weight = _factor(program, piece, memory, lookup, x, word, mask)
    inside = mask[:, None] & (lane[None, :] < tl.load(program + piece + WIDTH))
    return tl.load(memory + places, mask=inside, other=0) * (sign * weight)[:, None]


@triton.jit
def _compose(program, pieces, first, last, memory, lookup, x, lane, mask):
    """What the pieces of a chain from `first` up to `last` come to."""
    rows = _read(program, pieces + first * PIECE_WORDS, memory, lookup, x, lane, mask)
    for number in range(first + 1, last):
        piece = pieces + number * PIECE_WORDS
        more = _read(program, piece, memory, lookup, x, lane, mask)
        if tl.load(program + piece + OP) == MULTIPLY:
            rows = rows * more
        else:
            rows = rows + more
    return rows


@triton.jit
def _ids(program, piece, ids, example, id_row, id_column, batch):
    """(ids of the block's examples, which of them may be read)."""
    table = tl.load(program + piece + TABLE)
    mask = example < batch
    x = tl.load(ids + example * id_row + table * id_column, mask=mask, other=0).to(tl.int64)
    rows = tl.load(program + tl.load(program + ROWS_AT) + table)
    tame = ((x >= 0) & (x < rows)).to(tl.int32) + (rows == 0).to(tl.int32) > 0
    return x, mask & tame, mask & (tame == 0)


@triton.jit
def gather_kernel(
    memory,
    lookup,
    ids,
    program,
    vectors,
    wild,
    batch,
    floats,
    id_row,
    id_column,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
):
    """Compose one slot interval of a block of examples; `wild` gets the place of the first id outside its table."""
    example = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    chains = tl.load(program + CHAINS_AT) + tl.program_id(1)
    pieces = tl.load(program + PIECES_AT)
    first, last = tl.load(program + chains), tl.load(program + chains + 1)
    head = pieces + first * PIECE_WORDS
    lane = tl.arange(0, LANES)
    x, mask, refused = _ids(program, head, ids, example, id_row, id_column, batch)
    position = example * tl.load(program + TABLES) + tl.load(program + head + TABLE)
    tl.atomic_min(wild + tl.zeros(example.shape, tl.int32), position, mask=refused)
    rows = _compose(program, pieces, first, last, memory, lookup, x, lane, mask)
    inside = mask[:, None] & (lane[None, :] < tl.load(program + head + WIDTH))
    slot = tl.load(program + head + SLOT)
    tl.store(vectors + example[:, None] * floats + slot + lane[None, :], rows, mask=inside)


@triton.jit
def _give(gradient, rows, program, reads, places, values, example, lane, mask, batch, BY_ROW: tl.constexpr):
    """Add `values [block, lanes]` at `places` of the gradient, or list them under the reads that `reads` names."""
    if BY_ROW:
        unit = tl.load(program + UNIT)
        segment = tl.load(program + SEGMENTS_AT) + tl.load(program + reads) * SEGMENT_WORDS
        read = tl.load(program + segment + FIRST_READ) + tl.load(program + reads + READ)
        entry = (read + lane // unit)[None, :] * batch + example[:, None]
        tl.store(rows + entry, places // unit, mask=mask)
        tl.store(gradient + entry * unit + places % unit, values, mask=mask)
    else:
        tl.atomic_add(gradient + places, values, mask=mask)


@triton.jit
def scatter_kernel(
    vectors,
    memory,
    lookup,
    ids,
    program,
    gradient,
    rows,
    batch,
    floats,
    id_row,
    id_column,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    BY_ROW: tl.constexpr,
):
    """Add what a block's slot interval gives to memory's gradient, atomically; or, `BY_ROW`, list for each read of an
    example the row of memory (`rows [reads, batch]`) and what it gains (`gradient [reads, batch, unit]`).
    """
    example = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    chains = tl.load(program + CHAINS_AT) + tl.program_id(1)
    pieces = tl.load(program + PIECES_AT)
    first, last = tl.load(program + chains), tl.load(program + chains + 1)
    head = pieces + first * PIECE_WORDS
    lane = tl.arange(0, LANES)
    x, mask, _ = _ids(program, head, ids, example, id_row, id_column, batch)
    inside = mask[:, None] & (lane[None, :] < tl.load(program + head + WIDTH))
    slot = tl.load(program + head + SLOT)
    above = tl.load(vectors + example[:, None] * floats + slot + lane[None, :], mask=inside, other=0)
    for wanted in range(first, last):
        own = pieces + wanted * PIECE_WORDS
        gained = above
        if tl.load(program + own + OP) == MULTIPLY:
            gained = gained * _compose(program, pieces, first, wanted, memory, lookup, x, lane, mask)
        for number in range(wanted + 1, last):
            piece = pieces + number * PIECE_WORDS
            if tl.load(program + piece + OP) == MULTIPLY:
                gained = gained * _read(program, piece, memory, lookup, x, lane, mask)
        places, word = _locate(program, own, lookup, x, lane, mask)
        sign, weight_place, weight = _factor(program, own, memory, lookup, x, word, mask)
        _give(
            gradient,
            rows,
            program,
            own + ROW_READS,
            places,
            gained * (sign * weight)[:, None],
            example,
            lane,
            inside,
            batch,
            BY_ROW,
        )
        if tl.load(program + own + WEIGHTED) != 0:
            read = tl.load(memory + places, mask=inside, other=0)
            one = mask[:, None] & (lane[None, :] == 0)
            of_weight = tl.where(one, (tl.sum(gained * read, axis=1) * sign)[:, None], 0)
            _give(
                gradient,
                rows,
                program,
                own + WEIGHT_READS,
                tl.where(one, weight_place[:, None], 0),
                of_weight,
                example,
                lane,
                one,
                batch,
                BY_ROW,
            )
