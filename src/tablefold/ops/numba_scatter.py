"""The dense gradient of the gather on a CPU: each thread owns a range of memory and adds up all that is read there.

No two threads write one float, and every float sums its reads in the order of the batch: the same bits whatever the
number of threads. Each thread computes the places of all ids of the tables it has a share in, which costs a nanosecond
or two each; ranges are cut where equally many reads are expected, so that most tables fall into one range whole.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from numba import cfunc

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.numba_gather import SIGNATURE, examples_of, load_ids, piece_at, read_rows
from tablefold.ops.numba_places import places_of, signs_of, weights_of
from tablefold.ops.numba_rows import (
    TILE,
    compiled,
    fetch_add,
    inlined,
    pointer_float32,
    pointer_float64,
    pointer_int64,
    pointer_like,
    scratch_like,
    set_scaled,
    spill_row,
    spill_rows,
    zero,
)


def kernel(dtype, version):
    """The address of the compiled kernel; `version` keeps the disk cache from serving code of older sources."""
    if dtype == "float32":

        @cfunc(SIGNATURE, cache=True)
        def float32(arguments):
            if version:
                scatter_ranges(arguments, pointer_float32(arguments[a.MEMORY]))

        return float32.address

    @cfunc(SIGNATURE, cache=True)
    def float64(arguments):
        if version:
            scatter_ranges(arguments, pointer_float64(arguments[a.MEMORY]))

    return float64.address


@inlined
def scatter_ranges(arguments, memory):
    """Take ranges of memory until none is left; write their gradient."""
    program = pointer_int64(arguments[a.PROGRAM])
    gradient = pointer_like(memory, arguments[a.GRADIENT])
    ranges, quantiles = arguments[a.RANGES], program[p.QUANTILES_AT]
    while True:
        part = fetch_add(arguments, a.NEXT, 1)
        if part >= ranges:
            return
        low = program[quantiles + part * p.QUANTILES // ranges]
        high = program[quantiles + (part + 1) * p.QUANTILES // ranges]
        zero(gradient, low, high)
        space = arguments[a.SPACE] + 8 * part * space_words(program)
        for table in range(program[p.TABLES]):
            columns = program[p.COLUMNS_AT] + table
            for chain in range(program[columns], program[columns + 1]):
                chains = program[p.CHAINS_AT] + chain
                first, last = program[chains], program[chains + 1]
                if _touches_any(program, first, last, low, high):
                    _scatter_chain(arguments, program, table, first, last, low, high, memory, gradient, space)


@inlined
def space_words(program):
    """`arguments.space_words`, from a program."""
    return TILE * (4 * program[p.LONGEST] + 3 * program[p.WIDEST]) + a.DIGITS


@inlined
def _touches_any(program, first, last, low, high):
    for number in range(first, last):  # noqa: SIM110  (Numba has no generators here)
        if _touches(program, piece_at(program, number), low, high):
            return True
    return False


@inlined
def _touches(program, piece, low, high):
    """Whether a piece may read rows, or a weight, in [low, high)."""
    if program[piece + p.LOW] < high and program[piece + p.HIGH] > low:
        return True
    return _weight_touches(program, piece, low, high)


@inlined
def _weight_touches(program, piece, low, high):
    if program[piece + p.WEIGHTED] == 0:
        return False
    return program[piece + p.WEIGHT_LOW] < high and program[piece + p.WEIGHT_HIGH] > low


@inlined
def _scatter_chain(arguments, program, table, first, last, low, high, memory, gradient, space):
    """Add the gradient of all reads of one chain that lie in a range."""
    vectors = pointer_like(memory, arguments[a.VECTORS])
    step = arguments[a.FLOATS]
    slot, width = program[piece_at(program, first) + p.SLOT], program[piece_at(program, first) + p.WIDTH]
    examples = examples_of(arguments, table)
    ids = scratch_like(program)
    multiplies = False
    for number in range(first + 1, last):
        multiplies |= program[piece_at(program, number) + p.OP] == p.MULTIPLY
    rows = pointer_like(memory, part_of(space, 4 * (last - first)))
    for begin in range(0, examples, TILE):
        count = min(TILE, examples - begin)
        if not load_ids(arguments, program, table, begin, ids, count):
            continue
        source, start = vectors, begin * step + slot
        if arguments[a.STARTS]:
            source, start, step = pointer_like(memory, part_of(space, 4 * (last - first) + 2 * width)), 0, width
            unpool(arguments, table, begin, count, vectors, slot, source, width)
        for number in range(first, last):
            piece = piece_at(program, number)
            if multiplies or _touches(program, piece, low, high):
                locate(arguments, program, piece, ids, count, memory, part_of(space, 4 * (number - first)))
        for number in range(first, last):
            piece = piece_at(program, number)
            if not _touches(program, piece, low, high):
                continue
            own = part_of(space, 4 * (number - first))
            if multiplies:
                chain_rule(program, first, last, number, space, source, start, step, memory, rows, count)
                _scatter_piece(program, piece, low, high, own, memory, gradient, rows, 0, width, count)
            else:
                _scatter_piece(program, piece, low, high, own, memory, gradient, source, start, step, count)


@inlined
def part_of(space, number):
    """The address of the scratch's `number`-th tile of words."""
    return space + 8 * TILE * number


