"""The vectors of ids on a CPU: the gather and the sums of bags, a tile of examples at a time, table by table."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tablefold.compilation import part
from tablefold.ops.cpu import TILE, Arguments
from tablefold.ops.kernels.lanes import (
    AHEAD,
    CODED,
    PADDED,
    add_rows,
    add_scaled,
    add_up,
    array_at,
    assign_rows,
    assign_scaled,
    fence,
    fetch_add,
    fetch_min,
    header,
    loop,
    make_kernel,
    multiply_rows,
    multiply_scaled,
    past,
    piece_at,
    pointer_int32,
    pointer_int64,
    pointer_like,
    prefetch_read,
    range_at,
    scratch_ahead,
    scratch_like,
    scratch_rows,
    scratch_words,
    source_of,
    splat,
    word_at,
    zero,
)
from tablefold.ops.kernels.loads import ask_for, assign_coded, read_floats
from tablefold.ops.kernels.places import places_of, signs_of, weights_of
from tablefold.ops.kernels.projections import add_projected, project_onto, set_projected
from tablefold.ops.program import ADD, ASSIGN, LINE, MULTIPLY, PLAIN

NEAR = 1 << 11
"""Rows of so many floats in all are soon in the first cache: nobody need ask for them."""

IDS_IN_LINE = 8
"""Neighbouring ids that are fetched together, as long as those of the tables before are worked on."""

MOST_RANGES = TILE
"""Ranges that a tile's ids are sorted into at once."""


@part
def gather_tiles(arguments, kind, coded):
    """Take tiles until none is left; write the vectors of their examples, of tables whose ids the same terms read.

    Where it `streams`, vectors are written past the caches, and what their last rows are added to is put together in
    scratch. Plain writes fetch each line first, only to overwrite it, and drive rows of memory out of the caches.
    """
    program, step = header(arguments.program), arguments.floats
    vectors = pointer_like(kind, arguments.vectors)
    tile = pointer_like(kind, arguments.space + 8 * TILE * program.most_slots * fetch_add(arguments, "slot", 1))
    batch, ids, streams = arguments.batch, scratch_words(), arguments.streams != 0
    while True:
        begin = TILE * fetch_add(arguments, "next", 1)
        if begin >= batch:
            fence()
            return
        count = min(TILE, batch - begin)
        for table in range(program.tables):
            if load_ids(arguments, program, table, begin, ids, count):
                target = partial = (vectors, begin * step, step)
                if streams:
                    partial = (tile, -first_slot(program, table), table_floats(program, table, step))
                own = word_at(program, program.columns_at + table)
                compose(arguments, coded, program, own, ids, count, kind, partial, target, streams)


@part
def gather_apart(arguments, kind, coded):
    """`gather_tiles` where ranges of ids have terms of their own, or lines are to be streamed that no piece writes
    whole: the vectors of such a table are put together in scratch, and copied.
    """
    program, step = header(arguments.program), arguments.floats
    vectors = pointer_like(kind, arguments.vectors)
    tile = pointer_like(kind, arguments.space + 8 * TILE * program.most_slots * fetch_add(arguments, "slot", 1))
    batch, ids, rows_at = arguments.batch, scratch_words(), scratch_words()
    streams = arguments.streams != 0
    while True:
        begin = TILE * fetch_add(arguments, "next", 1)
        if begin >= batch:
            fence()
            return
        count = min(TILE, batch - begin)
        for table in range(program.tables):
            if load_ids(arguments, program, table, begin, ids, count):
                target = (vectors, begin * step, step)
                composed = (tile, -first_slot(program, table), table_floats(program, table, step))
                if is_whole(program, table) and (not streams or word_at(program, program.lines_at + table)):
                    own = word_at(program, program.columns_at + table)
                    compose(arguments, coded, program, own, ids, count, kind, composed, target, streams)
                else:
                    compose_apart(arguments, coded, program, table, ids, count, kind, composed, rows_at)
                    _copy(composed, target, rows_at, count, streams)


@part
def _copy(composed, vectors, rows_at, count, streamed):
    """Write a tile's composed rows of one table, past the caches if `streamed`."""
    factors = scratch_like(composed[0])
    target = (vectors[0], vectors[1] - composed[1], vectors[2])
    assign_rows(target, target, composed[0], rows_at, factors, count, composed[2], streamed)


@part
def first_piece(program, table):
    """The number of a table's first piece; of the table after the last, one more than that of the last piece."""
    return first_of_range(program, word_at(program, program.columns_at + table))


