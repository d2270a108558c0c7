"""The gather and its gradient on a CUDA device, by Triton's kernels.

Dense gradients are summed by atomic additions, whose order varies from run to run; those of rows, and under
`torch.use_deterministic_algorithms(True)` all, are sorted and summed in order.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tablefold.formats.codes import Codes
from tablefold.ops.cpu import NO_WILD, Source, WildIdError, check_gradient, check_indices, sources_of, vector_type
from tablefold.ops.program import PLAIN, Program, layout, words

EXACT = {"enable_fp_fusion": False}
"""Options that the kernels are compiled with: LLVM and the assembler fuse no product and sum into one operation, which
would round once instead of twice. So reads, and what is composed of them, have the same bits as elsewhere."""

AS_THEY_ARE, DECODED, ENCODED = range(3)
"""What a kernel is compiled for: float32 or float64 alone; other formats too, but of codes only packed ones; all."""

_BLOCK_FLOATS = 4096
"""Floats that a block of a kernel's threads works on."""

_ENCODED_FLOATS = 1024
"""The same, where masters are encoded: joining the magnitudes of their blocks takes registers."""


def gather(
    memory: Sequence[Tensor], lookup: Tensor | None, ids: Tensor, program: Program, edges: Tensor | None = None
) -> Tensor:
    """The vectors `[batch, features, dim]` of ids `[batch, tables]`.

    Raises:
        WildIdError: for an id outside its table; nothing was read there. (Finding out waits for the kernel to end.)
    """
    check_indices(lookup, edges, program)
    vectors = memory[0].new_empty(ids.shape[0], program.features, program.dim, dtype=vector_type(memory))
    wild = torch.full((1,), NO_WILD, dtype=torch.int64, device=ids.device)
    sources = _on_device(tuple(sources_of(memory, program)), ids.device)
    grid, sizes = _launch(memory, program, ids.shape[0])
    own = program.on(ids.device)
    indices = [own if each is None else each for each in (lookup, edges)]
    kernels().gather_kernel[grid](sources, *indices, ids, own, vectors, wild, *_shape(ids, program), **sizes)
    place = int(wild)
    if place != NO_WILD:
        raise WildIdError.at(ids, place)
    return vectors


def gradients(
    vectors: Tensor,
    memory: Sequence[Tensor],
    lookup: Tensor | None,
    ids: Tensor,
    program: Program,
    sparse: Sequence[bool],
    edges: Tensor | None = None,
) -> list[Tensor]:
    """The gradients of memory, given that of the vectors. What ids outside their table read has none.

    What each read of an array whose gradient is by row gives is listed, sorted by row and summed in that order: the
    same bits each time.

    Returns:
        For each array one tensor of its shape or, if `sparse` says so, two: the numbers of the rows that were read,
        `[1, n]` ascending, and their gradients `[n, width]`.

    Raises:
        ValueError: for gradients of another type than memory's, or of packed memory.
    """
    check_gradient(vectors, memory, program)
    check_indices(lookup, edges, program)
    asked = list(sparse) or [False] * len(memory)
    in_order = torch.are_deterministic_algorithms_enabled()
    found = _scatter(vectors.contiguous(), memory, [lookup, edges], ids, program, asked, in_order)
    result: list[Tensor] = []
    for gradient, array, by_row in zip(found, memory, asked, strict=True):
        if by_row or len(gradient) == 1:
            result += gradient
        else:
            rows, values = gradient
            result.append(torch.zeros_like(array).index_copy_(0, rows[0], values))
    return result


