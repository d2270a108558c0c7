"""The gather and its gradient on a CUDA device, by Triton's kernels.

Dense gradients are summed by atomic additions, whose order varies from run to run; those of rows, and under
`torch.use_deterministic_algorithms(True)` all, are sorted and summed in order.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from tablefold.ops.cpu import NO_WILD, WildIdError
from tablefold.ops.program import Program, layout

_BLOCK_FLOATS = 4096


def gather(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Program) -> Tensor:
    """The vectors `[batch, features, dim]` of ids `[batch, tables]`.

    Raises:
        WildIdError: for an id outside its table; nothing was read there. (Finding out waits for the kernel to end.)
    """
    batch, floats = ids.shape[0], program.features * program.dim
    vectors = memory.new_empty(batch, program.features, program.dim)
    wild = torch.full((1,), NO_WILD, dtype=torch.int64, device=ids.device)
    grid, sizes = _launch(program, batch)
    words = program.on(memory.device)
    lookups = words if lookup is None else lookup
    kernels().gather_kernel[grid](
        memory, lookups, ids, words, vectors, wild, batch, floats, ids.stride(0), ids.stride(1), **sizes
    )
    place = int(wild)
    if place != NO_WILD:
        raise WildIdError.at(ids, place)
    return vectors


def scatter(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Program) -> Tensor:
    """The dense gradient of memory, given that of the vectors."""
    gradient = torch.zeros_like(memory)
    if torch.are_deterministic_algorithms_enabled():
        rows, values = scatter_rows(vectors, memory, lookup, ids, program)
        return gradient.index_copy_(0, rows[0], values)
    _scatter(vectors, memory, lookup, ids, program, gradient, None)
    return gradient


def scatter_rows(
    vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Program
) -> tuple[Tensor, Tensor]:
    """The gradient of the rows of memory that were read: their numbers `[1, n]`, ascending, and values `[n, unit]`.

    What each read gives is listed, sorted by row and summed in that order: the same bits each time.
    """
    unit = program.header.unit
    count = program.header.reads * ids.shape[0]
    rows = torch.empty(count, dtype=torch.int64, device=ids.device)
    values = memory.new_zeros(count, unit)
    _scatter(vectors, memory, lookup, ids, program, values, rows)
    ascending, order = rows.sort(stable=True)
    found, lengths = torch.unique_consecutive(ascending, return_counts=True)
    return found[None], torch.segment_reduce(values[order], "sum", lengths=lengths, unsafe=True)


def _scatter(
    vectors: Tensor,
    memory: Tensor,
    lookup: Tensor | None,
    ids: Tensor,
    program: Program,
    gradient: Tensor,
    rows: Tensor | None,
) -> None:
    batch = ids.shape[0]
    grid, sizes = _launch(program, batch)
    words = program.on(memory.device)
    kernels().scatter_kernel[grid](
        vectors.contiguous(),
        memory,
        words if lookup is None else lookup,
        ids,
        words,
        gradient,
        words if rows is None else rows,
        batch,
        vectors.numel() // max(batch, 1),
        *ids.stride(),
        **sizes,
        BY_ROW=rows is not None,
    )


def kernels() -> Any:
    """The module of Triton's kernels, imported at first use."""
    return importlib.import_module("tablefold.ops.kernels.cuda")


def _launch(program: Program, batch: int) -> tuple[tuple[int, int], dict[str, int]]:
    """(grid of example blocks and chains, sizes of a block and what the kernels are compiled for)."""
    header = program.header
    chains = header.pieces_at - header.chains_at - 1
    lanes = 1 << (header.widest - 1).bit_length()
    block = max(1, min(128, _BLOCK_FLOATS // lanes))
    return (max(1, -(-batch // block)), chains), {"BLOCK": block, "LANES": lanes, "LAYOUT": layout()}
