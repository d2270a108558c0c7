"""The gradient of memory on a CPU: dense, or of the rows that a batch has read.

Dense: each thread owns a range of memory and adds up all that is read there. No two threads write one float, and every
float sums its reads in the order of the batch: the same bits whatever the number of threads. Each thread computes the
places of all ids of the tables it has a share in, which costs a nanosecond or two each; ranges are cut where equally
many reads are expected, so that most tables fall into one range whole.

Of rows, in three steps: the reads of a batch are collected, sorted by row segment by segment (a radix sort that keeps
the order of equal rows: sums are taken in the order of the batch), and summed. A read is one word: its row within the
segment in the upper 32 bits; in the lower 32 which of the segment's reads it is, and the example, which takes the last
`example_bits`.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import types

from tablefold.compilation import part
from tablefold.ops.cpu import DIGITS, TILE, Arguments
from tablefold.ops.kernels.lanes import (
    CODED,
    array_at,
    fetch_add,
    header,
    make_kernel,
    past,
    piece_at,
    pointer_int64,
    pointer_like,
    range_at,
    read_at,
    scratch_like,
    scratch_words,
    segment_at,
    set_scaled,
    source_of,
    spill_row,
    spill_rows,
    word_at,
    zero,
)
from tablefold.ops.kernels.places import places_of, quotients, signs_of, weights_of
from tablefold.ops.kernels.projections import add_to_projection, unproject
from tablefold.ops.kernels.vectors import examples_of, is_whole, load_ids, read_inner, read_rows, read_runs, select
from tablefold.ops.program import MULTIPLY, QUANTILES


@part
def scatter_ranges(arguments, kind, coded):
    """Take ranges of memory until none is left; write their gradient."""
    program = header(arguments.program)
    ranges, quantiles = arguments.ranges, program.quantiles_at
    while True:
        part = fetch_add(arguments, "next", 1)
        if part >= ranges:
            return
        low = word_at(program, quantiles + part * QUANTILES // ranges)
        high = word_at(program, quantiles + (part + 1) * QUANTILES // ranges)
        _clear(arguments, program, low, high, kind)
        space = arguments.space + 8 * part * space_words(program)
        for table in range(program.tables):
            for chain in range(first_chain(program, table), first_chain(program, table + 1)):
                chains = program.chains_at + chain
                first, last = word_at(program, chains), word_at(program, chains + 1)
                if _touches_any(arguments, program, first, last, low, high):
                    _scatter_chain(arguments, coded, program, table, first, last, low, high, kind, space)


@part
def first_chain(program, table):
    """The number of a table's first chain; of the table after the last, one more than that of the last chain."""
    return range_at(program, word_at(program, program.columns_at + table)).chain


@part
def space_words(program):
    """`arguments.space_words`, from a program."""
    return TILE * (4 * program.longest + 3 * program.widest + program.innermost) + DIGITS


@part
def _clear(arguments, program, low, high, kind):
    """Set the dense gradients of a range to zero."""
    for number in range(program.arrays):
        array, source = array_at(program, number), source_of(arguments, number)
        first, last = max(low, array.start), min(high, array.end)
        if source.gradient and first < last:
            zero(pointer_like(kind, source.gradient), first, last)


@part
def _touches_any(arguments, program, first, last, low, high):
    for number in range(first, last):  # noqa: SIM110  (Numba has no generators here)
        if _touches(arguments, piece_at(program, number), low, high):
            return True
    return False


@part
def _touches(arguments, piece, low, high):
    """Whether a piece may read rows, a weight or a projection in [low, high) of an array with a dense gradient."""
    if _rows_touch(arguments, piece, low, high) or _weight_touches(arguments, piece, low, high):
        return True
    return _projection_touches(arguments, piece, low, high)


@part
def _rows_touch(arguments, piece, low, high):
    if piece.low >= high or piece.high <= low:
        return False
    return source_of(arguments, piece.array).gradient != 0


