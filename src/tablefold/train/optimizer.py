"""Optimisers by name: those of the 2020 paper at torch's defaults, and Adagrad with one sum per row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from tablefold.optim import SGD, Adagrad, AMSGrad, RowOptimizer, RowwiseAdagrad
from tablefold.quoting import quoted

OPTIMIZERS: dict[str, type[RowOptimizer]] = {
    "adagrad": Adagrad,
    "amsgrad": AMSGrad,
    "sgd": SGD,
    "rowwise_adagrad": RowwiseAdagrad,
}


def check_optimizer(name: str, lr: float | None) -> None:
    """Refuse an optimiser that is unknown, or a learning rate that none can have.

    Raises:
        ValueError: with the optimisers there are, or the bounds of the rate.
    """
    if name not in OPTIMIZERS:
        near = get_close_matches(name, OPTIMIZERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown optimizer {quoted(name)}; {hint}optimizers are: {', '.join(OPTIMIZERS)}")
    if lr is not None and not 0 < lr < math.inf:
        raise ValueError(f"lr={lr} must be greater than 0 and finite")


def build_optimizer(name: str, parameters: Iterable[Parameter], lr: float | None = None) -> RowOptimizer:
    """The optimiser `name` over `parameters`; `lr=None` takes its default, which is torch's.

    Raises:
        ValueError: for an unknown name or a learning rate that is not positive.

    >>> import torch
    >>> build_optimizer("sgd", [Parameter(torch.zeros(2))]).param_groups[0]["lr"]
    0.001
    """
    check_optimizer(name, lr)
    learnable = [parameter for parameter in parameters if parameter.requires_grad]
    options: dict[str, Any] = {} if lr is None else {"lr": lr}
    return OPTIMIZERS[name](learnable, **options)


def remembered(optimizer: RowOptimizer) -> list[dict[str, Any]]:
    """For every parameter, in order, what the optimiser remembers of it once it has moved it.

    Arrays stand there as tensors on the device "meta", of their type and shape; counts as they are after one step.

    >>> import torch
    >>> remembered(build_optimizer("rowwise_adagrad", [Parameter(torch.zeros(5, 2))]))
    [{'sum': tensor(..., device='meta', size=(5,))}]
    """
    sample = Parameter(torch.zeros(2, 3))
    sample.grad = torch.zeros_like(sample)
    kind: Any = type(optimizer)  # each has defaults for all but its parameters
    small = kind([sample])
    small.step()
    held = small.state[sample].items()

    def like(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        shape = parameter.shape if value.shape == sample.shape else parameter.shape[:1]
        return torch.empty(shape, dtype=value.dtype, device="meta")

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [{name: like(value, parameter) for name, value in held} for parameter in parameters]


def state_floats(name: str, dim: int) -> float:
    """Floats that the optimiser `name` remembers of each weight of rows of `dim`.

    >>> state_floats("amsgrad", 16), state_floats("adagrad", 16), state_floats("rowwise_adagrad", 16)
    (3.0, 1.0, 0.0625)
    """
    table = Parameter(torch.empty(64, dim, device="meta"))
    (held,) = remembered(build_optimizer(name, [table]))
    return sum(value.numel() for value in held.values() if isinstance(value, Tensor) and value.ndim) / table.numel()


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of every array the optimiser remembers: moments, sums of squares."""
    return sum(map(_state_bytes, optimizer.state.values()))


def training_bytes(module: nn.Module, optimizer: Optimizer) -> int:
    """Bytes that a module takes while it is trained: its parameters (masters where memory is in fewer bits), its other
    arrays, and what the optimiser remembers of its parameters. Gradients, which come and go with a batch, are not
    counted."""
    parameters = list(module.parameters())
    held = [*parameters, *module.buffers()]
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    return sum(tensor.nbytes for tensor in held) + sum(map(_state_bytes, states))


def _state_bytes(state: Mapping[str, Any]) -> int:
    return sum(value.nbytes for value in state.values() if isinstance(value, Tensor))