@compiled
def unpool(arguments, table, begin, count, vectors, slot, rows, width):
    """Fill `rows` with the gradients of a tile's vectors: those of their bags, times their weights."""
    first = pointer_int64(arguments[a.STARTS])[table] + begin
    bags, step = pointer_int64(arguments[a.BAGS]), arguments[a.FLOATS]
    weights = pointer_like(vectors, arguments[a.WEIGHTS])
    for i in range(count):
        weight = weights[first + i] if arguments[a.WEIGHTS] else 1
        set_scaled(rows, i * width, vectors, bags[first + i] * step + slot, weight, width)


@compiled
def locate(arguments, program, piece, ids, count, memory, space):
    """Fill a piece's four tiles of scratch: places, places of weights, signs, and factors (signs times weights)."""
    lookup, size = arguments[a.LOOKUPS], arguments[a.LOOKUP_SIZE]
    words, spare = scratch_like(program), scratch_like(program)
    places, weights = pointer_int64(space), pointer_int64(part_of(space, 1))
    signs, factors = pointer_like(memory, part_of(space, 2)), pointer_like(memory, part_of(space, 3))
    places_of(program, piece, lookup, size, ids, places, words, spare, count)
    if program[piece + p.SIGNED]:
        signs_of(words, signs, count)
    else:
        for i in range(count):
            signs[i] = 1
    for i in range(count):
        factors[i] = signs[i]
    if program[piece + p.WEIGHTED]:
        weights_of(program, piece, lookup, size, ids, weights, spare, count)
        for i in range(count):
            factors[i] *= memory[weights[i]]


@compiled
def chain_rule(program, first, last, wanted, space, vectors, start, step, memory, rows, count):
    """Fill `rows` with the gradient of what the `wanted` piece contributes: that of the vectors times all that
    multiplies it, which is every later factor and, where the piece is a factor itself, all that came before it.
    """
    piece = piece_at(program, wanted)
    width = program[piece + p.WIDTH]
    for i in range(count):
        for j in range(width):
            rows[i * width + j] = vectors[start + i * step + j]
    if program[piece + p.OP] == p.MULTIPLY and wanted > first:
        before = pointer_like(memory, part_of(space, 4 * (last - first) + width))
        for number in range(first, wanted):
            op = program[piece_at(program, number) + p.OP]
            _read_piece(program, number, op, part_of(space, 4 * (number - first)), memory, before, count)
        for i in range(count * width):
            rows[i] *= before[i]
    for number in range(wanted + 1, last):
        if program[piece_at(program, number) + p.OP] == p.MULTIPLY:
            _read_piece(program, number, p.MULTIPLY, part_of(space, 4 * (number - first)), memory, rows, count)


@inlined
def _read_piece(program, number, op, space, memory, rows, count):
    piece = piece_at(program, number)
    scaled = program[piece + p.SIGNED] or program[piece + p.WEIGHTED]
    places, factors = pointer_int64(space), pointer_like(memory, part_of(space, 3))
    target = (rows, 0, program[piece + p.WIDTH])
    read_rows(program, piece, op, scaled, target, target, memory, places, factors, count, False)


@compiled
def _scatter_piece(program, piece, low, high, space, memory, gradient, source, start, stride, count):
    """Add rows of `source` to the gradient at a piece's places, as far as they lie in [low, high)."""
    places, weights = pointer_int64(space), pointer_int64(part_of(space, 1))
    signs, factors = pointer_like(memory, part_of(space, 2)), pointer_like(memory, part_of(space, 3))
    width = program[piece + p.WIDTH]
    whole = program[piece + p.LOW] >= low and program[piece + p.HIGH] <= high and program[piece + p.WRAP] == 0
    if whole:
        spill_rows(gradient, places, source, start, stride, factors, count, width)
    else:
        _spill_clipped(program, piece, low, high, places, factors, gradient, source, start, stride, count)
    if not _weight_touches(program, piece, low, high):
        return
    for i in range(count):
        if low <= weights[i] < high:
            total = signs[i] * inner_product(program, piece, memory, places[i], source, start + i * stride)
            gradient[weights[i]] += total


@compiled
def inner_product(program, piece, memory, place, source, begin):
    """The inner product of the row that a piece reads and a row of `source`."""
    wrap = program[piece + p.WRAP]
    if wrap:
        place += program[piece + p.BASE]
    total = source[begin] * memory[place]
    for j in range(1, program[piece + p.WIDTH]):
        place += 1
        if wrap and place == program[piece + p.BASE] + wrap:
            place = program[piece + p.BASE]
        total += source[begin + j] * memory[place]
    return total


@compiled
def _spill_clipped(program, piece, low, high, places, factors, gradient, source, start, stride, count):
    """`_scatter_piece` where rows may cross the edges of the range, or the end of a circular region."""
    width, wrap = program[piece + p.WIDTH], program[piece + p.WRAP]
    if wrap:
        end = program[piece + p.BASE] + wrap
        for i in range(count):
            place = program[piece + p.BASE] + places[i]
            for j in range(width):
                if low <= place < high:
                    gradient[place] += factors[i] * source[start + i * stride + j]
                place += 1
                if place == end:
                    place = program[piece + p.BASE]
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
