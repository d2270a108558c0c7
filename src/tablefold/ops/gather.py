"""The gather as torch sees it: a custom operator with its shape, its gradient, and the choice between backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tablefold.ops import cpu, gpu
from tablefold.ops.backends import is_exported, is_fused, is_plain, is_recorded
from tablefold.ops.cpu import WildIdError
from tablefold.ops.program import Program, find_program

Outside = Literal["nan", "zero", "unchecked"]
"""What a recorded program (exported, traced) answers for an id outside its table, which nobody can refuse there: a
vector of NaN, so that no score looks right; a vector of zeros; or, `unchecked`, whatever the id's address holds."""

FILLS: dict[Outside, float | None] = {"nan": math.nan, "zero": 0.0, "unchecked": None}
"""What the vectors of ids outside their table are made of."""

Memory = Sequence[Tensor]
"""The arrays of a group in their order: each the float32 master (or float64, where memory is read as it is), or what
`freeze()` made of it."""

Sparse = Sequence[bool]
"""For each array whether its gradient is a sparse tensor of the rows that were read."""

_READ = "Tensor[] memory, Tensor? lookup, Tensor? edges, Tensor ids, int program, bool[] sparse"
_GATHER, _SCATTER = f"({_READ}) -> Tensor", f"(Tensor vectors, {_READ}) -> Tensor[]"


def look_up(
    program: Program,
    memory: Memory,
    lookup: Tensor | None,
    ids: Int[Tensor, "batch tables"],
    edges: Tensor | None = None,
    *,
    sparse: Sparse = (),
    outside: Outside = "nan",
) -> Float[Tensor, "batch features dim"]:
    """The vectors of a batch of ids, as a program says, by the backend that is chosen.

    Args:
        program: of the address map.
        memory: a tensor per array.
        lookup: the concatenated lookup arrays, or None.
        ids: `[batch, tables]`.
        edges: the concatenated edges, or None.
        sparse: which arrays get sparse gradients (of a kernel; the reference's are always dense, and so are those of
            projections); none if empty.
        outside: what a recorded program answers for ids outside their table.

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    if not is_fused(memory, program.packed):
        return plain(program, memory, lookup, ids, edges, outside)
    if not is_plain(*memory, ids):
        vectors: Tensor = gather(list(memory), lookup, edges, ids, program.key, program.by_row(sparse))
    elif torch.is_grad_enabled() and any(array.requires_grad for array in memory):
        by_row = program.by_row(sparse)
        vectors = _Gathered.apply(program, by_row, lookup, edges, ids, *memory)  # type: ignore[no-untyped-call]
    else:
        vectors = cpu.gather(memory, lookup, ids, program, edges)
    return vectors


def plain(
    program: Program,
    memory: Memory,
    lookup: Tensor | None,
    ids: Tensor,
    edges: Tensor | None = None,
    outside: Outside = "nan",
) -> Tensor:
    """The reference, with ids outside their table refused, or answered where nobody can look at them."""
    fill = FILLS[outside]
    if is_exported() and program.lowered is not None:
        return program.lowered(memory, lookup, edges, ids.to(torch.int64), fill)
    wild = are_wild(program, ids)
    unseen = is_recorded() or ids.is_meta or _is_batched(wild)
    if not unseen and bool(wild.any()):
        raise WildIdError.at(ids, int(wild.flatten().nonzero()[0]))
    if not unseen or fill is None:
        return program.reference(memory, lookup, ids.to(torch.int64), edges)
    vectors = program.reference(memory, lookup, torch.where(wild, 0, ids).to(torch.int64), edges)
    return answer_outside(program, vectors, wild, outside)


def answer_outside(program: Program, vectors: Tensor, wild: Tensor, outside: Outside) -> Tensor:
    """The vectors `[batch, features, dim]`, those of `wild` ids `[batch, tables]` replaced as `outside` says."""
    if (fill := FILLS[outside]) is None:
        return vectors
    return vectors.masked_fill(wild[:, program.reference.table_of(wild.device), None], fill)


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
def gather(
    memory: Memory, lookup: Tensor | None, edges: Tensor | None, ids: Tensor, program: int, sparse: Sparse
) -> Tensor:
    """The vectors `[batch, features, dim]` that the program of a key composes for `ids` from `memory`."""
    return cpu.gather(memory, lookup, ids, find_program(program), edges)


@gather.register_kernel("cuda")
def _(memory: Memory, lookup: Tensor | None, edges: Tensor | None, ids: Tensor, program: int, sparse: Sparse) -> Tensor:
    return gpu.gather(memory, lookup, ids, find_program(program), edges)


@gather.register_fake
def _(memory: Memory, lookup: Tensor | None, edges: Tensor | None, ids: Tensor, program: int, sparse: Sparse) -> Tensor:
    found = find_program(program)
    return ids.new_empty(ids.shape[0], found.features, found.dim, dtype=read_type(memory))


@torch.library.custom_op("tablefold::scatter", mutates_args=(), device_types="cpu", schema=_SCATTER)
def scatter(
    vectors: Tensor,
    memory: Memory,
    lookup: Tensor | None,
    edges: Tensor | None,
    ids: Tensor,
    program: int,
    sparse: Sparse,
) -> list[Tensor]:
    """The gradients of memory, given the gradient `vectors` of what was gathered: for each array a tensor of its shape
    or, if `sparse`, the rows that were read, `[1, n]` ascending, and their gradients `[n, width]`."""
    return _apart(cpu.gradients(vectors, memory, lookup, ids, find_program(program), sparse, edges))


@scatter.register_kernel("cuda")
def _(
    vectors: Tensor,
    memory: Memory,
    lookup: Tensor | None,
    edges: Tensor | None,
    ids: Tensor,
    program: int,
    sparse: Sparse,
) -> list[Tensor]:
    return _apart(gpu.gradients(vectors, memory, lookup, ids, find_program(program), sparse, edges))


def _apart(found: list[Tensor]) -> list[Tensor]:
    """Gradients of which no two share their storage, as those of the rows of several arrays do: torch forbids it."""
    storages = [each.untyped_storage().data_ptr() for each in found]
    return [each.clone() if storages[number] in storages[:number] else each for number, each in enumerate(found)]


@scatter.register_fake
def _(
    vectors: Tensor,
    memory: Memory,
    lookup: Tensor | None,
    edges: Tensor | None,
    ids: Tensor,
    program: int,
    sparse: Sparse,
) -> list[Tensor]:
    found: list[Tensor] = []
    for array, by_row in zip(memory, sparse or [False] * len(memory), strict=True):
        if by_row:
            count = torch.library.get_ctx().new_dynamic_size()
            found += [ids.new_empty(1, count, dtype=torch.int64), array.new_empty(count, array.shape[1])]
        else:
            found.append(torch.empty_like(array))
    return found


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    memory, lookup, edges, ids, ctx.program, ctx.sparse = inputs
    ctx.save_for_backward(lookup, edges, ids, *memory)


def _backward(ctx: Any, vectors: Tensor) -> tuple[Any, ...]:
    lookup, edges, ids, *memory = ctx.saved_tensors
    if torch.is_grad_enabled():
        found = differentiable(find_program(ctx.program), vectors, memory, lookup, ids, edges)
    else:
        found = paired(scatter(vectors, memory, lookup, edges, ids, ctx.program, ctx.sparse), memory, ctx.sparse)
    return found, None, None, None, None, None if ctx.sparse else []  # torch takes an empty list for one of tensors


gather.register_autograd(_backward, setup_context=_keep)


def read_type(memory: Memory) -> torch.dtype:
    """The type of vectors: that of memory which is read as it is, float32 of what was packed."""
    return memory[0].dtype if memory[0].dtype in (torch.float32, torch.float64) else torch.float32


def paired(found: Sequence[Tensor], memory: Memory, sparse: Sparse) -> list[Tensor | None]:
    """The gradients that `scatter` gave, one per array."""
    rest = iter(found)
    return [
        sparse_rows(array, next(rest), next(rest)) if by_row else next(rest)
        for array, by_row in zip(memory, sparse or [False] * len(memory), strict=True)
    ]


def sparse_rows(memory: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """The gradient of some rows of an array, as torch's optimisers take it."""
    return torch.sparse_coo_tensor(rows, values, memory.shape, check_invariants=False, is_coalesced=True)


