"""What is read of an array of memory, whatever its format: see `tablefold.formats`.

A master in few bits is encoded and decoded in registers, a block at a time; what `freeze()` packed is decoded. Both
follow `tablefold.formats.codes` step by step and give its bits.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN002, ANN201, ANN202

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tablefold.compilation import part
from tablefold.formats.codes import INFINITE, SCALE_LEAST, SCALE_NAN, SCALE_SHIFT
from tablefold.formats.format import BLOCK
from tablefold.ops.kernels.lanes import (
    pointer_like,
    pointer_uint8,
    prefetch_read,
    scratch_like,
    set_scaled,
    splat,
)
from tablefold.ops.program import LINE, PLAIN

SHIFT = BLOCK.bit_length() - 1

_WORD = ir.IntType(32)
_FLOAT = ir.FloatType()


@part
def ask_for(source, array, coded, kind, places, count, width):
    """Have the first and the last line of each row fetched, all at once rather than as many as a core looks ahead."""
    bits = array.bits
    if coded is None or bits == PLAIN or (bits == 16 and source.packed == 0):
        memory = pointer_like(kind, source.memory)
        for i in range(count):
            prefetch_read(memory, places[i])
            prefetch_read(memory, places[i] + width - 1)
        return
    if coded is not None:
        _ask_for_blocks(source, array, kind, places, count, width)


@part
def _ask_for_blocks(source, array, kind, places, count, width):
    bits = array.bits
    if source.packed == 0:
        memory = pointer_like(kind, source.memory)
        for i in range(count):
            prefetch_read(memory, places[i] >> SHIFT << SHIFT)
            prefetch_read(memory, places[i] + width - 1 | BLOCK - 1)
    else:
        blocks, shift, size = pointer_uint8(source.memory), SHIFT, array.record
        if bits == 16:
            shift, size = 0, 2
        for i in range(count):
            last = places[i] + width - 1
            byte = 1 if bits == 16 else 1 + ((last & BLOCK - 1) * bits >> 3)  # the last that is read of its block
            prefetch_read(blocks, (places[i] >> shift) * size)
            prefetch_read(blocks, (last >> shift) * size + byte)


@part
def assign_coded(source, array, target, base, adds, places, count, width, streamed):
    """Set rows of `target` to what is read at `places` (if it `adds`, on top of those of `base`) in strips of some
    lanes; False, and nothing done, where other ways are faster or the only ones."""
    bits, lanes = array.bits, LINE | array.width | width
    lanes &= -lanes  # the largest power of two that divides all of them, and places: no strip leaves its block
    if bits > 8 or ((streamed or adds) and lanes < LINE):
        return False
    if source.packed:
        blocks = pointer_uint8(source.memory)
        if bits == 2:
            assign_2(target, base, adds, blocks, places, count, width, lanes, streamed)
        elif bits == 4:
            assign_4(target, base, adds, blocks, places, count, width, lanes, streamed)
        else:
            assign_8(target, base, adds, blocks, places, count, width, lanes, streamed)
        return True
    if lanes < LINE and lanes < width:  # each strip would look at its whole block
        return False
    whole = array.end >> SHIFT << SHIFT
    for i in range(count):
        if places[i] + width > whole:
            return False
    memory, levels, factor = pointer_like(target[0], source.memory), 1 << bits, types.float32(array.factor)
    half, most = types.float32(levels // 2), types.float32(levels - 1)
    if array.of_most:
        assign_by_largest(target, base, adds, memory, places, count, width, lanes, factor, half, most, streamed)
    else:
        assign_by_mean(target, base, adds, memory, places, count, width, lanes, factor, half, most, streamed)
    return True


@part
def read_floats(source, array, coded, place, count, out, at):
    """Set out[at : + count] to what is read from a place on."""
    if array.bits == PLAIN:
        set_scaled(out, at, pointer_like(out, source.memory), place, 1, count)
        return
    if coded is not None:
        _read_codes(source, array, place, count, out, at)


@part
def _read_codes(source, array, place, count, out, at):
    if array.bits == 16:
        if source.packed:
            widen(pointer_uint8(source.memory), place, out, at, count)
        else:
            cut(pointer_like(out, source.memory), place, out, at, count)
    else:
        while count > 0:
            lane = place & BLOCK - 1
            here = min(count, BLOCK - lane)
            if source.packed:
                _decode(source, array, place >> SHIFT, lane, here, out, at)
            else:
                _encode(source, array, place - lane, lane, here, out, at)
            place, at, count = place + here, at + here, count - here


@part
def _decode(source, array, block, lane, count, out, at):
    """What is read of `count` codes of a packed block, from one on."""
    packed = pointer_uint8(source.memory + block * array.record)
    scale = _scale(types.int32(packed[0]))
    codes = pointer_uint8(source.memory + block * array.record + 1)
    if array.bits == 2:
        unpack_2(codes, lane, out, at, count, scale)
    elif array.bits == 4:
        unpack_4(codes, lane, out, at, count, scale)
    else:
        unpack_8(codes, lane, out, at, count, scale)


@part
def _encode(source, array, begin, lane, count, out, at):
    """What is read of `count` floats of the master's block that begins at a place, from one on."""
    memory = pointer_like(out, source.memory)
    full = min(BLOCK, array.end - begin)
    if full < BLOCK:
        rest = scratch_like(out)
        for i in range(BLOCK):
            rest[i] = memory[begin + i] if i < full else 0
        memory, begin = rest, 0
    found = largest(memory, begin) if array.of_most else total(memory, begin) / types.float32(full)
    scale = rounded_scale(found, types.float32(array.factor))
    levels = 1 << array.bits
    requantise(memory, begin + lane, out, at, count, scale, types.float32(levels // 2), types.float32(levels - 1))


def _scale_of_byte(builder, byte):
    """The scale, float32, that a byte stands for (an int32 in code that is being written)."""
    word = builder.shl(builder.add(byte, _WORD(SCALE_LEAST)), _WORD(SCALE_SHIFT))
    is_none = builder.icmp_signed("==", byte, _WORD(SCALE_NAN))
    return builder.bitcast(builder.select(is_none, _WORD(INFINITE + 1), word), _FLOAT)


def _rounded(builder, found, factor):
    """The scale that is nearest to `factor` times what was found."""
    bits = builder.bitcast(builder.fmul(found, factor), _WORD)
    bits = _smaller(builder, bits, INFINITE)
    byte = builder.ashr(builder.add(bits, _WORD(1 << SCALE_SHIFT - 1)), _WORD(SCALE_SHIFT))
    byte = builder.sub(byte, _WORD(SCALE_LEAST))
    byte = builder.select(builder.icmp_signed("<", byte, _WORD(0)), _WORD(0), byte)
    return _scale_of_byte(builder, _smaller(builder, byte, SCALE_NAN))


def _smaller(builder, word, most):
    return builder.select(builder.icmp_signed(">", word, _WORD(most)), _WORD(most), word)


@intrinsic
def _scale(_context, byte):
    """The scale that a byte stands for."""

    def generate(_target, builder, _signature, arguments):
        return _scale_of_byte(builder, arguments[0])

    return types.float32(types.int32), generate


@intrinsic
def rounded_scale(_context, found, factor):
    """The scale that is nearest to `factor` times what was found of a block."""

    def generate(_target, builder, _signature, arguments):
        return _rounded(builder, *arguments)

    return types.float32(types.float32, types.float32), generate


def _constant(kind, lanes, values):
    return ir.Constant(ir.VectorType(kind, lanes), [kind(value) for value in values])


def _call(builder, name, *values):
    kind = values[0].type
    suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
    function = ir.FunctionType(kind, [kind] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.{suffix}"), values)


def _floats(builder, value):
    """A vector of float32, from one of memory's type."""
    if value.type.element == _FLOAT:
        return value
    return builder.fptrunc(value, ir.VectorType(_FLOAT, value.type.count))


def _like(builder, value, kind):
    """A vector of memory's type, from one of float32."""
    return value if kind == _FLOAT else builder.fpext(value, ir.VectorType(kind, value.type.count))


def _load(builder, pointer, place, lanes):
    kind = pointer.type.pointee
    vector = ir.VectorType(kind, lanes).as_pointer()
    value = builder.load(builder.bitcast(builder.gep(pointer, [place]), vector), align=4 if kind == _FLOAT else 8)
    return _floats(builder, value)


def _store(builder, value, pointer, place, streams=False):
    """Write a vector; what `streams` goes past the caches, and must be a whole line."""
    kind = pointer.type.pointee
    value = _like(builder, value, kind)
    to = builder.bitcast(builder.gep(pointer, [place]), value.type.as_pointer())
    size = 4 if kind == _FLOAT else 8
    store = builder.store(value, to, align=4 * LINE if streams else size)
    if streams:
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_WORD, 1)]))


