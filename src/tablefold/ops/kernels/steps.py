"""Optimiser steps on rows of memory: each touched row is read and written once, and no other is looked at."""

# Numba infers the types of these functions itself, by rules that mypy does not know.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN002, ANN201, ANN202

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tablefold.compilation import part
from tablefold.ops.kernels.lanes import (
    fetch_add,
    make_kernel,
    pointer_float64,
    pointer_int64,
    pointer_like,
    prefetch_write,
    splat,
)
from tablefold.ops.updates import ADAGRAD, AHEAD, AMSGRAD, SGD, StepArguments


def _square(builder, x):
    return builder.fmul(x, x)


def _root(builder, x):
    kind = "f32" if isinstance(x.type.element, ir.FloatType) else "f64"
    function = ir.FunctionType(x.type, [x.type])
    name = f"llvm.sqrt.v{x.type.count}{kind}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [x])


def _sgd(builder, load, store, rate, *_):
    store(0, builder.fsub(load(0), builder.fmul(rate, load(1))))


def _adagrad(builder, load, store, rate, eps, *_):
    gradient = load(1)
    total = builder.fadd(load(2), _square(builder, gradient))
    store(2, total)
    step = builder.fdiv(gradient, builder.fadd(_root(builder, total), eps))
    store(0, builder.fsub(load(0), builder.fmul(rate, step)))


def _amsgrad(builder, load, store, rate, eps, new1, beta2, new2, correction):
    gradient = load(1)
    mean, square, most = load(2), load(3), load(4)
    mean = builder.fadd(mean, builder.fmul(new1, builder.fsub(gradient, mean)))
    square = builder.fadd(builder.fmul(beta2, square), builder.fmul(new2, _square(builder, gradient)))
    most = builder.select(builder.fcmp_ordered(">", square, most), square, most)
    store(2, mean)
    store(3, square)
    store(4, most)
    step = builder.fdiv(mean, builder.fadd(builder.fdiv(_root(builder, most), correction), eps))
    store(0, builder.fsub(load(0), builder.fmul(rate, step)))


def _rule(formula):
    """An intrinsic that applies a formula to `lanes` floats of memory (0), gradient (1) and states (2, 3, 4)."""

    @intrinsic(prefer_literal=True)
    def rule(
        _context, lanes, memory, place, gradient, at, first, second, third, rate, eps, new1, beta2, new2, correction
    ):
        count = lanes.literal_value
        number = memory.dtype
        signature = types.void(lanes, memory, types.int64, memory, types.int64, memory, memory, memory, *[number] * 6)

        def generate(context, builder, signature, arguments):
            _, memory, place, gradient, at, first, second, third, *scalars = arguments
            scalar = context.get_value_type(signature.args[1].dtype)
            vector = ir.VectorType(scalar, count)
            align = context.get_abi_sizeof(scalar)
            arrays = [(memory, place), (gradient, at), (first, place), (second, place), (third, place)]

            def pointer(index):
                array, begin = arrays[index]
                return builder.bitcast(builder.gep(array, [begin]), vector.as_pointer())

            def load(index):
                return builder.load(pointer(index), align=align)

            def store(index, value):
                builder.store(value, pointer(index), align=align)

            formula(builder, load, store, *[splat(builder, value, vector) for value in scalars])
            return context.get_dummy_value()

        return signature, generate

    return rule


def _over_rows(rule, states):
    @part
    def update(arguments, begin, end, memory):
        width, gradient = arguments.width, pointer_like(memory, arguments.gradient)
        rows, sparse = pointer_int64(arguments.rows), arguments.rows != 0
        s1 = pointer_like(memory, arguments.first)
        s2 = pointer_like(memory, arguments.second)
        s3 = pointer_like(memory, arguments.third)
        numbers = pointer_float64(arguments.numbers)
        rate, eps, new1 = numbers[0], numbers[1], numbers[2]
        beta2, new2, correction = numbers[3], numbers[4], numbers[5]
        for i in range(begin, end):
            row = rows[i] if sparse else i
            if sparse and i + AHEAD < end:
                prefetch_write(memory, rows[i + AHEAD] * width)
                if states:
                    prefetch_write(s1, rows[i + AHEAD] * width)
            place, at = row * width, i * width
            wide = width // 16 * 16
            for v in range(0, wide, 16):
                rule(16, memory, place + v, gradient, at + v, s1, s2, s3, rate, eps, new1, beta2, new2, correction)
            for v in range(wide, width):
                rule(1, memory, place + v, gradient, at + v, s1, s2, s3, rate, eps, new1, beta2, new2, correction)

    return update


_sgd_rows = _over_rows(_rule(_sgd), 0)
_adagrad_rows = _over_rows(_rule(_adagrad), 1)
_amsgrad_rows = _over_rows(_rule(_amsgrad), 3)


@part
def _rowwise_rows(arguments, begin, end, memory):
    width, gradient = arguments.width, pointer_like(memory, arguments.gradient)
    rows, sparse = pointer_int64(arguments.rows), arguments.rows != 0
    sums = pointer_like(memory, arguments.first)
    numbers = pointer_float64(arguments.numbers)
    for i in range(begin, end):
        row = rows[i] if sparse else i
        total = 0.0
        for j in range(width):
            total += gradient[i * width + j] * gradient[i * width + j]
        sums[row] += total / width
        factor = numbers[0] / (sums[row] ** 0.5 + numbers[1])
        for j in range(width):
            memory[row * width + j] -= factor * gradient[i * width + j]


@part
def update_rows(arguments, kind, _coded):
    """Take stretches of rows until none is left."""
    memory = pointer_like(kind, arguments.memory)
    count, stretch, rule = arguments.count, arguments.stretch, arguments.rule
    while True:
        begin = stretch * fetch_add(arguments, "next", 1)
        if begin >= count:
            return
        end = min(count, begin + stretch)
        if rule == SGD:
            _sgd_rows(arguments, begin, end, memory)
        elif rule == ADAGRAD:
            _adagrad_rows(arguments, begin, end, memory)
        elif rule == AMSGRAD:
            _amsgrad_rows(arguments, begin, end, memory)
        else:
            _rowwise_rows(arguments, begin, end, memory)


step_kernel = make_kernel(update_rows, StepArguments)