def differentiable(
    program: Program, vectors: Tensor, memory: Memory, lookup: Tensor | None, ids: Tensor, edges: Tensor | None
) -> list[Tensor | None]:
    """The gradient of memory as a function of memory and of the vectors' gradient: for gradients of higher order.

    It is the reference's, hence always dense.
    """
    return by_reference(program.reference(memory, lookup, ids.to(torch.int64), edges), memory, vectors)


def by_reference(composed: Tensor, memory: Memory, above: Tensor) -> list[Tensor | None]:
    """The gradient of each array that learns, given what was composed of them and its gradient."""
    learning = [array for array in memory if array.requires_grad]
    gradients = iter(torch.autograd.grad(composed, learning, above, create_graph=True, materialize_grads=True))
    return [next(gradients) if array.requires_grad else None for array in memory]


class _Gathered(torch.autograd.Function):
    """The operator on plain tensors on a CPU, without torch's dispatcher."""

    @staticmethod
    def forward(
        ctx: Any,
        program: Program,
        sparse: Sparse,
        lookup: Tensor | None,
        edges: Tensor | None,
        ids: Tensor,
        *memory: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(lookup, edges, ids, *memory)
        ctx.program, ctx.sparse = program, sparse
        return cpu.gather(memory, lookup, ids, program, edges)

    @staticmethod
    def backward(ctx: Any, vectors: Tensor) -> tuple[Tensor | None, ...]:
        lookup, edges, ids, *memory = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            found = differentiable(ctx.program, vectors, memory, lookup, ids, edges)
        else:
            given = cpu.gradients(vectors, memory, lookup, ids, ctx.program, ctx.sparse, edges)
            found = paired(given, memory, ctx.sparse)
        return None, None, None, None, None, *found


def refuse_gradients(vectors: Tensor) -> Tensor:
    """The vectors of frozen memory, whose gradient is refused rather than lost."""
    refused: Tensor = _Refusal.apply(vectors.requires_grad_())  # type: ignore[no-untyped-call]
    return refused


class _Refusal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, vectors: Tensor) -> Tensor:
        raise ValueError(
            "memory is frozen and cannot learn: train before freeze(), or put the group in eval() to train what "
            "follows it"
        )
