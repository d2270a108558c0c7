"""The gather as torch sees it: a custom operator with its shape, its gradient, and the choice between backends."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tablefold.ops import cpu, gpu
from tablefold.ops.backends import is_fused, is_plain, is_recorded
from tablefold.ops.cpu import WildIdError
from tablefold.ops.program import Program, find_program

Outside = Literal["nan", "zero", "unchecked"]
"""What a recorded program (exported, traced) answers for an id outside its table, which nobody can refuse there: a
vector of NaN, so that no score looks right; a vector of zeros; or, `unchecked`, whatever the id's address holds."""

_GATHER = "(Tensor memory, Tensor? lookup, Tensor ids, int program, bool sparse) -> Tensor"
_SCATTER = "(Tensor vectors, Tensor memory, Tensor? lookup, Tensor ids, int program) -> "


def look_up(
    program: Program,
    memory: Float[Tensor, "rows unit"],
    lookup: Tensor | None,
    ids: Int[Tensor, "batch tables"],
    *,
    sparse: bool = False,
    outside: Outside = "nan",
) -> Float[Tensor, "batch features dim"]:
    """The vectors of a batch of ids, as a program says, by the backend that is chosen.

    Args:
        program: of the address map.
        memory: `[floats / unit, unit]`.
        lookup: the concatenated lookup arrays, or None.
        ids: `[batch, tables]`.
        sparse: make memory's gradient a sparse tensor of the rows that were read (of a kernel; the reference's is
            always dense).
        outside: what a recorded program answers for ids outside their table.

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    if not is_fused(memory):
        return plain(program, memory, lookup, ids, outside)
    if not is_plain(memory, ids):
        vectors: Tensor = gather(memory, lookup, ids, program.fingerprint, sparse)
    elif memory.requires_grad and torch.is_grad_enabled():
        vectors = _Gathered.apply(memory, lookup, ids, program, sparse)  # type: ignore[no-untyped-call]
    else:
        vectors = cpu.gather(memory, lookup, ids, program)
    return vectors


def plain(program: Program, memory: Tensor, lookup: Tensor | None, ids: Tensor, outside: Outside = "nan") -> Tensor:
    """The reference, with ids outside their table refused, or answered where nobody can look at them."""
    wild = are_wild(program, ids)
    unseen = is_recorded() or ids.is_meta or _is_batched(wild)
    if not unseen and bool(wild.any()):
        raise WildIdError.at(ids, int(wild.flatten().nonzero()[0]))
    if not unseen or outside == "unchecked":
        return program.reference(memory, lookup, ids.to(torch.int64))
    vectors = program.reference(memory, lookup, torch.where(wild, 0, ids).to(torch.int64))
    return answer_outside(program, vectors, wild, outside)


def answer_outside(program: Program, vectors: Tensor, wild: Tensor, outside: Outside) -> Tensor:
    """The vectors `[batch, features, dim]`, those of `wild` ids `[batch, tables]` replaced as `outside` says."""
    if outside == "unchecked":
        return vectors
    answered = wild[:, program.reference.table_of(wild.device), None]
    return vectors.masked_fill(answered, torch.nan if outside == "nan" else 0.0)


def are_wild(program: Program, ids: Tensor) -> Tensor:
    """Which ids are outside their table, `[batch, tables]`."""
    rows = program.reference.rows(ids.device)
    return ((ids < 0) | (ids >= rows)) & (rows > 0)


def _is_batched(tensor: Tensor) -> bool:
    """Whether `torch.vmap` maps over the tensor: its values cannot be branched on."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            return True
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return False


@torch.library.custom_op("tablefold::gather", mutates_args=(), device_types="cpu", schema=_GATHER)
def gather(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int, sparse: bool) -> Tensor:
    """The vectors `[batch, features, dim]` that the program of a fingerprint composes for `ids` from `memory`.

    `sparse` makes memory's gradient a sparse tensor of the rows that were read.
    """
    return cpu.gather(memory, lookup, ids, find_program(program))


