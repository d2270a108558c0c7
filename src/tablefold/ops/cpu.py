"""The gather and its gradient on a CPU: arguments packed for the compiled kernels.

Kernels are compiled by Numba at first use (some seconds, once: the machine code is kept on disk) and serve every
method: what a group reads is data, its program.
"""

from __future__ import annotations

import ctypes
import importlib
import zlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.threads import Kernel

_Words = ctypes.c_int64 * a.WORDS


class WildIdError(ValueError):
    """An id outside its table."""


def gather(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, features: int, dim: int) -> Tensor:
    """The vectors `[batch, features, dim]` of ids `[batch, tables]` (int64 or int32, any strides).

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    vectors = memory.new_empty(ids.shape[0], features, dim)
    words = _words(memory, lookup, ids, program, vectors)
    _kernel("gather", memory.dtype)(words, -(-ids.shape[0] // a.TILE))
    _refuse_wild(words, ids)
    return vectors


def scatter(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> Tensor:
    """The dense gradient of memory, given that of the vectors."""
    gradient = torch.empty_like(memory)
    words = _words(memory, lookup, ids, program, vectors.contiguous())
    ranges = max(1, min(torch.get_num_threads(), p.QUANTILES))
    longest, widest = program[p.LONGEST : p.WIDEST + 1].tolist()
    space = torch.empty(ranges * a.space_words(longest, widest), dtype=torch.int64)
    words[a.GRADIENT], words[a.RANGES], words[a.SPACE] = gradient.data_ptr(), ranges, space.data_ptr()
    _kernel("scatter", memory.dtype)(words, ranges)
    _refuse_wild(words, ids)
    return gradient


def _words(
    memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, vectors: Tensor
) -> ctypes.Array[ctypes.c_int64]:
    array, size = (0, 0) if lookup is None else (lookup.data_ptr(), lookup.element_size())
    batch = ids.shape[0]
    return _Words(
        0,
        a.NO_WILD,
        batch,
        program.data_ptr(),
        memory.data_ptr(),
        array,
        size,
        ids.data_ptr(),
        ids.element_size(),
        *ids.stride(),
        vectors.data_ptr(),
        vectors.numel() // max(batch, 1),
    )


def _refuse_wild(words: ctypes.Array[ctypes.c_int64], ids: Tensor) -> None:
    wild = words[a.WILD]
    if wild != a.NO_WILD:
        example, column = divmod(wild, ids.shape[1])
        raise WildIdError(f"id {int(ids[example, column])} (example {example}) is outside table {column}")


@cache
def _kernel(name: str, dtype: torch.dtype) -> Kernel:
    module = importlib.import_module(f"tablefold.ops.numba_{name}")
    return Kernel(module.kernel(str(dtype).removeprefix("torch."), _version()))


@cache
def _version() -> int:
    """A number that changes with any source that machine code is made of: Numba itself looks at one file's date."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(source.read_bytes() for source in sources)) | 1
