"""The gather as torch sees it: a custom operator with its shape, its gradient, and the choice between backends."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tablefold.ops import cpu
from tablefold.ops.backends import is_fused
from tablefold.ops.program import array_program
from tablefold.ops.reference import ReferenceGather
from tablefold.terms import AddressMap

_GATHER = "(Tensor memory, Tensor? lookup, Tensor ids, Tensor program, int features, int dim) -> Tensor"
_SCATTER = "(Tensor vectors, Tensor memory, Tensor? lookup, Tensor ids, Tensor program) -> Tensor"


@torch.library.custom_op("tablefold::gather", mutates_args=(), device_types="cpu", schema=_GATHER)
def gather(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, features: int, dim: int) -> Tensor:
    """The vectors `[batch, features, dim]` that `program` composes for `ids` from `memory`."""
    return cpu.gather(memory, lookup, ids, program, features, dim)


@gather.register_fake
def _(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, features: int, dim: int) -> Tensor:
    return memory.new_empty(ids.shape[0], features, dim)


@torch.library.custom_op("tablefold::scatter", mutates_args=(), device_types="cpu", schema=_SCATTER)
def scatter(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> Tensor:
    """The gradient of memory, of its shape, given the gradient `vectors` of what was gathered."""
    return cpu.scatter(vectors, memory, lookup, ids, program)


@scatter.register_fake
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> Tensor:
    return torch.empty_like(memory)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    memory, lookup, ids, program, _, _ = inputs
    ctx.save_for_backward(memory, lookup, ids, program)


def _backward(ctx: Any, vectors: Tensor) -> tuple[Tensor | None, ...]:
    return scatter(vectors, *ctx.saved_tensors), None, None, None, None, None


gather.register_autograd(_backward, setup_context=_keep)


class Gather(nn.Module):
    """Reads the vectors of a batch of ids from memory, as an address map says, by the backend that is chosen.

    Args:
        address_map: tables, terms and memory layout.

    Calling it with memory `[floats / unit, unit]`, the concatenated lookup arrays (or None) and ids `[batch, tables]`
    returns `[batch, features, dim]`.

    Raises:
        WildIdError: where a kernel meets an id outside its table. The reference does not look.
    """

    program: Tensor

    def __init__(self, address_map: AddressMap) -> None:
        super().__init__()
        self.reference = ReferenceGather(address_map)
        self.features, self.dim = sum(address_map.features), address_map.tables[0].dim
        self.register_buffer("program", torch.from_numpy(array_program(address_map)), persistent=False)

    def forward(
        self, memory: Float[Tensor, "rows unit"], lookup: Tensor | None, ids: Int[Tensor, "batch tables"]
    ) -> Float[Tensor, "batch features dim"]:
        """The composed vectors of every table."""
        vectors: Tensor
        if is_fused(memory):
            vectors = gather(memory, lookup, ids, self.program, self.features, self.dim)
        else:
            vectors = self.reference(memory, lookup, ids.to(torch.int64))
        return vectors