def _over_block(join):
    """An intrinsic that joins the magnitudes of a block's floats."""

    @intrinsic
    def statistic(_context, pointer, begin):
        def generate(_target, builder, _signature, arguments):
            return _joined(builder, join, *arguments)

        return types.float32(pointer, types.int64), generate

    return statistic


def _joined(builder, join, pointer, begin):
    """The magnitudes of the block that begins at a place joined to one, halves onto halves."""
    low = _call(builder, "fabs", _load(builder, pointer, begin, LINE))
    high = _call(builder, "fabs", _load(builder, pointer, builder.add(begin, begin.type(LINE)), LINE))
    joined, lanes = join(builder, low, high), LINE
    while lanes > 1:
        lanes //= 2
        left, right = (
            builder.shuffle_vector(joined, joined, _constant(_WORD, lanes, range(first, first + lanes)))
            for first in (0, lanes)
        )
        joined = join(builder, left, right)
    return builder.extract_element(joined, _WORD(0))


def _sum(builder, left, right):
    return builder.fadd(left, right)


def _larger(builder, left, right):
    """The larger of two magnitudes by their bits, in which what is no number is the largest."""
    words = ir.VectorType(_WORD, left.type.count)
    is_larger = builder.icmp_unsigned(">", builder.bitcast(left, words), builder.bitcast(right, words))
    return builder.select(is_larger, left, right)


