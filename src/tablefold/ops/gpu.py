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
from tablefold.ops.cpu import NO_WILD, Source, WildIdError, check_gradient, sources_of, vector_type
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
    vectors = memory[0].new_empty(ids.shape[0], program.features, program.dim, dtype=vector_type(memory))
    wild = torch.full((1,), NO_WILD, dtype=torch.int64, device=ids.device)
    sources = _on_device(tuple(sources_of(memory, program)), ids.device)
    grid, sizes = _launch(memory, program, ids.shape[0])
    own = program.on(ids.device)
    lookups = own if lookup is None else lookup
    kernels().gather_kernel[grid](sources, lookups, ids, own, vectors, wild, *_shape(ids, program), **sizes)
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
    asked = list(sparse) or [False] * len(memory)
    in_order = torch.are_deterministic_algorithms_enabled()
    found = _scatter(vectors.contiguous(), memory, lookup, ids, program, [in_order or by_row for by_row in asked])
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
    lookup: Tensor | None,
    ids: Tensor,
    program: Program,
    by_row: Sequence[bool],
) -> list[list[Tensor]]:
    """For each array its dense gradient alone or, `by_row`, the rows that were read and their gradients."""
    batch, starts = ids.shape[0], program.read_starts
    counts = [batch * (end - first) for first, end in pairwise(starts)]
    given = [
        vectors.new_zeros(count, array.width) if listed else torch.zeros_like(master)
        for master, array, count, listed in zip(memory, program.arrays, counts, by_row, strict=True)
    ]
    addresses = sources_of(memory, program, given, by_row)
    for number, (values, listed) in enumerate(zip(given, by_row, strict=True)):
        if listed:  # reads count from the program's first
            before = batch * starts[number] * values.shape[1] * values.element_size()
            addresses[words(Source) * number + _GRADIENT] = values.data_ptr() - before
    sources, own = _on_device(tuple(addresses), ids.device), program.on(ids.device)
    rows = torch.zeros(batch * starts[-1] if any(by_row) else 0, dtype=torch.int64, device=ids.device)
    lookups = own if lookup is None else lookup
    grid, sizes = _launch(memory, program, batch)
    kernels().scatter_kernel[grid](vectors, sources, lookups, ids, own, rows, *_shape(ids, program), **sizes)
    parts = torch.split(rows, counts) if any(by_row) else [rows] * len(given)
    return [
        _sum_rows(own_rows, values) if listed else [values]
        for own_rows, values, listed in zip(parts, given, by_row, strict=True)
    ]


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
    sizes = {"BLOCK": block, "LANES": lanes, "LAYOUT": layout(), "READS": reads, **EXACT}
    return (max(1, -(-batch // block)), chains), sizes


def _reads(memory: Sequence[Tensor], program: Program) -> int:
    found = AS_THEY_ARE
    for array, own in zip(program.arrays, memory, strict=True):
        if array.format.bits != PLAIN:
            is_encoded = isinstance(array.format, Codes) and own.dtype != torch.uint8
            found = max(found, ENCODED if is_encoded else DECODED)
    return found