@gather.register_kernel("cuda")
def _(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int, sparse: bool) -> Tensor:
    return gpu.gather(memory, lookup, ids, find_program(program))


@gather.register_fake
def _(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int, sparse: bool) -> Tensor:
    found = find_program(program)
    return memory.new_empty(ids.shape[0], found.features, found.dim)


@torch.library.custom_op("tablefold::scatter", mutates_args=(), device_types="cpu", schema=_SCATTER + "Tensor")
def scatter(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int) -> Tensor:
    """The gradient of memory, of its shape, given the gradient `vectors` of what was gathered."""
    return cpu.scatter(vectors, memory, lookup, ids, find_program(program))


@scatter.register_kernel("cuda")
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int) -> Tensor:
    return gpu.scatter(vectors, memory, lookup, ids, find_program(program))


@scatter.register_fake
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int) -> Tensor:
    return torch.empty_like(memory)


@torch.library.custom_op(
    "tablefold::scatter_rows", mutates_args=(), device_types="cpu", schema=_SCATTER + "(Tensor, Tensor)"
)
def scatter_rows(
    vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int
) -> tuple[Tensor, Tensor]:
    """The rows of memory that were read, `[1, n]` ascending, and their gradients `[n, unit]`."""
    return cpu.scatter_rows(vectors, memory, lookup, ids, find_program(program))


@scatter_rows.register_kernel("cuda")
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int) -> tuple[Tensor, Tensor]:
    return gpu.scatter_rows(vectors, memory, lookup, ids, find_program(program))


@scatter_rows.register_fake
def _(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: int) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return ids.new_empty(1, count, dtype=torch.int64), memory.new_empty(count, memory.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    memory, lookup, ids, ctx.program, ctx.sparse = inputs
    ctx.save_for_backward(memory, lookup, ids)


def _backward(ctx: Any, vectors: Tensor) -> tuple[Tensor | None, ...]:
    memory, lookup, ids = ctx.saved_tensors
    if torch.is_grad_enabled():
        gradient = differentiable(find_program(ctx.program), vectors, memory, lookup, ids)
    elif ctx.sparse:
        gradient = sparse_rows(memory, *scatter_rows(vectors, memory, lookup, ids, ctx.program))
    else:
        gradient = scatter(vectors, memory, lookup, ids, ctx.program)
    return gradient, None, None, None, None


gather.register_autograd(_backward, setup_context=_keep)


def sparse_rows(memory: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """The gradient of some rows of memory, as torch's optimisers take it."""
    return torch.sparse_coo_tensor(rows, values, memory.shape, check_invariants=False, is_coalesced=True)


def differentiable(program: Program, vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor) -> Tensor:
    """The gradient of memory as a function of memory and of the vectors' gradient: for gradients of higher order.

    It is the reference's, hence always dense.
    """
    composed = program.reference(memory, lookup, ids.to(torch.int64))
    (gradient,) = torch.autograd.grad(composed, memory, vectors, create_graph=True)
    return gradient


def cpu_gradient(
    sparse: bool, vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor | cpu.Bags, program: Program
) -> Tensor:
    """The gradient of memory by the kernels, given that of the vectors (of the sums of bags)."""
    if sparse:
        return sparse_rows(memory, *cpu.scatter_rows(vectors, memory, lookup, ids, program))
    return cpu.scatter(vectors, memory, lookup, ids, program)


class _Gathered(torch.autograd.Function):
    """The operator on plain tensors on a CPU, without torch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Program, sparse: bool) -> Tensor:
        ctx.save_for_backward(memory, lookup, ids)
        ctx.program, ctx.sparse = program, sparse
        return cpu.gather(memory, lookup, ids, program)

    @staticmethod
    def backward(ctx: Any, vectors: Tensor) -> tuple[Tensor | None, ...]:
        memory, lookup, ids = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            gradient = differentiable(ctx.program, vectors, memory, lookup, ids)
        else:
            gradient = cpu_gradient(ctx.sparse, vectors, memory, lookup, ids, ctx.program)
        return gradient, None, None, None, None
