"""Rows times a projection: what they come to, and what both gain of the gradient.

Sums are taken float by float, in one order: rows in few bits, frozen or not, give the same bits, and gradients do
whatever the number of threads.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tablefold.compilation import part
from tablefold.ops.kernels.lanes import for_lanes, loop, pointer_like, rows_of, source_of, splat


def _projection(adds):
    @intrinsic
    def project(_context, target, rows, inner, matrix, place, step, count, width):
        """Each of `count` rows of `target` takes the sum of row[k] * matrix[place + k * step : + width] for each k
        below `inner`, in that order, of the `rows` that lie side by side; if `adds`, on top of what is there.
        """

        def generate(context, builder, signature, arguments):
            target, rows, inner, matrix, place, step, count, width = arguments
            to, *to_at = cgutils.unpack_tuple(builder, target, 3)
            to, columns = (rows_of(context, builder, signature.args[n], each) for n, each in ((1, to), (3, matrix)))

            def product(row, k, v, lanes):
                value = columns.load(builder.add(builder.add(place, v), builder.mul(k, step)), lanes)
                return builder.fmul(
                    splat(builder, builder.load(builder.gep(rows, [builder.add(row, k)])), value.type), value
                )

            def strips(lanes):
                zero = count.type(0)
                with loop(builder, zero, count) as (i, _):
                    row, begin = builder.mul(i, inner), builder.add(to_at[0], builder.mul(i, to_at[1]))
                    with loop(builder, zero, width, lanes) as (v, _):
                        here = builder.add(begin, v)
                        first = to.load(here, lanes) if adds else product(row, zero, v, lanes)
                        total = cgutils.alloca_once_value(builder, first)
                        with loop(builder, count.type(0 if adds else 1), inner) as (k, _):
                            builder.store(builder.fadd(builder.load(total), product(row, k, v, lanes)), total)
                        to.store(builder.load(total), here)

            for_lanes(builder, width, strips)
            return context.get_dummy_value()

        word = types.int64
        return types.void(target, rows, word, matrix, word, word, word, word), generate

    return project


set_projected, add_projected = _projection(False), _projection(True)


@intrinsic
def inner_of(_context, one, at, other, begin, width):
    """The inner product of one[at : + width] and other[begin : + width]."""

    def generate(context, builder, signature, arguments):
        one, at, _, begin, width = arguments
        left, right = (rows_of(context, builder, signature.args[n], arguments[n]) for n in (0, 2))
        scalar = one.type.pointee
        result = cgutils.alloca_once(builder, scalar)

        def strips(lanes):
            vector = ir.VectorType(scalar, lanes)
            total = cgutils.alloca_once_value(builder, ir.Constant(vector, [scalar(0)] * lanes))
            with loop(builder, width.type(0), width, lanes) as (v, _):
                both = left.load(builder.add(at, v), lanes), right.load(builder.add(begin, v), lanes)
                builder.store(builder.fadd(builder.load(total), builder.fmul(*both)), total)
            builder.store(_added_up(builder, builder.load(total)), result)

        for_lanes(builder, width, strips)
        return builder.load(result)

    word = types.int64
    return one.dtype(one, word, other, word, word), generate


def _added_up(builder, vector):
    """The sum of a vector's lanes, halves onto halves."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        word = ir.IntType(32)
        low, high = (ir.Constant(ir.VectorType(word, lanes), list(range(first, first + lanes))) for first in (0, lanes))
        vector = builder.fadd(builder.shuffle_vector(vector, vector, low), builder.shuffle_vector(vector, vector, high))
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


@intrinsic
def add_weighted(_context, target, place, weights, begin, weight_step, source, at, step, count, width):
    """target[place : + width] gains weights[begin + i * weight_step] * source[at + i * step : + width] for each i below
    `count`, in that order.
    """

    def generate(context, builder, signature, arguments):
        _, place, weights, begin, weight_step, _, at, step, count, width = arguments
        to, rows = (rows_of(context, builder, signature.args[n], arguments[n]) for n in (0, 5))

        def strips(lanes):
            with loop(builder, width.type(0), width, lanes) as (v, _):
                here = builder.add(place, v)
                total = cgutils.alloca_once_value(builder, to.load(here, lanes))
                with loop(builder, count.type(0), count) as (i, _):
                    value = rows.load(builder.add(builder.add(at, v), builder.mul(i, step)), lanes)
                    weight = builder.load(builder.gep(weights, [builder.add(begin, builder.mul(i, weight_step))]))
                    value = builder.fmul(value, splat(builder, weight, value.type))
                    builder.store(builder.fadd(builder.load(total), value), total)
                to.store(builder.load(total), here)

        for_lanes(builder, width, strips)
        return context.get_dummy_value()

    word = types.int64
    return types.void(target, word, weights, word, word, source, word, word, word, word), generate


@part
def unproject(arguments, piece, source, start, step, out, count):
    """Fill rows of `out`, `piece.projected` floats each, with the gradients of what a piece projects: those of its
    products, which begin at source[start + i * step :], times the projection's columns.
    """
    matrix, inner, width = (
        pointer_like(source, source_of(arguments, piece.matrix_array).memory),
        piece.inner,
        piece.width,
    )
    for i in range(count):
        for k in range(inner):
            row = piece.matrix + k * piece.matrix_step
            out[i * inner + k] = inner_of(source, start + i * step, matrix, row, width)


@part
def add_to_projection(arguments, piece, low, high, rows, source, start, step, count):
    """Add to the gradient of a piece's projection, as far as it lies in [low, high), rows times the gradients of their
    products.
    """
    gradient = pointer_like(source, source_of(arguments, piece.matrix_array).gradient)
    inner = piece.inner
    for k in range(inner):
        place = piece.matrix + k * piece.matrix_step
        first, last = max(0, low - place), min(piece.width, high - place)
        if first < last:
            add_weighted(gradient, place + first, rows, k, inner, source, start + first, step, count, last - first)