@part
def _weight_touches(arguments, piece, low, high):
    if piece.weighted == 0 or piece.weight_low >= high or piece.weight_high <= low:
        return False
    return source_of(arguments, piece.weight_array).gradient != 0


@part
def _projection_touches(arguments, piece, low, high):
    if piece.projected == 0 or piece.matrix >= high or piece.matrix_end <= low:
        return False
    return source_of(arguments, piece.matrix_array).gradient != 0


@part
def _scatter_chain(arguments, coded, program, table, first, last, low, high, kind, space):
    """Add the gradient of all reads of one chain that lie in a range."""
    vectors = pointer_like(kind, arguments.vectors)
    slot, width = piece_at(program, first).slot, piece_at(program, first).width
    examples = examples_of(arguments, table)
    all_ids, own_ids, chosen = scratch_words(), scratch_words(), scratch_words()
    multiplies, selects = _multiplies(program, first, last), not is_whole(program, table)
    rows = pointer_like(kind, part_of(space, 4 * (last - first)))
    for begin in range(0, examples, TILE):
        count = min(TILE, examples - begin)
        if not load_ids(arguments, program, table, begin, all_ids, count):
            continue
        source, start, step, ids = vectors, begin * arguments.floats + slot, arguments.floats, all_ids
        if selects or arguments.starts:
            source, start, step, ids = (
                pointer_like(kind, part_of(space, 4 * (last - first) + 2 * width)),
                0,
                width,
                own_ids,
            )
            count = select(program, piece_at(program, first).range, all_ids, count, own_ids, chosen)
            take(arguments, table, begin, chosen, count, vectors, slot, source, width)
        if count == 0:
            continue
        for number in range(first, last):
            piece = piece_at(program, number)
            if multiplies or _touches(arguments, piece, low, high):
                locate(arguments, piece, ids, count, kind, part_of(space, 4 * (number - first)))
        for number in range(first, last):
            piece = piece_at(program, number)
            if not _touches(arguments, piece, low, high):
                continue
            own = part_of(space, 4 * (number - first))
            given, begin_given, step_given = source, start, step
            if multiplies:
                chain_rule(arguments, coded, program, first, last, number, space, source, start, step, rows, count)
                given, begin_given, step_given = rows, 0, width
            array = array_at(program, piece.array)
            inner = pointer_like(kind, inner_space(program, space))
            _scatter_piece(arguments, coded, piece, array, low, high, own, given, begin_given, step_given, inner, count)


@part
def _multiplies(program, first, last):
    """Whether a chain has factors."""
    for number in range(first + 1, last):  # noqa: SIM110
        if piece_at(program, number).op == MULTIPLY:
            return True
    return False


@part
def part_of(space, number):
    """The address of the scratch's `number`-th tile of words."""
    return space + 8 * TILE * number


@part
def inner_space(program, space):
    """The address of the scratch for rows that are projected."""
    return part_of(space, 4 * program.longest + 3 * program.widest)


@part
def take(arguments, table, begin, chosen, count, vectors, slot, rows, width):
    """Fill `rows` with the gradients of the `chosen` vectors of a tile; of bags, their bag's times the weight."""
    step = arguments.floats
    if arguments.starts == 0:
        for i in range(count):
            set_scaled(rows, i * width, vectors, (begin + chosen[i]) * step + slot, 1, width)
        return
    first, bags = pointer_int64(arguments.starts)[table] + begin, pointer_int64(arguments.bags)
    weights = pointer_like(vectors, arguments.weights)
    for i in range(count):
        example = first + chosen[i]
        weight = weights[example] if arguments.weights else 1
        set_scaled(rows, i * width, vectors, bags[example] * step + slot, weight, width)


