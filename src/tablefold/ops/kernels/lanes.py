"""What Numba's kernels are made of: records, typed pointers, scratch on the stack, vector instructions on whole rows.

Numba's own arrays carry bounds, strides and reference counts, and its loops over a row of 16 floats are checked for
aliasing at run time. These few LLVM instructions are all a gather needs.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, ANN204

from __future__ import annotations

import ctypes
from types import FunctionType

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from tablefold.compilation import machine_code, part
from tablefold.ops.cpu import TILE, Kernel, Source
from tablefold.ops.program import ADD, ASSIGN, LINE, MULTIPLY, Array, Header, Piece, Range, Read, Segment

FLOATS = ("float32", "float64")
CODED = ("float32",)
"""Types of memory that may be in few bits."""

SOURCE_BYTES = ctypes.sizeof(Source)

# Rows that lie at equal distances are told as one tuple: a pointer, the first float, floats from one row to the next.


def _pointer(kind):
    @intrinsic
    def pointer(_context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    return pointer


pointer_uint8 = _pointer(types.uint8)
pointer_int16 = _pointer(types.int16)
pointer_int32 = _pointer(types.int32)
pointer_int64 = _pointer(types.int64)
pointer_float32 = _pointer(types.float32)
pointer_float64 = _pointer(types.float64)


def record(structure):
    """An intrinsic that gives the record of a `ctypes` structure at an address: its fields are read by their names."""
    kind = from_dtype(np.dtype(structure))

    @intrinsic
    def at(_context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return kind(types.int64), generate

    return at


header, source = record(Header), record(Source)


def _listed(structure, begin):
    """An intrinsic that gives the record number `number` of a list in a program, which begins at a word that the
    program's header names."""
    kind = from_dtype(np.dtype(structure))
    place, size = getattr(Header, begin).offset // 8, np.dtype(structure).itemsize

    @intrinsic
    def at(_context, program, number):
        def generate(context, builder, signature, arguments):
            word = ir.IntType(64)
            words = builder.bitcast(arguments[0], word.as_pointer())
            first = builder.gep(words, [builder.load(builder.gep(words, [word(place)]))])
            there = builder.gep(first, [builder.mul(arguments[1], word(size // 8))])
            return builder.bitcast(there, context.get_value_type(signature.return_type))

        return kind(program, types.int64), generate

    return at


piece_at, segment_at = _listed(Piece, "pieces_at"), _listed(Segment, "segments_at")
read_at, array_at = _listed(Read, "reads_at"), _listed(Array, "arrays_at")
range_at = _listed(Range, "ranges_at")


@part
def source_of(arguments, number):
    """Where an array of memory is."""
    return source(arguments.arrays + number * SOURCE_BYTES)


@intrinsic
def word_at(_context, program, index):
    """A word of a program."""

    def generate(_target, builder, _signature, arguments):
        words = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(words, [arguments[1]]))

    return types.int64(program, types.int64), generate


def make_kernel(body, structure, dtypes=FLOATS, coded=None):
    """The kernel of `body(arguments, kind, coded)`.

    Arguments are a record of `structure`; kind is a pointer to nothing, which tells the type of floats; coded is None
    where no array is in few bits: Numba then drops what would read it.

    It runs for memory of the types it is made for, and refuses every other.
    """

    def compile_for(dtype):
        function = body.py_func
        name, module = "_".join([function.__name__, *(["coded"] if coded else []), dtype]), function.__module__
        names = {"__name__": module, "at": record(structure), "body": body, "pointer": globals()[f"pointer_{dtype}"]}
        names["coded"] = coded
        entry = FunctionType(_entry.__code__, names, name)
        entry.__qualname__ = name  # under which its machine code is kept
        return machine_code(entry, types.void(types.int64), module)

    return Kernel(body.py_func.__name__, dtypes, compile_for)


def _entry(address):
    arguments = at(address)  # noqa: F821  (`make_kernel` says what these names are)
    body(arguments, pointer(0), coded)  # noqa: F821


def _room(context, builder, signature, size):
    """Room on the stack for what a signature's pointer points to. Numba's own would be zeroed at each call, which took
    a quarter of a lookup."""
    kind = context.get_value_type(signature.return_type)
    with builder.goto_entry_block():
        block = builder.alloca(ir.ArrayType(kind.pointee, size))
    return builder.bitcast(block, kind)


def _words(size):
    @intrinsic
    def scratch(_context):
        """Room for so many int64, on the stack."""

        def generate(context, builder, signature, _arguments):
            return _room(context, builder, signature, size)

        return types.CPointer(types.int64)(), generate

    return scratch


PADDED = TILE + LINE
"""Room for a tile of numbers from any of them on: instructions work on up to a line of them."""

AHEAD = 4
"""Pieces of a range whose rows are asked for before the first is read."""

scratch_words, scratch_ahead = _words(PADDED), _words(AHEAD * PADDED)


def _scratch(size):
    @intrinsic
    def scratch(_context, pointer):
        """Room for so many values of the pointer's type, on the stack."""

        def generate(context, builder, signature, _arguments):
            return _room(context, builder, signature, size)

        return pointer(pointer), generate

    return scratch


scratch_like, scratch_rows = _scratch(TILE), _scratch(TILE * TILE)


@intrinsic
def past(_context, pointer, number):
    """The pointer to what comes so many later."""

    def generate(_target, builder, _signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, types.int64), generate


def _fetch(operation):
    """An intrinsic that gives a field of a record and updates it with `value`, atomically."""

    @intrinsic(prefer_literal=True)
    def fetch(_context, kept, field, value):
        offset = kept.offset(field.literal_value)

        def generate(_target, builder, _signature, arguments):
            word = ir.IntType(64)
            address = builder.add(builder.ptrtoint(arguments[0], word), ir.Constant(word, offset))
            place = builder.inttoptr(address, word.as_pointer())
            return builder.atomic_rmw(operation, place, arguments[2], "monotonic")

        return types.int64(kept, field, types.int64), generate

    return fetch


fetch_add, fetch_min = _fetch("add"), _fetch("min")


@intrinsic
def pointer_like(_context, pointer, address):
    """The pointer to `address` that has the type of `pointer`."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[1], context.get_value_type(signature.return_type))

    return pointer(pointer, types.int64), generate


@intrinsic
def zero(_context, pointer, begin, end):
    """Set `pointer[begin:end]` to zero."""

    def generate(context, builder, signature, arguments):
        target, first, last = arguments
        size = context.get_abi_sizeof(context.get_value_type(signature.args[0].dtype))
        count = builder.mul(builder.sub(last, first), ir.Constant(ir.IntType(64), size))
        cgutils.memset(builder, builder.gep(target, [first]), count, 0)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64), generate


def _prefetch(writes):
    """An intrinsic that asks the memory for the line of `pointer[place]`: for a line that is only read, not to write
    it, which would take it from the other threads' caches."""

    @intrinsic
    def prefetch(_context, pointer, place):
        def generate(context, builder, signature, arguments):
            word = ir.IntType(32)
            address = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
            function = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
            builder.call(function, [address, word(writes), word(3), word(1)])
            return context.get_dummy_value()

        return types.void(pointer, types.int64), generate

    return prefetch


prefetch_read, prefetch_write = _prefetch(0), _prefetch(1)


@intrinsic
def fence(_context):
    """Have all that was written, streamed rows too, seen by every thread before what follows."""

    def generate(context, builder, _signature, _arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


# Rows are moved by vector instructions: a line at a time where lines divide the row, else four floats, else one.


def for_lanes(builder, width, emit):
    """Code that `emit(lanes)` writes, for as many lanes as divide `width`."""
    with builder.if_else(_divides(builder, LINE, width)) as (lines, others):
        with lines:
            emit(LINE)
        with others, builder.if_else(_divides(builder, 4, width)) as (fours, ones):
            with fours:
                emit(4)
            with ones:
                emit(1)


def _divides(builder, lanes, width):
    return builder.icmp_unsigned("==", builder.and_(width, width.type(lanes - 1)), width.type(0))


def loop(builder, begin, end, step=1):
    """A loop in code that is being written: a context of the number (and of how many came before).

    LLVM is not told that numbers do not overflow: rows have a few strips, it would unroll for hundreds, and lookups
    take a fifth longer.
    """
    return cgutils.for_range_slice(builder, begin, end, begin.type(step))


class _Rows:
    """Rows behind a pointer, while code is written."""

    def __init__(self, builder, pointer, align):
        self._builder, self._pointer, self._align = builder, pointer, align

    def _lanes(self, place, lanes):
        vector = ir.VectorType(self._pointer.type.pointee, lanes)
        return self._builder.bitcast(self._builder.gep(self._pointer, [place]), vector.as_pointer())

    def load(self, place, lanes):
        """`lanes` neighbouring floats at once."""
        return self._builder.load(self._lanes(place, lanes), align=self._align)

    def store(self, value, place, streams=False):
        """What `streams` goes past the caches, and must be whole lines."""
        builder = self._builder
        to = self._lanes(place, value.type.count)
        store = builder.store(value, to, align=4 * LINE if streams else self._align)
        if streams:
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


def rows_of(context, builder, kind, pointer):
    """The rows behind a pointer of a type."""
    return _Rows(builder, pointer, context.get_abi_sizeof(context.get_value_type(kind.dtype)))


def splat(builder, scalar, vector):
    """The vector whose lanes are all `scalar`, while code is generated."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, one, mask)


def _into_rows(op, scaled):
    """An intrinsic `rows(target, base, source, places, factors, count, width, streamed)`: each of `count` rows of
    `target`, `width` floats, takes source[places[i] :], times factors[i] if `scaled`, onto that of `base` or times it.
    """

    @intrinsic
    def rows(_context, target, base, source, places, factors, count, width, streamed):
        def generate(context, builder, signature, arguments):
            target, base, source, places, factors, count, width, streamed = arguments
            kind = signature.args[2]
            (to, *to_at), (onto, *onto_at) = (cgutils.unpack_tuple(builder, each, 3) for each in (target, base))
            to, onto, rows = (rows_of(context, builder, kind, each) for each in (to, onto, source))

            def strip(lanes, streams, i, v, place, factor):
                value = rows.load(builder.add(place, v), lanes)
                if scaled:
                    value = builder.fmul(value, splat(builder, factor, value.type))
                if op != ASSIGN:
                    before = onto.load(builder.add(_row_at(builder, onto_at, i), v), lanes)
                    value = (builder.fadd if op == ADD else builder.fmul)(before, value)
                to.store(value, builder.add(_row_at(builder, to_at, i), v), streams)

            def loops(lanes, streams=False):
                zero = count.type(0)
                with loop(builder, zero, count) as (i, _):
                    place = builder.load(builder.gep(places, [i]))
                    factor = builder.load(builder.gep(factors, [i])) if scaled else None
                    with loop(builder, zero, width, lanes) as (v, _):
                        strip(lanes, streams, i, v, place, factor)

            with builder.if_else(context.is_true(builder, signature.args[7], streamed)) as (past, plain):
                with past:
                    loops(LINE, streams=True)
                with plain:
                    for_lanes(builder, width, loops)
            return context.get_dummy_value()

        word = types.int64
        return types.void(target, base, source, places, factors, word, word, streamed), generate

    return rows


def _row_at(builder, rows, number):
    first, step = rows
    return builder.add(first, builder.mul(number, step))


assign_rows, assign_scaled = _into_rows(ASSIGN, False), _into_rows(ASSIGN, True)
add_rows, add_scaled = _into_rows(ADD, False), _into_rows(ADD, True)
multiply_rows, multiply_scaled = _into_rows(MULTIPLY, False), _into_rows(MULTIPLY, True)


def _whole_row(adds):
    @intrinsic
    def whole(_context, target, place, source, begin, factor, width):
        """target[place : + width] takes source[begin : + width], times factor."""

        def generate(context, builder, signature, arguments):
            target, place, source, begin, factor, width = arguments
            _spill(
                builder,
                rows_of(context, builder, signature.args[0], target),
                place,
                rows_of(context, builder, signature.args[0], source),
                begin,
                factor,
                width,
                adds,
            )
            return context.get_dummy_value()

        return types.void(target, types.int64, source, types.int64, target.dtype, types.int64), generate

    return whole


def _spill(builder, to, place, rows, begin, factor, width, adds=True):
    def strips(lanes):
        with loop(builder, width.type(0), width, lanes) as (v, _):
            value = rows.load(builder.add(begin, v), lanes)
            value = builder.fmul(value, splat(builder, factor, value.type))
            at = builder.add(place, v)
            to.store(builder.fadd(to.load(at, lanes), value) if adds else value, at)

    for_lanes(builder, width, strips)


set_scaled, spill_row = _whole_row(False), _whole_row(True)


@intrinsic
def add_up(_context, target, at, source, places, first, last, width):
    """target[at : + width] gains source[places[i] : + width] for each i from `first` up to `last`.

    What is added up stays in a register, where a loop over rows would write it to memory and wait for it each time.
    """

    def generate(context, builder, signature, arguments):
        target, at, source, places, first, last, width = arguments
        to, rows = (rows_of(context, builder, signature.args[0], each) for each in (target, source))

        def strips(lanes):
            with loop(builder, width.type(0), width, lanes) as (v, _):
                begin = builder.add(at, v)
                total = cgutils.alloca_once_value(builder, to.load(begin, lanes))
                with loop(builder, first, last) as (i, _):
                    place = builder.add(builder.load(builder.gep(places, [i])), v)
                    builder.store(builder.fadd(builder.load(total), rows.load(place, lanes)), total)
                to.store(builder.load(total), begin)

        for_lanes(builder, width, strips)
        return context.get_dummy_value()

    word = types.int64
    return types.void(target, word, source, places, word, word, word), generate


@part
def spill_rows(target, places, source, begin, step, factors, count, width):
    """For each of `count` rows: target[places[i] : + width] gains source[begin + i * step :], times factors[i]."""
    for i in range(count):
        spill_row(target, places[i], source, begin + i * step, factors[i], width)