total, largest = _over_block(_sum), _over_block(_larger)


def _in_strips(builder, count, also, emit):
    """Code that `emit(lanes, i)` writes, for `lanes` floats at a time: as many as divide `count` and `also`."""

    def loop(lanes):
        with cgutils.for_range_slice(builder, count.type(0), count, count.type(lanes)) as (i, _):
            emit(lanes, i)

    both = builder.or_(count, also)

    def divides(lanes):
        return builder.icmp_unsigned("==", builder.and_(both, both.type(lanes - 1)), both.type(0))

    with builder.if_else(divides(LINE)) as (lines, others):
        with lines:
            loop(LINE)
        with others, builder.if_else(divides(4)) as (fours, ones):
            with fours:
                loop(4)
            with ones:
                loop(1)


def _requantised(builder, value, scale, half, most):
    """The levels nearest to a vector of floats, of those that are half a step from zero on."""
    lanes = value.type.count
    step, middle, end = (splat(builder, each, value.type) for each in (scale, half, most))
    code = _call(builder, "floor", builder.fadd(builder.fdiv(value, step), middle))
    code = _call(builder, "minnum", _call(builder, "maxnum", code, _constant(_FLOAT, lanes, [0] * lanes)), end)
    offset = builder.fmul(end, _constant(_FLOAT, lanes, [0.5] * lanes))
    return builder.fmul(builder.fsub(code, offset), step)


@intrinsic
def requantise(_context, memory, place, out, at, count, scale, half, most):
    """Set out[at : + count] to the levels nearest to memory[place :], of those that are half a step from zero on."""

    def generate(_target, builder, _signature, arguments):
        memory, place, out, at, count, scale, half, most = arguments

        def emit(lanes, i):
            value = _load(builder, memory, builder.add(place, i), lanes)
            _store(builder, _requantised(builder, value, scale, half, most), out, builder.add(at, i))

        _in_strips(builder, count, count, emit)

    word, number = types.int64, types.float32
    return types.void(memory, word, out, word, word, number, number, number), generate