def _scatter(
    vectors: Tensor,
    memory: Sequence[Tensor],
    indices: Sequence[Tensor | None],
    ids: Tensor,
    program: Program,
    sparse: Sequence[bool],
    in_order: bool,
) -> list[list[Tensor]]:
    """For each array its dense gradient alone or, if `sparse` or all is to be summed in order, the rows that were read
    and their gradients. Those of projections are dense; in order, each block of examples has a part of its own."""
    grid, sizes = _launch(memory, program, batch := ids.shape[0])
    by_row, starts = program.by_row([in_order or each for each in sparse]), program.read_starts
    counts = [batch * (end - first) for first, end in pairwise(starts)]
    given = [
        vectors.new_zeros(count, array.width) if listed else torch.zeros_like(master)
        for master, array, count, listed in zip(memory, program.arrays, counts, by_row, strict=True)
    ]
    projections = [number for number, array in enumerate(program.arrays) if array.role == "projections"]
    floats = [program.arrays[number].floats for number in projections] if in_order else []
    parts = vectors.new_zeros(grid[0] * program.header.matrix_parts, sum(floats))
    for number, part in zip(projections, torch.split(parts, floats, dim=1), strict=False):
        given[number] = part
    addresses = sources_of(memory, program, given, by_row)
    for number, (values, listed) in enumerate(zip(given, by_row, strict=True)):
        if listed:  # reads count from the program's first
            before = batch * starts[number] * values.shape[1] * values.element_size()
            addresses[words(Source) * number + _GRADIENT] = values.data_ptr() - before
    sources, own = _on_device(tuple(addresses), ids.device), program.on(ids.device)
    count = batch * starts[-1] if any(by_row) else 0
    rows = torch.full((count,), -1 if program.is_ranged else 0, dtype=torch.int64, device=ids.device)
    own_indices = [own if each is None else each for each in indices]
    shape = (sum(floats), *_shape(ids, program))
    kernels().scatter_kernel[grid](vectors, sources, *own_indices, ids, own, rows, *shape, **sizes)
    for number in projections:
        given[number] = given[number].sum(0).view(program.arrays[number].shape) if in_order else given[number]
    listed_rows = torch.split(rows, counts) if any(by_row) else [rows] * len(given)
    return [
        _sum_rows(*_there(program, own_rows, values)) if listed else [values]
        for own_rows, values, listed in zip(listed_rows, given, by_row, strict=True)
    ]


def _there(program: Program, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Reads without those of examples that are in other ranges, which read nothing."""
    if not program.is_ranged:
        return rows, values
    there = rows >= 0
    return rows[there], values[there]


_GRADIENT = Source.gradient.offset // 8


def _sum_rows(rows: Tensor, values: Tensor) -> list[Tensor]:
    """Rows `[1, n]`, ascending and each once, and the sums of their values `[n, width]` in the order of the list."""
    ascending, order = rows.sort(stable=True)
    found, lengths = torch.unique_consecutive(ascending, return_counts=True)
    return [found[None], torch.segment_reduce(values[order], "sum", lengths=lengths, unsafe=True)]


def kernels() -> Any:
    """The module of Triton's kernels, imported at first use."""
    return importlib.import_module("tablefold.ops.kernels.cuda")


@lru_cache(maxsize=256)
def _on_device(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    """Words on a device. Copying them waits for the device, and what has been allocated once is soon met again."""
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=torch.int64, device=device)


def _shape(ids: Tensor, program: Program) -> tuple[int, ...]:
    """(examples, floats of their vectors, ids from one example to the next, from one table to the next)."""
    return ids.shape[0], program.features * program.dim, ids.stride(0), ids.stride(1)


def _launch(memory: Sequence[Tensor], program: Program, batch: int) -> tuple[tuple[int, int], dict[str, int]]:
    """(grid of example blocks and chains, sizes of a block and what the kernels are compiled for)."""
    header, reads = program.header, _reads(memory, program)
    chains = header.pieces_at - header.chains_at - 1
    lanes = 1 << (header.widest - 1).bit_length()
    block = max(1, min(128, (_ENCODED_FLOATS if reads == ENCODED else _BLOCK_FLOATS) // lanes))
    sizes = {"BLOCK": block, "LANES": lanes, "LAYOUT": layout(), "READS": reads, "PROJECTS": header.innermost > 0}
    sizes |= EXACT
    return (max(1, -(-batch // block)), chains), sizes


def _reads(memory: Sequence[Tensor], program: Program) -> int:
    found = AS_THEY_ARE
    for array, own in zip(program.arrays, memory, strict=True):
        if array.format.bits != PLAIN:
            is_encoded = isinstance(array.format, Codes) and own.dtype != torch.uint8
            found = max(found, ENCODED if is_encoded else DECODED)
    return found
