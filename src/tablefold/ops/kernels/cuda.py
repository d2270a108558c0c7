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
from tablefold.ops.kernels.cuda_loads import AS_THEY_ARE, array_at, field, get, read, source_of

MULTIPLY_1 = tl.constexpr(hashing.signed64(hashing._MULTIPLY_1))
MULTIPLY_2 = tl.constexpr(hashing.signed64(hashing._MULTIPLY_2))
MASK_34, MASK_37, MASK_33, MASK_53 = (tl.constexpr((1 << bits) - 1) for bits in (34, 37, 33, 53))

MULTIPLY = tl.constexpr(p.MULTIPLY)
PIECE_WORDS, SEGMENT_WORDS = tl.constexpr(p.words(p.Piece)), tl.constexpr(p.words(p.Segment))
RANGE_WORDS = tl.constexpr(p.words(p.Range))


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
def _reached(edges, first, total, x, mask):
    """How many of `total` edges each number has reached, by halving."""
    place = tl.zeros(x.shape, tl.int64) + first
    while total > 1:
        half = total // 2
        place += half * (tl.load(edges + place + half - 1, mask=mask, other=0).to(tl.int64) <= x).to(tl.int64)
        total -= half
    return place + (tl.load(edges + place, mask=mask, other=0).to(tl.int64) <= x).to(tl.int64) - first


@triton.jit
def _bucket(program, part, lookup, edges, x, mask):
    """(buckets, hashed words) of a partition."""
    number = x
    divisor = get(program, part, "part.div")
    if divisor != 1:
        number = _quotient(number, divisor, get(program, part, "part.div_exact"))
    word = number
    first = get(program, part, "part.lookup")
    if get(program, part, "part.hashed") != 0:
        word = _mix(number, get(program, part, "part.key"))
        number = (word >> 11) & MASK_53
    elif first >= 0:
        number = tl.load(lookup + first + number, mask=mask, other=0).to(tl.int64)
        highest = get(program, part, "part.highest")  # whatever the array holds, no read leaves memory
        number = tl.where((number < 0) | (number > highest), highest, number)
    elif get(program, part, "part.edges") != 0:
        number = _reached(edges, get(program, part, "part.first_edge"), get(program, part, "part.edges"), number, mask)
    buckets = get(program, part, "part.buckets")
    if buckets != 0:
        number -= _quotient(number, buckets, get(program, part, "part.buckets_exact")) * buckets
    return number, word


@triton.jit
def _locate(program, piece, lookup, edges, x, lane, mask):
    """(places `[block, lanes]`, hashed words `[block]`) of what a piece reads, `lane` after its first float."""
    x -= get(program, piece, "piece.first")
    number, word = _bucket(program, piece + field("piece.part"), lookup, edges, x, mask)
    place = get(program, piece, "piece.stride") * number + get(program, piece, "piece.offset")
    neighbours = get(program, piece, "piece.neighbours")
    if neighbours > 1:
        side = x - _quotient(x, neighbours, get(program, piece, "piece.part.div_exact")) * neighbours
        place += get(program, piece, "piece.step") * side
    places = place[:, None] + lane[None, :]
    wrap = get(program, piece, "piece.wrap")
    if wrap != 0:
        places = places % wrap
    return get(program, piece, "piece.base") + places, word


@triton.jit
def _factor(program, piece, sources, lookup, edges, x, word, mask, like):
    """(signs, places of weights, weights) `[block]`; 1 without. Weights are kept as they are."""
    x -= get(program, piece, "piece.first")
    sign = tl.full(x.shape, 1, like.dtype.element_ty)
    weight = tl.full(x.shape, 1, like.dtype.element_ty)
    place = tl.zeros(x.shape, tl.int64)
    if get(program, piece, "piece.signed") != 0:
        sign = (1 - 2 * (word & 1)).to(like.dtype.element_ty)
    if get(program, piece, "piece.weighted") != 0:
        bucket, _ = _bucket(program, piece + field("piece.weight_part"), lookup, edges, x, mask)
        place = get(program, piece, "piece.weight_base") + get(program, piece, "piece.weight_stride") * bucket
        number = get(program, piece, "piece.weight_array")
        weight = read(program, sources, number, place, mask, like, AS_THEY_ARE)
    return sign, place, weight