def _unpack(bits):
    """An intrinsic that sets out[at : + count] to the levels of the codes of a block, from number `lane` on."""

    @intrinsic
    def unpack(_context, codes, lane, out, at, count, scale):
        def generate(_target, builder, _signature, arguments):
            codes, lane, out, at, count, scale = arguments

            def emit(lanes, i):
                level = _unpacked(builder, bits, lanes, codes, builder.add(lane, i), scale)
                _store(builder, level, out, builder.add(at, i))

            _in_strips(builder, count, lane, emit)

        word = types.int64
        return types.void(codes, word, out, word, word, types.float32), generate

    return unpack


def _unpacked(builder, bits, lanes, codes, first, scale):
    """What is read of the codes from number `first` on, as a vector."""
    vector = ir.VectorType(_FLOAT, lanes)
    levels = builder.uitofp(_code_words(builder, bits, lanes, codes, first), vector)
    offset = _constant(_FLOAT, lanes, [((1 << bits) - 1) / 2] * lanes)
    return builder.fmul(builder.fsub(levels, offset), splat(builder, scale, vector))


def _code_words(builder, bits, lanes, codes, first):
    """The codes from number `first` on as a vector of int32."""
    first_bit = builder.mul(first, first.type(bits))
    byte = builder.gep(codes, [builder.lshr(first_bit, first.type(3))])
    size = max(8, min(32, lanes * bits))
    count = max(1, lanes * bits // 32)
    chunk = ir.IntType(size) if count == 1 else ir.VectorType(ir.IntType(size), count)
    loaded = builder.load(builder.bitcast(byte, chunk.as_pointer()), align=1)
    if count == 1:
        word = loaded if size == 32 else builder.zext(loaded, _WORD)
        loaded = builder.insert_element(ir.Constant(ir.VectorType(_WORD, 1), ir.Undefined), word, _WORD(0))
    per_word = 32 // bits
    spread = builder.shuffle_vector(loaded, loaded, _constant(_WORD, lanes, [j // per_word for j in range(lanes)]))
    shifts = _constant(_WORD, lanes, [j % per_word * bits for j in range(lanes)])
    if lanes * bits < 8:
        inner = builder.trunc(builder.and_(first_bit, first.type(7)), _WORD)
        shifts = builder.add(shifts, splat(builder, inner, shifts.type))
    return builder.and_(builder.lshr(spread, shifts), _constant(_WORD, lanes, [(1 << bits) - 1] * lanes))


unpack_2, unpack_4, unpack_8 = _unpack(2), _unpack(4), _unpack(8)


@intrinsic
def widen(_context, halves, place, out, at, count):
    """Set out[at : + count] to the bfloat16 from number `place` on."""

    def generate(_target, builder, _signature, arguments):
        halves, place, out, at, count = arguments
        halves = builder.bitcast(halves, ir.IntType(16).as_pointer())

        def emit(lanes, i):
            short = ir.VectorType(ir.IntType(16), lanes).as_pointer()
            loaded = builder.load(builder.bitcast(builder.gep(halves, [builder.add(place, i)]), short), align=2)
            words = builder.zext(loaded, ir.VectorType(_WORD, lanes))
            words = builder.shl(words, _constant(_WORD, lanes, [16] * lanes))
            _store(builder, builder.bitcast(words, ir.VectorType(_FLOAT, lanes)), out, builder.add(at, i))

        _in_strips(builder, count, count, emit)

    word = types.int64
    return types.void(halves, word, out, word, word), generate


@intrinsic
def cut(_context, memory, place, out, at, count):
    """Set out[at : + count] to memory[place :], rounded to the nearest bfloat16, ties to even."""

    def generate(_target, builder, _signature, arguments):
        memory, place, out, at, count = arguments

        def emit(lanes, i):
            value = _load(builder, memory, builder.add(place, i), lanes)
            words = builder.bitcast(value, ir.VectorType(_WORD, lanes))

            def all_lanes(number):
                return _constant(_WORD, lanes, [number] * lanes)

            odd = builder.and_(builder.lshr(words, all_lanes(16)), all_lanes(1))
            rounded = builder.add(words, builder.add(odd, all_lanes(0x7FFF)))
            rounded = builder.bitcast(builder.and_(rounded, all_lanes(0xFFFF0000)), value.type)
            is_number = builder.fcmp_ordered("ord", value, value)
            _store(builder, builder.select(is_number, rounded, value), out, builder.add(at, i))

        _in_strips(builder, count, count, emit)

    word = types.int64
    return types.void(memory, word, out, word, word), generate


def _rows(builder, target, base, adds, places, count, width, lanes, streamed, emit):
    """Code that sets rows of `target` to what `emit(place, lanes)` gives, strip by strip; lines may be streamed, or be
    added to those of `base`."""
    (pointer, first, step), (onto, onto_first, onto_step) = (
        cgutils.unpack_tuple(builder, each, 3) for each in (target, base)
    )

    def loops(wide, streams=False, adds=False):
        with cgutils.for_range_slice(builder, count.type(0), count, count.type(1)) as (i, _):
            place = builder.load(builder.gep(places, [i]))
            to, before = (builder.add(at, builder.mul(by, i)) for at, by in ((first, step), (onto_first, onto_step)))
            with cgutils.for_range_slice(builder, width.type(0), width, width.type(wide)) as (v, _):
                value = emit(builder.add(place, v), wide)
                if adds:
                    value = builder.fadd(_load(builder, onto, builder.add(before, v), wide), value)
                _store(builder, value, pointer, builder.add(to, v), streams)

    def of_lanes(wide):
        if wide == 1:
            loops(wide)
            return
        with builder.if_else(builder.icmp_unsigned("==", lanes, lanes.type(wide))) as (these, fewer):
            with these:
                loops(wide)
            with fewer:
                of_lanes(wide // 2)

    bit = ir.IntType(1)
    with builder.if_else(builder.trunc(streamed, bit)) as (past, plain):
        with past, builder.if_else(builder.trunc(adds, bit)) as (added, alone):
            with added:
                loops(LINE, streams=True, adds=True)
            with alone:
                loops(LINE, streams=True)
        with plain, builder.if_else(builder.trunc(adds, bit)) as (added, alone):
            with added:
                loops(LINE, adds=True)
            with alone:
                of_lanes(LINE)


def _assign_packed(bits):
    """An intrinsic that sets rows of `target` to what packed codes of some bits at `places` stand for."""
    size = 1 + bits * BLOCK // 8

    @intrinsic
    def assign(_context, target, base, adds, blocks, places, count, width, lanes, streamed):
        def generate(_target, builder, _signature, arguments):
            target, base, adds, blocks, places, count, width, lanes, streamed = arguments

            def emit(place, wide):
                block = builder.mul(builder.lshr(place, place.type(SHIFT)), place.type(size))
                begin = builder.gep(blocks, [block])
                scale = _scale_of_byte(builder, builder.zext(builder.load(begin), _WORD))
                codes = builder.gep(begin, [place.type(1)])
                return _unpacked(builder, bits, wide, codes, builder.and_(place, place.type(BLOCK - 1)), scale)

            _rows(builder, target, base, adds, places, count, width, lanes, streamed, emit)

        word = types.int64
        boolean = types.boolean
        return types.void(target, base, boolean, blocks, places, word, word, word, boolean), generate

    return assign


assign_2, assign_4, assign_8 = _assign_packed(2), _assign_packed(4), _assign_packed(8)


def _assign_encoded(join, mean):
    """An intrinsic that sets rows of `target` to what is read of the master at `places`, in whole blocks."""

    @intrinsic
    def assign(_context, target, base, adds, memory, places, count, width, lanes, factor, half, most, streamed):
        def generate(_target, builder, _signature, arguments):
            target, base, adds, memory, places, count, width, lanes, factor, half, most, streamed = arguments

            def emit(place, wide):
                found = _joined(builder, join, memory, builder.and_(place, place.type(-BLOCK)))
                if mean:
                    found = builder.fmul(found, _FLOAT(1 / BLOCK))
                scale = _rounded(builder, found, factor)
                return _requantised(builder, _load(builder, memory, place, wide), scale, half, most)

            _rows(builder, target, base, adds, places, count, width, lanes, streamed, emit)

        word, number, boolean = types.int64, types.float32, types.boolean
        signature = types.void(target, base, boolean, memory, places, *[word] * 3, *[number] * 3, boolean)
        return signature, generate

    return assign


assign_by_mean, assign_by_largest = _assign_encoded(_sum, True), _assign_encoded(_larger, False)
