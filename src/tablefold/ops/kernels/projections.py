"""Rows times a projection: what they come to, and what both gain of the gradient.

Sums are taken float by float, in one order: rows in few bits, frozen or not, give the same bits, and gradients do
whatever the number of threads.
"""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, ANN204

from __future__ import annotations

from functools import reduce

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tablefold.compilation import part
from tablefold.ops.kernels.lanes import for_lanes, loop, pointer_like, rows_of, source_of, splat
from tablefold.ops.program import LINE

FEW_INNER = (1, 2, 4, 8)
"""Rows of so many floats have loops of their own, which keep the projection in registers."""


class _Strip:
    """Some columns of a projection from one on, while code is written that multiplies rows by them."""

    def __init__(self, builder, rows, columns, lanes, begin, step):
        self._builder, self._rows, self._columns = builder, rows, columns
        self._lanes, self._begin, self._step = lanes, begin, step

    def _column(self, k):
        return self._columns.load(self._builder.add(self._begin, self._builder.mul(k, self._step)), self._lanes)

    def _product(self, row, k, column):
        factor = self._builder.load(self._builder.gep(self._rows, [self._builder.add(row, k)]))
        return self._builder.fmul(splat(self._builder, factor, column.type), column)

    def write(self, inner, few, for_rows):
        """What `for_rows(sum)` writes, with the best sum(row, before) for rows of `inner` floats: of the products of
        the row that begins at a place, on top of what is `before`, if anything."""
        if not few:
            for_rows(lambda row, before: self._sum(row, before, inner))
            return
        builder, numbers = self._builder, [inner.type(k) for k in range(few[0])]
        with builder.if_else(builder.icmp_unsigned("==", inner, inner.type(few[0]))) as (these, others):
            with these:
                held = [(k, self._column(k)) for k in numbers]
                for_rows(lambda row, _: reduce(builder.fadd, (self._product(row, *each) for each in held)))
            with others:
                self.write(inner, few[1:], for_rows)

    def _sum(self, row, before, inner):
        builder, none = self._builder, inner.type(0)
        first = self._product(row, none, self._column(none)) if before is None else before
        total = cgutils.alloca_once_value(builder, first)
        with loop(builder, inner.type(1 if before is None else 0), inner) as (k, _):
            builder.store(builder.fadd(builder.load(total), self._product(row, k, self._column(k))), total)
        return builder.load(total)


def _projection(continues, adds):
    @intrinsic
    def project(_context, target, base, rows, inner, matrix, place, step, count, width):
        """Each of `count` rows of `target` takes the sum of row[k] * matrix[place + k * step : + width] for each k
        below `inner`, in that order, of the `rows` that lie side by side; it `continues` the sum that is there, or
        `adds` its own to the row of `base`.
        """

        def generate(context, builder, signature, arguments):
            target, base, rows, inner, matrix, place, step, count, width = arguments
            (to, *to_at), (onto, *onto_at) = (cgutils.unpack_tuple(builder, each, 3) for each in (target, base))
            to, onto, columns = (
                rows_of(context, builder, signature.args[n], each) for n, each in ((2, to), (2, onto), (4, matrix))
            )

            def at(rows, i, v):
                return builder.add(builder.add(rows[0], builder.mul(i, rows[1])), v)

            def strips(lanes):
                with loop(builder, width.type(0), width, lanes) as (v, _):

                    def for_rows(sum_of):
                        with loop(builder, count.type(0), count) as (i, _):
                            here = at(to_at, i, v)
                            total = sum_of(builder.mul(i, inner), to.load(here, lanes) if continues else None)
                            if adds:
                                total = builder.fadd(onto.load(at(onto_at, i, v), lanes), total)
                            to.store(total, here)

                    few = FEW_INNER if lanes == LINE and not continues else ()
                    _Strip(builder, rows, columns, lanes, builder.add(place, v), step).write(inner, few, for_rows)

            for_lanes(builder, width, strips)
            return context.get_dummy_value()

        word = types.int64
        return types.void(target, base, rows, word, matrix, word, word, word, word), generate

    return project


set_projected, add_projected, project_onto = (
    _projection(False, False),
    _projection(True, False),
    _projection(False, True),
)


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
