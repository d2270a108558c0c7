"""The gather as torch sees it: a custom operator with its shape, its gradient, and the choice between backends."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tablefold.ops import cpu, gpu
from tablefold.ops.backends import is_fused, is_plain
from tablefold.ops.cpu import WildIdError
from tablefold.ops.program import array_program
from tablefold.ops.reference import ReferenceGather
from tablefold.terms import AddressMap

_GATHER = "(Tensor memory, Tensor? lookup, Tensor ids, Tensor program, int features, int dim, bool rows) -> Tensor"
_SCATTER = "(Tensor vectors, Tensor memory, Tensor? lookup, Tensor ids, Tensor program) -> "

GradientForm = Literal["auto", "dense", "rows"]
"""What the gradient of memory is: one float for each of its, or only the rows that a batch has read (a coalesced sparse
tensor). `auto`: rows for memories of more than `DENSE_FLOATS` floats cut into rows of `ROW_FLOATS` or more."""

DENSE_FLOATS = 1 << 22
"""16 MB: to clear, update and read that much anew takes a few milliseconds a step."""

ROW_FLOATS = 4
"""Each row of a sparse gradient carries its number, 8 bytes: narrower rows would be more number than gradient."""


@torch.library.custom_op("tablefold::gather", mutates_args=(), device_types="cpu", schema=_GATHER)
def gather(
    memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, features: int, dim: int, rows: bool
) -> Tensor:
    """The vectors `[batch, features, dim]` that `program` composes for `ids` from `memory`.

    `rows` makes memory's gradient a sparse tensor of the rows that were read.
    """
    return cpu.gather(memory, lookup, ids, program, features, dim)


@gather.register_kernel("cuda")
def _(
    memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, features: int, dim: int, rows: bool
) -> Tensor:
    return gpu.gather(memory, lookup, ids, program, features, dim)


@gather.register_fake
def _(
    memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, features: int, dim: int, rows: bool
) -> Tensor:
    return memory.new_empty(ids.shape[0], features, dim)


@torch.library.custom_op("tablefold::scatter", mutates_args=(), device_types="cpu", schema=_SCATTER + "Tensor")
def scatter(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> Tensor:
    """The gradient of memory, of its shape, given the gradient `vectors` of what was gathered."""
    return cpu.scatter(vectors, memory, lookup, ids, program)


@scatter.register_kernel("cuda")
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> Tensor:
    return gpu.scatter(vectors, memory, lookup, ids, program)


@scatter.register_fake
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> Tensor:
    return torch.empty_like(memory)


@torch.library.custom_op(
    "tablefold::scatter_rows", mutates_args=(), device_types="cpu", schema=_SCATTER + "(Tensor, Tensor)"
)
def scatter_rows(
    vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor
) -> tuple[Tensor, Tensor]:
    """The rows of memory that were read, `[1, n]` ascending, and their gradients `[n, unit]`."""
    return cpu.scatter_rows(vectors, memory, lookup, ids, program)


@scatter_rows.register_kernel("cuda")
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> tuple[Tensor, Tensor]:
    return gpu.scatter_rows(vectors, memory, lookup, ids, program)


@scatter_rows.register_fake
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return ids.new_empty(1, count, dtype=torch.int64), memory.new_empty(count, memory.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    memory, lookup, ids, program, _, _, ctx.rows = inputs
    ctx.save_for_backward(memory, lookup, ids, program)


def _backward(ctx: Any, vectors: Tensor) -> tuple[Tensor | None, ...]:
    memory = ctx.saved_tensors[0]
    if ctx.rows:
        gradient = sparse(memory, *scatter_rows(vectors, *ctx.saved_tensors))
    else:
        gradient = scatter(vectors, *ctx.saved_tensors)
    return gradient, None, None, None, None, None, None


gather.register_autograd(_backward, setup_context=_keep)


def sparse(memory: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """The gradient of some rows of memory, as torch's optimisers take it."""
    return torch.sparse_coo_tensor(rows, values, memory.shape, check_invariants=False, is_coalesced=True)


