"""Optimisers by name: those of the 2020 paper at torch's defaults, and Adagrad with one sum per row."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from tablefold.optim import SGD, Adagrad, AMSGrad, RowOptimizer, RowwiseAdagrad

OPTIMIZERS: dict[str, type[RowOptimizer]] = {
    "adagrad": Adagrad,
    "amsgrad": AMSGrad,
    "sgd": SGD,
    "rowwise_adagrad": RowwiseAdagrad,
}


def build_optimizer(name: str, parameters: Iterable[Parameter], lr: float | None = None) -> RowOptimizer:
    """The optimiser `name` over `parameters`; `lr=None` takes its default, which is torch's.

    Raises:
        ValueError: for an unknown name or a learning rate that is not positive.

    >>> import torch
    >>> build_optimizer("sgd", [Parameter(torch.zeros(2))]).param_groups[0]["lr"]
    0.001
    """
    if name not in OPTIMIZERS:
        near = get_close_matches(name, OPTIMIZERS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown optimizer {name!r}; {hint}optimizers are: {', '.join(OPTIMIZERS)}")
    if lr is not None and not lr > 0:
        raise ValueError(f"lr={lr} must be greater than 0")
    learnable = [parameter for parameter in parameters if parameter.requires_grad]
    options: dict[str, Any] = {} if lr is None else {"lr": lr}
    return OPTIMIZERS[name](learnable, **options)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of every array the optimiser remembers: moments, sums of squares."""
    states = optimizer.state.values()
    return sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
