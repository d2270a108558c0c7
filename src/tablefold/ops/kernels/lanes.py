"""What Numba's kernels are made of: records, typed pointers, scratch on the stack, vector instructions on whole rows.

Numba's own arrays carry bounds, strides and reference counts, and its loops over a row of 16 floats are checked for
aliasing at run time. These few LLVM instructions are all a gather needs.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from types import FunctionType

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tablefold import hashing
from tablefold.compilation import machine_code
from tablefold.ops import program
from tablefold.ops.cpu import TILE, Kernel
from tablefold.ops.program import LINE, Header, Piece, Read, Segment

compiled = njit(error_model="numpy", boundscheck=False)
"""Compiles a function that kernels call: no bounds are checked, nothing raises."""
inlined = njit(error_model="numpy", boundscheck=False, inline="always")
"""Copies a function into its callers, where that keeps the calls flat: Numba optimises what a compiled function calls
anew at every level of calls: ten levels take a minute to compile, three take seconds."""

FLOATS = ("float32", "float64")

PIECE_BYTES, SEGMENT_BYTES, READ_BYTES = (np.dtype(each).itemsize for each in (Piece, Segment, Read))

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


header, piece_record, segment_record, read_record = (record(each) for each in (Header, Piece, Segment, Read))


@intrinsic
def address_of(_context, something):
    """The address of a record or of what a pointer points to."""

    def generate(_target, builder, _signature, arguments):
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(something), generate


def make_kernel(body, structure, dtypes=FLOATS):
    """The kernel of `body(arguments, memory)`: arguments are a record of `structure`, memory is a pointer.

    It runs for memory of the types it is made for, and refuses every other.
    """

    def compile_for(dtype):
        name = f"{body.py_func.__name__}_{dtype}_{_version():08x}"
        names = {"__name__": __name__, "at": record(structure), "body": body, "pointer": globals()[f"pointer_{dtype}"]}
        entry = FunctionType(_entry.__code__, names, name)
        entry.__qualname__ = name  # under which Numba keeps the machine code
        return machine_code(entry, types.void(types.int64))

    return Kernel(body.py_func.__name__, dtypes, compile_for)


def _entry(address):
    arguments = at(address)  # noqa: F821  (`make_kernel` says what these names are)
    body(arguments, pointer(arguments.memory))  # noqa: F821


@cache
def _version():
    """A number that changes with any source that machine code is made of: Numba itself looks at one file's date."""
    sources = [*sorted(Path(__file__).parent.glob("*.py")), Path(program.__file__), Path(hashing.__file__)]
    return zlib.crc32(b"".join(source.read_bytes() for source in sources))


@inlined
def word_at(program, index):
    """A word of a program."""
    return pointer_int64(address_of(program))[index]


@inlined
def piece_at(program, number):
    """The record of a piece."""
    return piece_record(address_of(program) + 8 * program.pieces_at + number * PIECE_BYTES)


@inlined
def segment_at(program, number):
    """The record of a segment."""
    return segment_record(address_of(program) + 8 * program.segments_at + number * SEGMENT_BYTES)


@inlined
def read_at(program, number):
    """The record of a read."""
    return read_record(address_of(program) + 8 * program.reads_at + number * READ_BYTES)