@triton.jit
def _read_width(program, piece):
    """Floats that a piece reads as they are: none where it projects them."""
    return get(program, piece, "piece.width") * (get(program, piece, "piece.projected") == 0).to(tl.int64)


@triton.jit
def _one_float(program, piece, sources, lookup, edges, x, k, mask, like, READS: tl.constexpr):
    """Float number `k` of the row that each id reads before it is projected, and its place, `[block]`."""
    places, _ = _locate(program, piece, lookup, edges, x, tl.zeros((1,), tl.int64) + k, mask)
    number = get(program, piece, "piece.array")
    floats = read(program, sources, number, places, mask[:, None], like, READS)
    return tl.sum(tl.where(mask[:, None], floats, 0.0), axis=1), tl.sum(places, axis=1)


@triton.jit
def _matrix(program, piece, sources, k, lane, like):
    """Row `k` of a piece's projection, `[1, lanes]`, and its places."""
    places = get(program, piece, "piece.matrix") + k * get(program, piece, "piece.matrix_step") + lane[None, :]
    inside = lane[None, :] < get(program, piece, "piece.width")
    return read(program, sources, get(program, piece, "piece.matrix_array"), places, inside, like, AS_THEY_ARE), places


@triton.jit
def _read_plain(
    program, piece, sources, lookup, edges, x, lane, mask, like, READS: tl.constexpr, PROJECTS: tl.constexpr
):
    """The rows that a piece contributes but for signs and weights: read as they are, or projected."""
    inside = mask[:, None] & (lane[None, :] < _read_width(program, piece))
    places, _ = _locate(program, piece, lookup, edges, x, lane, mask)
    rows = read(program, sources, get(program, piece, "piece.array"), places, inside, like, READS)
    if PROJECTS:
        rows = tl.where(inside, rows, 0.0)  # codes that are not there are no zeros
        for k in range(get(program, piece, "piece.projected")):
            own, _place = _one_float(program, piece, sources, lookup, edges, x, k, mask, like, READS)
            row, _row_place = _matrix(program, piece, sources, k, lane, like)
            rows += own[:, None] * row
    return rows


@triton.jit
def _read(program, piece, sources, lookup, edges, x, lane, mask, like, READS: tl.constexpr, PROJECTS: tl.constexpr):
    """The rows that a piece contributes, signs and weights included."""
    rows = _read_plain(program, piece, sources, lookup, edges, x, lane, mask, like, READS, PROJECTS)
    _, word = _locate(program, piece, lookup, edges, x, lane, mask)
    sign, _, weight = _factor(program, piece, sources, lookup, edges, x, word, mask, like)
    return rows * (sign * weight)[:, None]


@triton.jit
def _compose(
    program,
    pieces,
    first,
    last,
    sources,
    lookup,
    edges,
    x,
    lane,
    mask,
    like,
    READS: tl.constexpr,
    PROJECTS: tl.constexpr,
):
    """What the pieces of a chain from `first` up to `last` come to."""
    rows = _read(program, pieces + first * PIECE_WORDS, sources, lookup, edges, x, lane, mask, like, READS, PROJECTS)
    for number in range(first + 1, last):
        piece = pieces + number * PIECE_WORDS
        more = _read(program, piece, sources, lookup, edges, x, lane, mask, like, READS, PROJECTS)
        if get(program, piece, "piece.op") == MULTIPLY:
            rows = rows * more
        else:
            rows = rows + more
    return rows