@part
def first_of_range(program, number):
    """The number of the first piece of a range of ids, likewise."""
    return word_at(program, program.chains_at + range_at(program, number).chain)


@part
def is_whole(program, table):
    """Whether all ids of a table are read by the same terms."""
    columns = program.columns_at + table
    return word_at(program, columns + 1) - word_at(program, columns) == 1


@part
def select(program, number, ids, count, own, chosen):
    """Copy those of a tile's ids that are in a range to `own`, and which they are to `chosen`; how many there are."""
    reached = which_reach(ids, count, range_at(program, number).first)
    return take_out(reached & ~_beyond(program, number, ids, count), ids, own, chosen, 0)


@part
def sort_out(program, first, ranges, ids, count, own, chosen, begins):
    """Copy a tile's ids to `own` in the order of the ranges that they are in, of `ranges` from number `first` on, and
    which they are to `chosen`; `begins`, which holds where those of the first range begin, gets where those of the
    others do, and where the last ones end."""
    reached = which_reach(ids, count, range_at(program, first).first)
    for n in range(ranges):
        beyond = _beyond(program, first + n, ids, count)
        begins[n + 1] = take_out(reached & ~beyond, ids, own, chosen, begins[n])
        reached = beyond


@part
def _beyond(program, number, ids, count):
    """A bit for each of a tile's ids: whether it comes after a range."""
    end = range_at(program, number).first + range_at(program, number).size
    if end == 0:  # 2^64, or the range is all of the table
        return types.uint64(0)
    return which_reach(ids, count, end)


@part
def take_out(which, ids, own, chosen, found):
    """Add the ids whose bit is set to the `found` that `own` has, and which they are to `chosen`; how many it has then.

    Bit by bit: a loop over ids would end in a branch for each, or write all of them for every range.
    """
    while which:
        i = lowest(which)
        own[found], chosen[found] = ids[i], i
        which &= which - types.uint64(1)
        found += 1
    return found


