"""A model whose network is compiled by `torch.compile`; its group, a kernel already, is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from tablefold.models import Network

Forward = Callable[[Tensor, Tensor], Tensor]
"""`(dense, ids) -> logits [batch]`."""


def compiled(model: Network) -> Forward:
    """The model's forward pass, its network compiled at the first call of each batch size, which takes some seconds.

    The gather stays outside: its sparse gradient is none that torch's compiler could generate code for, and a compiled
    call of a kernel gains nothing. Results equal the model's up to the order of sums.

    Raises:
        ValueError: by the first call, where torch finds no compiler to build its code with.
    """
    network = torch.compile(model.logits, fullgraph=True, dynamic=False)

    def forward(dense: Tensor, ids: Tensor) -> Tensor:
        vectors = model.vectors(ids)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The .grad attribute")  # torch's own look at its inputs
                logits: Tensor = network(dense, vectors)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split())
            raise ValueError(
                f"the model cannot be compiled ({reason}): install a C++ compiler (g++), or train without --compile"
            ) from error
        return logits

    return forward