@triton.jit
def _task(program, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """(examples of this block, lanes, where pieces begin, the first piece of this chain, the one after its last)."""
    example = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    chains = program + get(program, 0, "header.chains_at") + tl.program_id(1)
    return example, tl.arange(0, LANES), get(program, 0, "header.pieces_at"), tl.load(chains), tl.load(chains + 1)


@triton.jit
def _ids(program, piece, ids, example, id_row, id_column, batch):
    """(ids of the block's examples, which of them are in the piece's range, which are outside their table)."""
    table = get(program, piece, "piece.table")
    mask = example < batch
    x = tl.load(ids + example * id_row + table * id_column, mask=mask, other=0).to(tl.int64)
    rows = tl.load(program + get(program, 0, "header.rows_at") + table)
    tame = ((x >= 0) & (x < rows)).to(tl.int32) + (rows == 0).to(tl.int32) > 0
    own = get(program, 0, "header.ranges_at") + get(program, piece, "piece.range") * RANGE_WORDS
    size = get(program, own, "range.size")
    counted = (x - get(program, own, "range.first")).to(tl.uint64)
    reads = (counted < size.to(tl.uint64)).to(tl.int32) + (size == 0).to(tl.int32) > 0
    return x, mask & tame & reads, mask & (tame == 0)


@triton.jit
def gather_kernel(
    sources,
    lookup,
    edges,
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
    LAYOUT: tl.constexpr,
    READS: tl.constexpr,
    PROJECTS: tl.constexpr,
):
    """Compose one slot interval of a block of examples; `wild` gets the place of the first id outside its table."""
    example, lane, pieces, first, last = _task(program, BLOCK, LANES)
    head = pieces + first * PIECE_WORDS
    x, mask, refused = _ids(program, head, ids, example, id_row, id_column, batch)
    position = example * get(program, 0, "header.tables") + get(program, head, "piece.table")
    tl.atomic_min(wild + tl.zeros(example.shape, tl.int32), position, mask=refused)
    rows = _compose(program, pieces, first, last, sources, lookup, edges, x, lane, mask, vectors, READS, PROJECTS)
    inside = mask[:, None] & (lane[None, :] < get(program, head, "piece.width"))
    slot = get(program, head, "piece.slot")
    tl.store(vectors + example[:, None] * floats + slot + lane[None, :], rows, mask=inside)


@triton.jit
def _gained(
    program,
    pieces,
    first,
    wanted,
    last,
    sources,
    lookup,
    edges,
    x,
    lane,
    mask,
    above,
    like,
    READS: tl.constexpr,
    PROJECTS: tl.constexpr,
):
    """The gradient of what the `wanted` piece of a chain contributes: `above` times all that multiplies it."""
    gained = above
    if get(program, pieces + wanted * PIECE_WORDS, "piece.op") == MULTIPLY:
        before = _compose(program, pieces, first, wanted, sources, lookup, edges, x, lane, mask, like, READS, PROJECTS)
        gained = gained * before
    for number in range(wanted + 1, last):
        piece = pieces + number * PIECE_WORDS
        if get(program, piece, "piece.op") == MULTIPLY:
            gained = gained * _read(program, piece, sources, lookup, edges, x, lane, mask, like, READS, PROJECTS)
    return gained


@triton.jit
def _give(program, sources, number, listing, places, values, lane, example, mask, batch, rows, like):
    """Add `values [block, lanes]` at `places` of an array's gradient or, where that is by row, list them under the
    reads that a `Listing` names; `lane` counts the floats of the piece.
    """
    gradient = source_of(sources, number, "gradient").to(like.dtype)
    if source_of(sources, number, "by_row") != 0:
        segment = get(program, 0, "header.segments_at") + get(program, listing, "listing.segment") * SEGMENT_WORDS
        width = get(program, segment, "segment.width")
        first = get(program, segment, "segment.first_read") + get(program, listing, "listing.read")
        entry = (first + lane // width)[None, :] * batch + example[:, None]
        places -= get(program, array_at(program, number), "array.start")
        tl.store(rows + entry, places // width, mask=mask)
        tl.store(gradient + entry * width + places % width, values, mask=mask)
    else:
        tl.atomic_add(gradient + places, values, mask=mask)


@triton.jit
def _give_projected(
    program,
    own,
    sources,
    lookup,
    edges,
    x,
    k,
    lane,
    mask,
    gained,
    factor,
    example,
    batch,
    rows,
    part,
    like,
    READS: tl.constexpr,
):
    """What float number `k` of a piece's rows gains, and row `k` of its projection: the sum over this block, added to
    all others' or, where gradients lie in parts of `part` floats, to its own.
    """
    one = tl.zeros((1,), tl.int64) + k
    row, matrix_places = _matrix(program, own, sources, k, lane, like)
    floats, places = _one_float(program, own, sources, lookup, edges, x, k, mask, like, READS)
    values = (tl.sum(gained * row, axis=1) * factor)[:, None]
    number, listing = get(program, own, "piece.array"), own + field("piece.row_reads")
    _give(program, sources, number, listing, places[:, None], values, one, example, mask[:, None], batch, rows, like)
    total = tl.sum(gained * (floats * factor)[:, None], axis=0)[None, :]
    gradient = source_of(sources, get(program, own, "piece.matrix_array"), "gradient").to(like.dtype)
    inside = lane[None, :] < get(program, own, "piece.width")
    number = tl.program_id(0).to(tl.int64) * get(program, 0, "header.matrix_parts") + get(
        program, own, "piece.matrix_part"
    )
    tl.atomic_add(gradient + number * part + matrix_places, total, mask=inside)


@triton.jit
def scatter_kernel(
    vectors,
    sources,
    lookup,
    edges,
    ids,
    program,
    rows,
    part,
    batch,
    floats,
    id_row,
    id_column,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    LAYOUT: tl.constexpr,
    READS: tl.constexpr,
    PROJECTS: tl.constexpr,
):
    """Add what a block's slot interval gives to the gradients of arrays, atomically; of those that are by row, list for
    each read of an example its row (`rows [reads, batch]`) and, as the array's gradient, what that gains
    (`[reads, batch, width]`, where what would be the program's first read is).
    """
    example, lane, pieces, first, last = _task(program, BLOCK, LANES)
    head = pieces + first * PIECE_WORDS
    x, mask, _ = _ids(program, head, ids, example, id_row, id_column, batch)
    inside = mask[:, None] & (lane[None, :] < get(program, head, "piece.width"))
    slot = get(program, head, "piece.slot")
    above = tl.load(vectors + example[:, None] * floats + slot + lane[None, :], mask=inside, other=0)
    for wanted in range(first, last):
        own = pieces + wanted * PIECE_WORDS
        gained = _gained(
            program, pieces, first, wanted, last, sources, lookup, edges, x, lane, mask, above, vectors, READS, PROJECTS
        )
        places, word = _locate(program, own, lookup, edges, x, lane, mask)
        sign, weight_place, weight = _factor(program, own, sources, lookup, edges, x, word, mask, vectors)
        number, listing = get(program, own, "piece.array"), own + field("piece.row_reads")
        direct, factor = mask[:, None] & (lane[None, :] < _read_width(program, own)), sign * weight
        if PROJECTS:
            for k in range(get(program, own, "piece.projected")):
                _give_projected(
                    program,
                    own,
                    sources,
                    lookup,
                    edges,
                    x,
                    k,
                    lane,
                    mask,
                    gained,
                    factor,
                    example,
                    batch,
                    rows,
                    part,
                    vectors,
                    READS,
                )
        values = gained * factor[:, None]
        _give(program, sources, number, listing, places, values, lane, example, direct, batch, rows, vectors)
        if get(program, own, "piece.weighted") != 0:
            row = _read_plain(program, own, sources, lookup, edges, x, lane, mask, vectors, READS, PROJECTS)
            one = mask[:, None] & (lane[None, :] == 0)
            values = tl.where(one, (tl.sum(gained * row, axis=1) * sign)[:, None], 0)
            number, listing = get(program, own, "piece.weight_array"), own + field("piece.weight_reads")
            places = tl.where(one, weight_place[:, None], 0)
            _give(program, sources, number, listing, places, values, lane, example, one, batch, rows, vectors)