@part
def locate(arguments, piece, ids, count, kind, space):
    """Fill a piece's four tiles of scratch: places, places of weights, signs, and factors (signs times weights)."""
    words, spare = scratch_words(), scratch_words()
    places, weights = pointer_int64(space), pointer_int64(part_of(space, 1))
    signs, factors = pointer_like(kind, part_of(space, 2)), pointer_like(kind, part_of(space, 3))
    places_of(arguments, piece, ids, places, words, spare, count)
    if piece.signed:
        signs_of(words, signs, count)
    else:
        for i in range(count):
            signs[i] = 1
    for i in range(count):
        factors[i] = signs[i]
    if piece.weighted:
        weights_of(arguments, piece, ids, weights, spare, count)
        learned = pointer_like(kind, source_of(arguments, piece.weight_array).memory)
        for i in range(count):
            factors[i] *= learned[weights[i]]


@part
def chain_rule(arguments, coded, program, first, last, wanted, space, vectors, start, step, rows, count):
    """Fill `rows` with the gradient of what the `wanted` piece contributes: that of the vectors times all that
    multiplies it, which is every later factor and, where the piece is a factor itself, all that came before it.
    """
    piece = piece_at(program, wanted)
    width = piece.width
    for i in range(count):
        for j in range(width):
            rows[i * width + j] = vectors[start + i * step + j]
    if piece.op == MULTIPLY and wanted > first:
        before = pointer_like(rows, part_of(space, 4 * (last - first) + width))
        for number in range(first, wanted):
            op = piece_at(program, number).op
            _read_piece(arguments, coded, program, number, op, part_of(space, 4 * (number - first)), before, count)
        for i in range(count * width):
            rows[i] *= before[i]
    for number in range(wanted + 1, last):
        if piece_at(program, number).op == MULTIPLY:
            _read_piece(arguments, coded, program, number, MULTIPLY, part_of(space, 4 * (number - first)), rows, count)


@part
def _read_piece(arguments, coded, program, number, op, space, rows, count):
    piece = piece_at(program, number)
    scaled = piece.signed or piece.weighted
    places, factors = pointer_int64(space), pointer_like(rows, part_of(space, 3))
    target = (rows, 0, piece.width)
    array = array_at(program, piece.array)
    read_rows(arguments, coded, piece, array, op, scaled, target, target, places, factors, count, False)


@part
def _scatter_piece(arguments, coded, piece, array, low, high, space, source, start, stride, inner, count):
    """Add rows of `source` to the gradient at its places, as far as they lie in [low, high); `inner` is scratch."""
    places, weights = pointer_int64(space), pointer_int64(part_of(space, 1))
    signs, factors = pointer_like(source, part_of(space, 2)), pointer_like(source, part_of(space, 3))
    if _rows_touch(arguments, piece, low, high):
        gradient = pointer_like(source, source_of(arguments, piece.array).gradient)
        given, begin, step = source, start, stride
        if piece.projected:
            given, begin, step = inner, 0, piece.inner
            unproject(arguments, piece, source, start, stride, inner, count)
        if piece.low >= low and piece.high <= high and piece.wrap == 0:
            spill_rows(gradient, places, given, begin, step, factors, count, piece.inner)
        else:
            _spill_clipped(piece, low, high, places, factors, gradient, given, begin, step, count)
    if _projection_touches(arguments, piece, low, high):
        width = piece.inner
        read_inner(arguments, coded, piece, array, places, 0, width, (inner, 0, width), count)
        for i in range(count):
            set_scaled(inner, i * width, inner, i * width, factors[i], width)
        add_to_projection(arguments, piece, low, high, inner, source, start, stride, count)
    if _weight_touches(arguments, piece, low, high):
        gradient = pointer_like(source, source_of(arguments, piece.weight_array).gradient)
        for i in range(count):
            if low <= weights[i] < high:
                above = start + i * stride
                gradient[weights[i]] += signs[i] * inner_product(
                    arguments, coded, piece, array, past(places, i), source, above
                )


@part
def inner_product(arguments, coded, piece, array, places, source, begin):
    """The inner product of the row that a piece reads at the first of some places and a row of `source`."""
    stage = scratch_like(source)
    stage[0] = 0
    result = stage[0]
    for first in range(0, piece.width, TILE):
        count = min(TILE, piece.width - first)
        read_runs(arguments, coded, piece, array, places, first, count, (stage, 0, count), 1)
        for j in range(count):
            result += source[begin + first + j] * stage[j]
    return result


