"""One optimiser step on the rows of a parameter: what it means in plain torch, and the call of its compiled kernel.

A step takes the gradient of `n` rows: all of them for a dense gradient, the rows it names for a coalesced sparse one.
With g the gradient of a row, w its weights, all elementwise:

    SGD       w -= rate * g
    ADAGRAD   s += g^2;  w -= rate * g / (sqrt(s) + eps)
    ROWWISE   s += mean(g^2), one s per row;  w -= rate * g / (sqrt(s) + eps)
    AMSGRAD   m += (1 - beta1) * (g - m);  v = beta2 * v + (1 - beta2) * g^2;  x = max(x, v)
              w -= rate * m / (sqrt(x) / correction + eps)
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from tablefold.ops.backends import is_fused
from tablefold.ops.cpu import kernel

SGD, ADAGRAD, ROWWISE, AMSGRAD = range(4)
"""The rules."""

AHEAD = 12
"""So many rows ahead of the one in work, memory is asked for: it lies where no hardware guesses."""

_STRETCH_FLOATS = 1 << 13
_Numbers = ctypes.c_double * 6


class StepArguments(ctypes.Structure):
    """What the kernel of a step is given: the next task, the rule, `count` rows of `width` floats in tasks of `stretch`
    rows; addresses of memory, its gradient, the numbers of the rows (0 for all), six numbers, and up to three states.
    """

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("next", "rule", "count", "stretch", "width", "memory", "gradient", "rows", "numbers"),
            *("first", "second", "third"),
        )
    ]


def update(
    rule: int,
    memory: Tensor,
    gradient: Tensor,
    states: Sequence[Tensor],
    rate: float,
    eps: float = 0.0,
    betas: tuple[float, float] = (0.0, 0.0),
    correction: float = 1.0,
) -> None:
    """Apply one step of `rule` in place.

    Args:
        rule: `SGD`, `ADAGRAD`, `ROWWISE` or `AMSGRAD`.
        memory: the parameter, any shape; its first dimension counts the rows.
        gradient: dense, of the same shape, or coalesced sparse rows.
        states: of the parameter's shape (`ROWWISE`: `[rows]`), as many as the rule has.
        rate: the learning rate.
        eps: added to the root.
        betas: of `AMSGRAD`.
        correction: what the root of `AMSGRAD` is divided by.
    """
    if gradient.is_sparse:
        rows, values = gradient._indices()[0], gradient._values()
    else:
        rows, values = None, gradient
    # 1 - beta is taken in float64: in float32 it would lose half its digits.
    numbers = (rate, eps, 1 - betas[0], betas[1], 1 - betas[1], correction)
    compiled = is_fused([memory], (None,)) and memory.device.type == "cpu" and memory.dtype == values.dtype
    if compiled and all(tensor.is_contiguous() for tensor in (memory, values, *states)):
        _update_compiled(rule, memory, rows, values, states, numbers)
    elif rows is None:
        _update_plain(rule, memory, values, states, numbers)
    else:
        _update_gathered(rule, memory, rows, values, states, numbers)


def _update_compiled(
    rule: int, memory: Tensor, rows: Tensor | None, values: Tensor, states: Sequence[Tensor], numbers: Sequence[float]
) -> None:
    count = values.shape[0] if values.ndim else 1
    width = values.numel() // max(count, 1)
    if rule != ROWWISE and rows is None:  # rows do not matter: long ones keep the vector unit busy
        count, width = 1, values.numel()
        if width % 16 == 0:
            count, width = width // 16, 16
    stretch = max(1, _STRETCH_FLOATS // max(width, 1))
    array = _Numbers(*numbers)
    row_address = 0 if rows is None else rows.data_ptr()
    addresses = [memory.data_ptr(), values.data_ptr(), row_address, ctypes.addressof(array)]
    arguments = StepArguments(0, rule, count, stretch, width, *addresses, *(state.data_ptr() for state in states))
    kernel("steps", "step")(arguments, memory.dtype, -(-count // stretch))
    torch.autograd.graph.increment_version([memory, *states])


def _update_gathered(
    rule: int, memory: Tensor, rows: Tensor, values: Tensor, states: Sequence[Tensor], numbers: Sequence[float]
) -> None:
    taken = [memory[rows], *(state[rows] for state in states)]
    _update_plain(rule, taken[0], values, taken[1:], numbers)
    for whole, part in zip((memory, *states), taken, strict=True):
        whole.index_copy_(0, rows, part)


def _update_plain(
    rule: int, memory: Tensor, gradient: Tensor, states: Sequence[Tensor], numbers: Sequence[float]
) -> None:
    rate, eps, new1, beta2, new2, correction = numbers
    step = gradient
    if rule == ADAGRAD:
        step = gradient / (states[0].add_(gradient.square()).sqrt() + eps)
    elif rule == ROWWISE:
        squares = gradient.square()
        total = states[0].add_(squares.flatten(1).mean(1) if gradient.ndim > 1 else squares)
        step = gradient / (total.sqrt() + eps).view(-1, *[1] * (gradient.ndim - 1))
    elif rule == AMSGRAD:
        mean, square, most = states
        mean.lerp_(gradient, new1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=new2)
        torch.maximum(most, square, out=most)
        step = mean / (most.sqrt() / correction + eps)
    memory.sub_(step, alpha=rate)
