"""Optimisers that update only the rows a batch has read.

They take dense gradients like torch's own, and the sparse ones that a group gives when asked (`group.sparse`). A step
costs what the batch touched, not what the table holds; on a CPU each touched row is read and written once.

With a dense gradient all equal their torch namesakes. With a sparse one, rows that were not read stay as they are:
for SGD and Adagrad that is what torch's dense step does too, for a gradient of zero moves nothing. AMSGrad is *lazy*:
the moments of a row decay only when it is read, as in `torch.optim.SparseAdam`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tablefold.ops import updates


class RowOptimizer(Optimizer):
    """What the optimisers of this module share: a step over all parameters, sparse gradients coalesced."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if not defaults["lr"] >= 0:
            raise ValueError(f"lr={defaults['lr']} must be 0 or more")
        if not defaults.get("eps", 0) >= 0:
            raise ValueError(f"eps={defaults['eps']} must be 0 or more")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; `closure`, if given, computes the loss anew, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, _coalesced(parameter.grad), group)
        return loss

    @abstractmethod
    def _update(self, parameter: Tensor, gradient: Tensor, options: dict[str, Any]) -> None:
        """Step one parameter."""


class SGD(RowOptimizer):
    """Stochastic gradient descent: `w -= lr * g`.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    def _update(self, parameter: Tensor, gradient: Tensor, options: dict[str, Any]) -> None:
        updates.update(updates.SGD, parameter, gradient, [], options["lr"])


class Adagrad(RowOptimizer):
    """Adagrad (Duchi, Hazan and Singer, JMLR 2011): `s += g^2; w -= lr * g / (sqrt(s) + eps)`.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        eps: keeps the first steps of a weight finite.
        initial_accumulator_value: of `s`.

    >>> from tablefold import TableSpec, parse
    >>> group = parse("full").build([TableSpec("user", rows=1000, dim=16)])
    >>> optimizer = Adagrad(group.parameters(), lr=0.1)
    >>> group(torch.tensor([[3], [5]])).sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, eps: float = 1e-10, initial_accumulator_value: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "initial_accumulator_value": initial_accumulator_value})

    def _update(self, parameter: Tensor, gradient: Tensor, options: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["sum"] = torch.full_like(parameter, options["initial_accumulator_value"])
        updates.update(updates.ADAGRAD, parameter, gradient, [state["sum"]], options["lr"], options["eps"])


class RowwiseAdagrad(RowOptimizer):
    """Adagrad with one sum per row: `s += mean(g^2); w -= lr * g / (sqrt(s) + eps)`.

    Its state is as many floats as the memory has rows: 1/dim of Adagrad's. (FBGEMM's exact row-wise Adagrad.)

    Args:
        params: parameters, or groups of them; the first dimension of each counts its rows.
        lr: learning rate.
        eps: keeps the first steps of a row finite.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, eps: float = 1e-10) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    def _update(self, parameter: Tensor, gradient: Tensor, options: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["sum"] = parameter.new_zeros(parameter.shape[:1])
        updates.update(updates.ROWWISE, parameter, gradient, [state["sum"]], options["lr"], options["eps"])


class AMSGrad(RowOptimizer):
    """AMSGrad (Reddi, Kale and Kumar, ICLR 2018), as `torch.optim.Adam(amsgrad=True)`; lazy on sparse gradients.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the mean and of the mean square.
        eps: added to the root.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        for beta in betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas={betas} must lie in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def _update(self, parameter: Tensor, gradient: Tensor, options: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state.update({name: torch.zeros_like(parameter) for name in ("mean", "square", "most")})
        state["step"] += 1
        beta1, beta2 = options["betas"]
        updates.update(
            updates.AMSGRAD,
            parameter,
            gradient,
            [state["mean"], state["square"], state["most"]],
            options["lr"] / (1 - beta1 ** state["step"]),
            options["eps"],
            (beta1, beta2),
            math.sqrt(1 - beta2 ** state["step"]),
        )


def _coalesced(gradient: Tensor) -> Tensor:
    """The gradient with each row at most once. What a group's backward made is so already, whatever the flag says."""
    if not gradient.is_sparse or gradient.is_coalesced():
        return gradient
    rows = gradient._indices()
    if rows.shape[0] == 1 and bool((rows[0, 1:] > rows[0, :-1]).all()):
        return gradient
    return gradient.coalesce()