@intrinsic
def lowest(_context, which):
    """The number of the lowest bit that is set."""

    def generate(_target, builder, _signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def which_reach(_context, ids, count, least):
    """A bit for each of a tile's ids: whether it is `least` or more, all taken as unsigned."""

    def generate(_target, builder, _signature, arguments):
        ids, count, least = arguments
        word = ir.IntType(64)
        kind, found = ir.VectorType(word, LINE), cgutils.alloca_once_value(builder, word(0))
        least = splat(builder, least, kind)
        with loop(builder, count.type(0), count, LINE) as (i, _):
            line = builder.load(builder.bitcast(builder.gep(ids, [i]), kind.as_pointer()), align=8)
            bits = builder.bitcast(builder.icmp_unsigned(">=", line, least), ir.IntType(LINE))
            builder.store(builder.or_(builder.load(found), builder.shl(builder.zext(bits, word), i)), found)
        ours = builder.lshr(word(-1), builder.sub(word(TILE), count))
        return builder.and_(builder.load(found), ours)

    return types.uint64(ids, types.int64, types.int64), generate


@part
def first_slot(program, table):
    """The first slot that a table's pieces write."""
    return piece_at(program, first_piece(program, table)).slot


@part
def table_floats(program, table, floats):
    """How many slots a table's pieces write, of all `floats` of an example."""
    end = floats if table + 1 == program.tables else first_slot(program, table + 1)
    return end - first_slot(program, table)


@part
def examples_of(arguments, table):
    """How many ids a table is given."""
    if arguments.starts:
        starts = pointer_int64(arguments.starts)
        return starts[table + 1] - starts[table]
    return arguments.batch


@part
def load_ids(arguments, program, table, begin, ids, count):
    """Copy a tile's ids of one table to `ids`; False, and `WILD` lowered, where one is outside the table."""
    row, column, first, address = arguments.id_row, arguments.id_column, begin, arguments.ids
    if arguments.starts:
        address = pointer_int64(arguments.table_ids)[table]
    else:
        first = begin * row + table * column
    if arguments.id_size == 8:
        long = pointer_int64(address)
        if table % IDS_IN_LINE == 0 and column == 1:
            for i in range(count):
                prefetch_read(long, first + IDS_IN_LINE + i * row)
        for i in range(count):
            ids[i] = long[first + i * row]
    else:
        short = pointer_int32(address)
        for i in range(count):
            ids[i] = types.int64(short[first + i * row])
    rows = word_at(program, program.rows_at + table)
    if rows == 0:
        return True
    wild = 0
    for i in range(count):
        wild += types.uint64(ids[i]) >= types.uint64(rows)
    if wild:
        _tell_wild(arguments, program, table, begin, ids, count, rows)
    return wild == 0


@part
def _tell_wild(arguments, program, table, begin, ids, count, rows):
    """Lower `WILD` to the place of a tile's first id that is outside its table."""
    for i in range(count):
        if ids[i] < 0 or ids[i] >= rows:
            place = (begin + i) * program.tables + table
            if arguments.starts:
                place = pointer_int64(arguments.starts)[table] + begin + i
            fetch_min(arguments, "wild", place)
            return


@part
def compose_apart(arguments, coded, program, table, ids, count, kind, rows, rows_at):
    """Write the vectors of a tile's ids of one table to `rows`, range by range; `rows_at` gets where each begins.

    All ranges are located before the first is read: their rows, a few of each, are fetched at once.
    """
    own, chosen, begins, ahead = scratch_words(), scratch_words(), scratch_words(), scratch_ahead()
    columns, width = program.columns_at + table, rows[2]
    end = word_at(program, columns + 1)
    begins[0] = 0
    for first in range(word_at(program, columns), end, MOST_RANGES):
        ranges = min(MOST_RANGES, end - first)
        sort_out(program, first, ranges, ids, count, own, chosen, begins)
        for i in range(begins[0], begins[ranges]):
            rows_at[chosen[i]] = i * width
        for n in range(ranges):
            at, found = begins[n], begins[n + 1] - begins[n]
            if found:
                find_ahead(arguments, coded, program, first + n, past(own, at), found, kind, past(ahead, at))
        for n in range(ranges):
            at, found = begins[n], begins[n + 1] - begins[n]
            if found:
                to = (rows[0], rows[1] + at * width, width)
                of_range, places = past(own, at), past(ahead, at)
                read_range(arguments, coded, program, first + n, of_range, found, kind, places, to, to, False)
        begins[0] = begins[ranges]


@part
def compose(arguments, coded, program, own, ids, count, kind, partial, target, streamed):
    """Write the vectors of a tile's ids, all of the range `own`, to the rows of `target`: see `read_range`."""
    places = scratch_ahead()
    find_ahead(arguments, coded, program, own, ids, count, kind, places)
    read_range(arguments, coded, program, own, ids, count, kind, places, partial, target, streamed)


@part
def find_ahead(arguments, coded, program, own, ids, count, kind, ahead):
    """Fill `ahead` with the places of the first pieces of the range `own`, and have their rows fetched."""
    words, spare = scratch_words(), scratch_words()
    first, end = first_of_range(program, own), first_of_range(program, own + 1)
    for number in range(first, min(end, first + AHEAD)):
        piece = piece_at(program, number)
        if piece.signed == 0:
            places = past(ahead, (number - first) * PADDED)
            _find_rows(arguments, coded, program, piece, ids, count, kind, places, words, spare)


@part
def _find_rows(arguments, coded, program, piece, ids, count, kind, places, words, spare):
    """Fill `places`, and have the rows there fetched; `words` get the hashed words."""
    places_of(arguments, piece, ids, places, words, spare, count)
    if piece.wrap == 0 and piece.high - piece.low > NEAR:
        array = array_at(program, piece.array)
        ask_for(source_of(arguments, piece.array), array, coded, kind, places, count, piece.inner)


@part
def read_range(arguments, coded, program, own, ids, count, kind, ahead, partial, target, streamed):
    """Write the vectors of a tile's ids, all of the range `own`, which was located, to the rows of `target`, at their
    slots.

    What a chain's pieces before the last come to is kept in `partial`, rows with the same slots, which may be `target`.
    The last pieces write past the caches if `streamed`.
    """
    late, words = scratch_words(), scratch_words()
    spare, weights = scratch_words(), scratch_words()
    factors = scratch_like(kind)
    first, end = first_of_range(program, own), first_of_range(program, own + 1)
    for number in range(first, end):
        piece = piece_at(program, number)
        places = past(ahead, (number - first) * PADDED)
        if piece.signed or number - first >= AHEAD:
            places = late
            _find_rows(arguments, coded, program, piece, ids, count, kind, places, words, spare)
        scaled = piece.signed or piece.weighted
        if scaled:
            for i in range(count):
                factors[i] = 1
            if piece.signed:
                signs_of(words, factors, count)
            if piece.weighted:
                weights_of(arguments, piece, ids, weights, spare, count)
                learned = pointer_like(kind, source_of(arguments, piece.weight_array).memory)
                for i in range(count):
                    factors[i] *= learned[weights[i]]
        array = array_at(program, piece.array)
        op, slot = piece.op, piece.slot
        base = to = (partial[0], partial[1] + slot, partial[2])
        is_last = number + 1 == end or piece_at(program, number + 1).op == ASSIGN
        if is_last:
            to = (target[0], target[1] + slot, target[2])
        last = streamed and is_last
        read_rows(arguments, coded, piece, array, op, scaled, to, base, places, factors, count, last)


@part
def read_rows(arguments, coded, piece, array, op, scaled, target, base, places, factors, count, streamed):
    """Assign what is read at `places` to the rows of `target`, or its sum or product with those of `base`."""
    source, width = source_of(arguments, piece.array), piece.width
    if coded is not None:
        done = False
        if array.bits != PLAIN and op != MULTIPLY and not (scaled or piece.wrap or piece.projected):
            done = assign_coded(source, array, target, base, op == ADD, places, count, width, streamed)
        if done:
            return
    if piece.wrap or piece.projected or array.bits != PLAIN:
        _read_staged(arguments, coded, piece, array, op, scaled, target, base, places, factors, count)
        return
    _join(op, scaled, target, base, pointer_like(target[0], source.memory), places, factors, count, width, streamed)


@part
def _join(op, scaled, target, base, rows, places, factors, count, width, streamed):
    """Assign the `rows` that begin at some places, times factors if `scaled`, or their sum or product with `base`."""
    if op == ASSIGN:
        if scaled:
            assign_scaled(target, base, rows, places, factors, count, width, streamed)
        else:
            assign_rows(target, base, rows, places, factors, count, width, streamed)
    elif op == ADD:
        if scaled:
            add_scaled(target, base, rows, places, factors, count, width, streamed)
        else:
            add_rows(target, base, rows, places, factors, count, width, streamed)
    elif scaled:
        multiply_scaled(target, base, rows, places, factors, count, width, streamed)
    else:
        multiply_rows(target, base, rows, places, factors, count, width, streamed)


@part
def _read_staged(arguments, coded, piece, array, op, scaled, target, base, places, factors, count):
    """`read_rows` of memory in few bits, of a circular region, or projected: by way of the stack, a stretch of each row
    at a time."""
    stage, at = scratch_rows(target[0]), scratch_words()
    adds = op == ADD and not scaled and piece.projected and piece.inner <= TILE
    for first in range(0, piece.width, TILE):
        wide = min(TILE, piece.width - first)
        to, onto = (target[0], target[1] + first, target[2]), (base[0], base[1] + first, base[2])
        if op == ASSIGN and not scaled:
            read_runs(arguments, coded, piece, array, places, first, wide, to, count)
        elif adds:
            found, matrix = piece.inner, pointer_like(stage, source_of(arguments, piece.matrix_array).memory)
            read_inner(arguments, coded, piece, array, places, 0, found, (stage, 0, found), count)
            project_onto(to, onto, stage, found, matrix, piece.matrix + first, piece.matrix_step, count, wide)
        else:
            for i in range(count):
                at[i] = i * wide
            read_runs(arguments, coded, piece, array, places, first, wide, (stage, 0, wide), count)
            _join(op, scaled, to, onto, stage, at, factors, count, wide, False)


@part
def read_runs(arguments, coded, piece, array, places, first, width, out, count):
    """Set rows of `out`, `width` floats each, to what is read of the rows at places and projected, from the float
    number `first` of each on.

    Where the piece wraps, places are those within its region.
    """
    if piece.projected == 0:
        read_inner(arguments, coded, piece, array, places, first, width, out, count)
        return
    stage, matrix = scratch_rows(out[0]), pointer_like(out[0], source_of(arguments, piece.matrix_array).memory)
    step = piece.matrix_step
    for begin in range(0, piece.inner, TILE):
        found = min(TILE, piece.inner - begin)
        read_inner(arguments, coded, piece, array, places, begin, found, (stage, 0, found), count)
        row = piece.matrix + first + begin * step
        if begin == 0:
            set_projected(out, out, stage, found, matrix, row, step, count, width)
        else:
            add_projected(out, out, stage, found, matrix, row, step, count, width)


@part
def read_inner(arguments, coded, piece, array, places, first, width, out, count):
    """`read_runs` before the projection."""
    source, wrap = source_of(arguments, piece.array), piece.wrap
    if coded is not None:
        done = False
        if array.bits != PLAIN and first == 0 and wrap == 0:
            done = assign_coded(source, array, out, out, False, places, count, width, False)
        if done:
            return
    for i in range(count):
        to = out[1] + i * out[2]
        if wrap == 0:
            read_floats(source, array, coded, places[i] + first, width, out[0], to)
        else:
            place = (places[i] + first) % wrap
            before = min(width, wrap - place)
            read_floats(source, array, coded, piece.base + place, before, out[0], to)
            if before < width:
                read_floats(source, array, coded, piece.base, width - before, out[0], to + before)


@part
def pool_bags(arguments, kind, coded):
    """Take blocks of bags until none is left; write the sums of their vectors."""
    program = header(arguments.program)
    sums, step = pointer_like(kind, arguments.vectors), arguments.floats
    bags, tables = arguments.num_bags, program.tables
    starts, offsets = pointer_int64(arguments.starts), pointer_int64(arguments.offsets)
    rows = pointer_like(kind, arguments.space + 8 * TILE * program.most_slots * fetch_add(arguments, "slot", 1))
    ids, rows_at = scratch_words(), scratch_words()
    while True:
        first = TILE * fetch_add(arguments, "next", 1)
        if first >= bags:
            return
        last = min(first + TILE, bags)
        zero(sums, first * step, last * step)
        for table in range(tables):
            slot, width = first_slot(program, table), table_floats(program, table, step)
            end = starts[table + 1] - starts[table] if last == bags else offsets[table * bags + last]
            for begin in range(offsets[table * bags + first], end, TILE):
                count = min(TILE, end - begin)
                if load_ids(arguments, program, table, begin, ids, count):
                    if arguments.weights == 0 and _is_plain(program, table):
                        _add_memory(arguments, coded, program, table, first, last, begin, ids, count, sums)
                    else:
                        tile = (rows, -slot, width)
                        compose_apart(arguments, coded, program, table, ids, count, kind, tile, rows_at)
                        _add_composed(arguments, table, first, last, begin, count, rows, rows_at, sums, slot, width)


@part
def _is_plain(program, table):
    """Whether a table's vectors are rows of memory side by side, or sums of such."""
    if not is_whole(program, table):
        return False
    for number in range(first_piece(program, table), first_piece(program, table + 1)):
        piece = piece_at(program, number)
        scaled = piece.signed or piece.weighted
        plain = array_at(program, piece.array).bits == PLAIN
        if scaled or piece.wrap or piece.projected or piece.op == MULTIPLY or not plain:
            return False
    return True


@part
def _add_memory(arguments, coded, program, table, first, last, begin, ids, count, sums):
    """Add the rows of memory that a tile's ids read to the sums of their bags: nothing is composed on the way."""
    places, words, spare = scratch_words(), scratch_words(), scratch_words()
    for number in range(first_piece(program, table), first_piece(program, table + 1)):
        piece = piece_at(program, number)
        places_of(arguments, piece, ids, places, words, spare, count)
        source = source_of(arguments, piece.array)
        ask_for(source, array_at(program, piece.array), coded, sums, places, count, piece.width)
        slot, width, memory = piece.slot, piece.width, pointer_like(sums, source.memory)
        _add_to_bags(arguments, table, first, last, begin, count, memory, places, sums, slot, width)


@part
def _add_composed(arguments, table, first, last, begin, count, rows, rows_at, sums, slot, width):
    """Add a tile's composed vectors, times their weights, to the sums of their bags."""
    if arguments.weights:
        weights, start = pointer_like(rows, arguments.weights), pointer_int64(arguments.starts)[table] + begin
        for i in range(count):
            for j in range(rows_at[i], rows_at[i] + width):
                rows[j] *= weights[start + i]
    _add_to_bags(arguments, table, first, last, begin, count, rows, rows_at, sums, slot, width)


@part
def _add_to_bags(arguments, table, first, last, begin, count, source, places, sums, slot, width):
    """Add the rows of `source` at a tile's `places` to the sums of bags first .. last; example `begin` is its first."""
    offsets, step = pointer_int64(arguments.offsets + 8 * table * arguments.num_bags), arguments.floats
    bag = first
    while bag + 1 < last and offsets[bag + 1] <= begin:
        bag += 1
    i = 0
    while i < count:
        end = count
        if bag + 1 < last:
            end = min(count, offsets[bag + 1] - begin)
        if i < end:
            add_up(sums, bag * step + slot, source, places, i, end, width)
        i = end
        bag += 1


gather_kernel, bags_kernel = make_kernel(gather_tiles, Arguments), make_kernel(pool_bags, Arguments)
apart_kernel = make_kernel(gather_apart, Arguments)
coded_gather_kernel = make_kernel(gather_tiles, Arguments, CODED, coded=True)
coded_apart_kernel = make_kernel(gather_apart, Arguments, CODED, coded=True)
coded_bags_kernel = make_kernel(pool_bags, Arguments, CODED, coded=True)