def cpu_gradient(
    rows: bool, vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor | cpu.Bags, program: Tensor
) -> Tensor:
    """The gradient of memory by the kernels, sparse for `rows`, given that of the vectors (of the sums of bags)."""
    if rows:
        return sparse(memory, *cpu.scatter_rows(vectors, memory, lookup, ids, program))
    return cpu.scatter(vectors, memory, lookup, ids, program)


class _Gathered(torch.autograd.Function):
    """The operator on plain tensors on a CPU, without torch's dispatcher."""

    @staticmethod
    def forward(
        ctx: Any,
        memory: Tensor,
        lookup: Tensor | None,
        ids: Tensor,
        program: Tensor,
        features: int,
        dim: int,
        rows: bool,
    ) -> Tensor:
        ctx.save_for_backward(memory, lookup, ids, program)
        ctx.rows = rows
        return cpu.gather(memory, lookup, ids, program, features, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, vectors: Tensor) -> tuple[Tensor | None, ...]:
        return cpu_gradient(ctx.rows, vectors, *ctx.saved_tensors), None, None, None, None, None, None


class Gather(nn.Module):
    """Reads the vectors of a batch of ids from memory, as an address map says, by the backend that is chosen.

    Args:
        address_map: tables, terms and memory layout.

    Calling it with memory `[floats / unit, unit]`, the concatenated lookup arrays (or None) and ids `[batch, tables]`
    returns `[batch, features, dim]`.

    Attributes:
        gradient: the form of memory's gradient, `auto` at first; the reference's is always dense.

    Raises:
        WildIdError: for an id outside its table; nothing was read there. Only where the reference is traced nobody
            looks: tracers cannot branch on data, and whoever feeds a traced model checks its ids.
    """

    program: Tensor
    rows: Tensor
    gradient: GradientForm

    def __init__(self, address_map: AddressMap) -> None:
        super().__init__()
        self.reference = ReferenceGather(address_map)
        self.gradient = "auto"
        self.features, self.dim = sum(address_map.features), address_map.tables[0].dim
        self.register_buffer("program", torch.from_numpy(array_program(address_map)), persistent=False)
        self.table_of = [table for table, features in enumerate(address_map.features) for _ in range(features)]
        limits = [table.rows or 0 for table in address_map.tables]
        self.register_buffer("rows", torch.tensor(limits), persistent=False)

    def forward(
        self, memory: Float[Tensor, "rows unit"], lookup: Tensor | None, ids: Int[Tensor, "batch tables"]
    ) -> Float[Tensor, "batch features dim"]:
        """The composed vectors of every table."""
        vectors: Tensor
        if is_fused(memory):
            work = (memory, lookup, ids, self.program, self.features, self.dim)
            if not is_plain(memory, ids):
                vectors = gather(*work, self.gives_rows(memory))
            elif memory.requires_grad and torch.is_grad_enabled():
                vectors = _Gathered.apply(*work, self.gives_rows(memory))  # type: ignore[no-untyped-call]
            else:
                vectors = cpu.gather(*work)
        else:
            if not (torch.compiler.is_compiling() or ids.is_meta):
                self._refuse_wild(ids)
            vectors = self.reference(memory, lookup, ids.to(torch.int64))
        return vectors

    def _refuse_wild(self, ids: Tensor) -> None:
        wild = ((ids < 0) | (ids >= self.rows)) & (self.rows > 0)
        if bool(wild.any()):
            raise WildIdError.at(ids, int(wild.flatten().nonzero()[0]))

    def gives_rows(self, memory: Tensor) -> bool:
        """Whether memory's gradient holds only the rows that were read."""
        if self.gradient == "auto":
            return memory.numel() > DENSE_FLOATS and memory.shape[1] >= ROW_FLOATS
        return self.gradient == "rows"