@part
def _spill_clipped(piece, low, high, places, factors, gradient, source, start, stride, count):
    """`_scatter_piece` where rows may cross the edges of the range, or the end of a circular region."""
    width, wrap = piece.inner, piece.wrap
    if wrap:
        end = piece.base + wrap
        for i in range(count):
            place = piece.base + places[i]
            for j in range(width):
                if low <= place < high:
                    gradient[place] += factors[i] * source[start + i * stride + j]
                place += 1
                if place == end:
                    place = piece.base
        return
    chosen = scratch_like(places)
    found = 0
    for i in range(count):  # no branch: which of the ids fall into this range is a coin toss
        chosen[found] = i
        found += (places[i] < high) & (places[i] + width > low)
    for n in range(found):
        i = chosen[n]
        place, begin = places[i], start + i * stride
        if low <= place and place + width <= high:
            spill_row(gradient, place, source, begin, factors[i], width)
        else:
            for j in range(max(0, low - place), min(width, high - place)):
                gradient[place + j] += factors[i] * source[begin + j]


@part
def collect_reads(arguments, kind, coded):
    """Take tiles until none is left; write where their examples read, and gradients that are not the vectors'."""
    program = header(arguments.program)
    batch = arguments.batch
    space = arguments.space + 8 * space_words(program) * fetch_add(arguments, "slot", 1)
    ids, own, chosen = scratch_words(), scratch_words(), scratch_words()
    while True:
        begin = TILE * fetch_add(arguments, "next", 1)
        if begin >= batch:
            return
        for table in range(program.tables):
            count = min(TILE, examples_of(arguments, table) - begin)
            if count <= 0 or not load_ids(arguments, program, table, begin, ids, count):
                continue
            columns = program.columns_at + table
            for number in range(word_at(program, columns), word_at(program, columns + 1)):
                found = select(program, number, ids, count, own, chosen)
                for chain in range(range_at(program, number).chain, range_at(program, number + 1).chain):
                    chains = program.chains_at + chain
                    first, last = word_at(program, chains), word_at(program, chains + 1)
                    if found < count:
                        _write_none(arguments, program, first, last, begin, count)
                    _collect(arguments, coded, program, table, first, last, own, begin, chosen, found, kind, space)