@intrinsic
def scratch_words(_context):
    """Room for `TILE` int64, on the stack."""

    def generate(context, builder, signature, _arguments):
        block = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(64), TILE))
        return builder.bitcast(block, context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(), generate


@intrinsic
def scratch_like(_context, pointer):
    """Room for `TILE` values of the pointer's type, on the stack."""

    def generate(context, builder, signature, _arguments):
        word = context.get_value_type(signature.return_type.dtype)
        block = cgutils.alloca_once(builder, ir.ArrayType(word, TILE))
        return builder.bitcast(block, context.get_value_type(signature.return_type))

    return pointer(pointer), generate


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


def _row(kind, streams=False):
    """An intrinsic `row(lanes, target, i, base, k, source, j, factor)` on `lanes` neighbouring floats at once: target
    takes source, times factor, added to base or times it. What `streams` goes past the caches, and must be whole lines.
    """

    @intrinsic(prefer_literal=True)
    def row(_context, lanes, target, i, base, k, source, j, factor):
        count = lanes.literal_value
        signature = types.void(lanes, target, types.int64, base, types.int64, source, types.int64, target.dtype)

        def generate(context, builder, signature, arguments):
            _, to, at, onto, onto_at, rows, begin, scale = arguments
            scalar = context.get_value_type(signature.args[1].dtype)
            vector = ir.VectorType(scalar, count)
            align = context.get_abi_sizeof(scalar)

            def lanes_at(pointer, place):
                return builder.bitcast(builder.gep(pointer, [place]), vector.as_pointer())

            value = builder.load(lanes_at(rows, begin), align=align)
            if kind.startswith("scaled"):
                value = builder.fmul(value, splat(builder, scale, vector))
            if kind.endswith("add"):
                value = builder.fadd(builder.load(lanes_at(onto, onto_at), align=align), value)
            if kind.endswith("multiply"):
                value = builder.fmul(builder.load(lanes_at(onto, onto_at), align=align), value)
            store = builder.store(value, lanes_at(to, at), align=4 * LINE if streams else align)
            if streams:
                store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return signature, generate

    return row


@intrinsic(prefer_literal=True)
def add_lanes(_context, lanes, target, at, source, places, shift, first, last):
    """target[at : + lanes] gains source[places[i] + shift : + lanes] for each i from `first` up to `last`.

    What is added up stays in a register, where a loop over `row` would write it to memory and wait for it each time.
    """
    signature = types.void(lanes, target, types.int64, source, places, types.int64, types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        _, to, begin, rows, places_, offset, low, high = arguments
        scalar = context.get_value_type(signature.args[1].dtype)
        vector = ir.VectorType(scalar, lanes.literal_value)
        align = context.get_abi_sizeof(scalar)
        to = builder.bitcast(builder.gep(to, [begin]), vector.as_pointer())
        total = cgutils.alloca_once_value(builder, builder.load(to, align=align))
        with cgutils.for_range_slice(builder, low, high, ir.Constant(low.type, 1)) as (i, _):
            place = builder.add(builder.load(builder.gep(places_, [i])), offset)
            row_at = builder.bitcast(builder.gep(rows, [place]), vector.as_pointer())
            builder.store(builder.fadd(builder.load(total), builder.load(row_at, align=align)), total)
        builder.store(builder.load(total), to, align=align)
        return context.get_dummy_value()

    return signature, generate


def splat(builder, scalar, vector):
    """The vector whose lanes are all `scalar`, while code is generated."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, one, mask)


def _into_row(row):
    @inlined
    def put(lanes, target, base, source, places, factors, i, v):
        to, onto = target[1] + i * target[2] + v, base[1] + i * base[2] + v
        row(lanes, target[0], to, base[0], onto, source, places[i] + v, factors[i])

    return put


def _strips(put):
    @compiled
    def strips(target, base, source, places, factors, count, width):
        for i in range(count):
            for v in range(0, width, LINE):
                put(LINE, target, base, source, places, factors, i, v)

    return strips


def _narrow_strips(put):
    @compiled
    def strips(target, base, source, places, factors, count, width):
        lanes = 4 if width % 4 == 0 else 1
        for i in range(count):
            for v in range(0, width, lanes):
                if lanes == 4:
                    put(4, target, base, source, places, factors, i, v)
                else:
                    put(1, target, base, source, places, factors, i, v)

    return strips


def _into_rows(kind):
    put = _into_row(_row(kind))
    strips, narrow_strips = _strips(put), _narrow_strips(put)
    streams = _strips(_into_row(_row(kind, streams=True)))

    @inlined
    def rows(target, base, source, places, factors, count, width, streamed):
        """For each of `count` rows of `target`, `width` floats: source[places[i] :], times factors[i], onto `base`."""
        if streamed:
            streams(target, base, source, places, factors, count, width)
        elif width % LINE == 0:
            strips(target, base, source, places, factors, count, width)
        else:
            narrow_strips(target, base, source, places, factors, count, width)

    return rows


assign_rows, add_rows, multiply_rows = _into_rows("assign"), _into_rows("add"), _into_rows("multiply")
assign_scaled = _into_rows("scaled assign")
add_scaled = _into_rows("scaled add")
multiply_scaled = _into_rows("scaled multiply")


def _whole_row(kind):
    row = _row(kind)

    @inlined
    def whole(target, place, source, begin, factor, width):
        """target[place : + width] takes source[begin : + width], times factor."""
        if width % LINE == 0:
            for v in range(0, width, LINE):
                row(LINE, target, place + v, target, place + v, source, begin + v, factor)
        elif width % 4 == 0:
            for v in range(0, width, 4):
                row(4, target, place + v, target, place + v, source, begin + v, factor)
        else:
            for v in range(width):
                row(1, target, place + v, target, place + v, source, begin + v, factor)

    return whole


set_scaled, spill_row = _whole_row("scaled assign"), _whole_row("scaled add")


@inlined
def add_up(target, at, source, places, first, last, width):
    """target[at : + width] gains source[places[i] : + width] for each i from `first` up to `last`."""
    if width % LINE == 0:
        for v in range(0, width, LINE):
            add_lanes(LINE, target, at + v, source, places, v, first, last)
    elif width % 4 == 0:
        for v in range(0, width, 4):
            add_lanes(4, target, at + v, source, places, v, first, last)
    else:
        for v in range(width):
            add_lanes(1, target, at + v, source, places, v, first, last)


@compiled
def spill_rows(target, places, source, begin, step, factors, count, width):
    """For each of `count` rows: target[places[i] : + width] gains source[begin + i * step :], times factors[i]."""
    for i in range(count):
        spill_row(target, places[i], source, begin + i * step, factors[i], width)