@part
def _write_none(arguments, program, first, last, begin, count):
    """For all examples of a tile, that they read nothing of a chain: -1."""
    reads, read_starts = pointer_int64(arguments.reads), pointer_int64(arguments.read_starts)
    for number in range(first, last):
        piece = piece_at(program, number)
        read = segment_at(program, piece.row_reads.segment).first_read + piece.row_reads.read
        for each in range(read, read + piece.inner // array_at(program, piece.array).width):
            for i in range(count):
                reads[read_starts[each] + begin + i] = -1
        if piece.weighted:
            read = segment_at(program, piece.weight_reads.segment).first_read + piece.weight_reads.read
            for i in range(count):
                reads[read_starts[read] + begin + i] = -1


@part
def _collect(arguments, coded, program, table, first, last, ids, begin, chosen, count, kind, space):
    """The reads of one chain, by the `chosen` examples of a tile."""
    vectors = pointer_like(kind, arguments.vectors)
    rows = pointer_like(kind, part_of(space, 4 * (last - first)))
    slot, width = piece_at(program, first).slot, piece_at(program, first).width
    source, start, step = vectors, begin * arguments.floats + slot, arguments.floats
    if arguments.starts or not is_whole(program, table):
        source, start, step = pointer_like(kind, part_of(space, 4 * (last - first) + 2 * width)), 0, width
        take(arguments, table, begin, chosen, count, vectors, slot, source, width)
    for number in range(first, last):
        own = part_of(space, 4 * (number - first))
        locate(arguments, piece_at(program, number), ids, count, kind, own)
    for number in range(first, last):
        own = part_of(space, 4 * (number - first))
        piece = piece_at(program, number)
        _write_reads(arguments, program, piece, False, own, begin, chosen, count)
        if piece.weighted:
            _write_reads(arguments, program, piece, True, part_of(own, 1), begin, chosen, count)
        if piece.row_reads.first_computed >= 0:
            inner = pointer_like(kind, inner_space(program, space))
            chain_rule(arguments, coded, program, first, last, number, space, source, start, step, rows, count)
            _write_gradients(arguments, coded, program, piece, own, begin, chosen, count, rows, inner)


@part
def _write_reads(arguments, program, piece, is_weight, source, begin, chosen, count):
    """The reads of a tile, of a piece's rows or of its weights; `source` holds the places."""
    number, read, chunks, wrap = piece.row_reads.segment, piece.row_reads.read, piece.inner, piece.wrap
    if is_weight:
        number, read, chunks, wrap = piece.weight_reads.segment, piece.weight_reads.read, 1, 0
    segment = segment_at(program, number)
    width, first = segment.width, segment.first_read + read
    base = piece.base if wrap else 0  # a place that wraps is that within its region
    reads, read_starts = pointer_int64(arguments.reads), pointer_int64(arguments.read_starts)
    places, rows = pointer_int64(source), scratch_words()
    for i in range(count):
        rows[i] = places[i] + base - segment.first
    quotients(rows, count, width, False)
    chunks, end = chunks // width, (base - segment.first + wrap) // width
    for i in range(count):
        row, example = rows[i], begin + chosen[i]
        for chunk in range(chunks):
            label = ((read + chunk) << arguments.example_bits) | example
            reads[read_starts[first + chunk] + example] = (row << 32) | label
            row += 1
            if wrap and row == end:
                row -= wrap // width


@part
def _write_gradients(arguments, coded, program, piece, own, begin, chosen, count, rows, inner):
    """The gradients of a tile's reads: `rows` times the factors; for weights, one float each. `inner` is scratch."""
    batch, width = arguments.batch, piece.width
    array = array_at(program, piece.array)
    gradients = pointer_like(rows, arguments.computed)
    places = pointer_int64(own)
    signs, factors = pointer_like(rows, part_of(own, 2)), pointer_like(rows, part_of(own, 3))
    if piece.weighted:
        first = piece.weight_reads.first_computed * batch + begin
        for i in range(count):
            product = inner_product(arguments, coded, piece, array, past(places, i), rows, i * width)
            gradients[first + chosen[i]] = signs[i] * product
    if piece.projected:
        unproject(arguments, piece, rows, 0, width, inner, count)
        rows, width = inner, piece.inner
    unit = array.width
    for first in range(0, width, unit):
        row = (piece.row_reads.first_computed + first) * batch + begin * unit
        for i in range(count):
            for j in range(unit):
                gradients[row + chosen[i] * unit + j] = factors[i] * rows[i * width + first + j]


@part
def sort_reads(arguments, _kind, _coded):
    """Take segments until none is left: sort their reads, and count the rows that are read."""
    program, counts = header(arguments.program), pointer_int64(arguments.counts)
    digits = pointer_int64(arguments.space + 8 * DIGITS * fetch_add(arguments, "slot", 1))
    starts = pointer_int64(arguments.read_starts)
    while True:
        number = fetch_add(arguments, "next", 1)
        if number >= program.segments:
            return
        segment = segment_at(program, number)
        if source_of(arguments, segment.array).by_row == 0:
            counts[number] = 0
            continue
        first = segment.first_read
        begin, end = starts[first], starts[first + segment.reads]
        reads, other = pointer_int64(arguments.reads + 8 * begin), pointer_int64(arguments.sorted + 8 * begin)
        count = end - begin
        if word_at(program, program.columns_at + program.tables) > program.tables:  # there are ranges
            count = _drop_none(reads, count)
        _sort(reads, other, count, segment.rows, digits)
        counts[number] = _distinct(reads, count)
        if count < end - begin:
            reads[count] = -1


@part
def _drop_none(reads, count):
    """Move the reads that there are to the front; how many."""
    found = 0
    for i in range(count):
        reads[found] = reads[i]
        found += reads[i] >= 0
    return found


@part
def _sort(reads, other, count, rows, digits):
    """Sort by the upper 32 bits, which are less than `rows`; the result is in `reads`."""
    shift = 32
    source, target = reads, other
    while rows > 1:
        for digit in range(DIGITS):
            digits[digit] = 0
        for i in range(count):
            digits[(source[i] >> shift) & (DIGITS - 1)] += 1
        before = 0
        for digit in range(DIGITS):
            size = digits[digit]
            digits[digit] = before
            before += size
        for i in range(count):
            read = source[i]
            digit = (read >> shift) & (DIGITS - 1)
            target[digits[digit]] = read
            digits[digit] += 1
        source, target = target, source
        shift += 8
        rows = (rows + DIGITS - 1) // DIGITS
    if (shift // 8) % 2:
        for i in range(count):
            reads[i] = other[i]


@part
def _distinct(reads, count):
    """How many rows the sorted reads go to."""
    found = 1 if count else 0
    for i in range(1, count):
        found += (reads[i] >> 32) != (reads[i - 1] >> 32)
    return found


@part
def sum_rows(arguments, kind, _coded):
    """Take segments until none is left: write the number and the gradient of each row that is read in it."""
    vectors = pointer_like(kind, arguments.vectors)
    program = header(arguments.program)
    while True:
        number = fetch_add(arguments, "next", 1)
        if number >= program.segments:
            return
        segment = segment_at(program, number)
        if source_of(arguments, segment.array).by_row:
            _sum_segment(arguments, program, segment, number, vectors)


@part
def _sum_segment(arguments, program, segment, number, vectors):
    batch, step, unit = arguments.batch, arguments.floats, segment.width
    starts, bits = pointer_int64(arguments.read_starts), arguments.example_bits
    first_read = segment.first_read
    first, last = starts[first_read], starts[first_read + segment.reads]
    reads = pointer_int64(arguments.reads)
    rows, values = pointer_int64(arguments.rows), pointer_like(vectors, arguments.values)
    computed = pointer_like(vectors, arguments.computed)
    out = pointer_int64(arguments.counts)[number] - 1
    to = pointer_int64(arguments.value_starts)[number] - unit
    latest = -1
    for i in range(first, last):
        row, label = reads[i] >> 32, reads[i] & 0xFFFFFFFF
        if row < 0:  # the rest of the examples read nothing here
            return
        source = read_at(program, first_read + (label >> bits))
        example = label & ((1 << bits) - 1)
        gradients, begin, factor = vectors, example * step + source.slot, types.float64(1)
        if source.slot < 0:
            gradients, begin = computed, source.computed * batch + example * unit
        elif arguments.starts:
            place = pointer_int64(arguments.starts)[source.table] + example
            begin = pointer_int64(arguments.bags)[place] * step + source.slot
            if arguments.weights:
                factor = types.float64(pointer_like(vectors, arguments.weights)[place])
        if row != latest:
            latest = row
            out, to = out + 1, to + unit
            rows[out] = row + segment.first_row
            set_scaled(values, to, gradients, begin, factor, unit)
        else:
            spill_row(values, to, gradients, begin, factor, unit)


scatter_kernel = make_kernel(scatter_ranges, Arguments)
collect_kernel = make_kernel(collect_reads, Arguments)
coded_scatter_kernel = make_kernel(scatter_ranges, Arguments, CODED, coded=True)
coded_collect_kernel = make_kernel(collect_reads, Arguments, CODED, coded=True)
sort_kernel = make_kernel(sort_reads, Arguments, ("int64",))
sum_kernel = make_kernel(sum_rows, Arguments)
