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
    """The `id` of an `example` is outside its table, that of a `column`."""

    def __init__(self, ids: Tensor, place: int) -> None:
        self.example, self.column = divmod(place, ids.shape[1])
        self.id = int(ids[self.example, self.column])
        super().__init__(f"id {self.id} (example {self.example}) is outside table {self.column}")


def gather(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, features: int, dim: int) -> Tensor:
    """The vectors `[batch, features, dim]` of ids `[batch, tables]` (int64 or int32, any strides).

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    vectors = memory.new_empty(ids.shape[0], features, dim)
    words = _words(memory, lookup, ids, program, vectors)
    compiled_kernel("gather", memory.dtype)(words, -(-ids.shape[0] // a.TILE))
    _refuse_wild(words, ids)
    return vectors


def scatter(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor) -> Tensor:
    """The dense gradient of memory, given that of the vectors."""
    gradient = torch.empty_like(memory)
    words = _words(memory, lookup, ids, program, vectors := vectors.contiguous())
    ranges = max(1, min(torch.get_num_threads(), p.QUANTILES))
    longest, widest = program[p.LONGEST : p.UNIT].tolist()
    space = torch.empty(ranges * a.space_words(longest, widest), dtype=torch.int64)
    words[a.GRADIENT], words[a.RANGES], words[a.SPACE] = gradient.data_ptr(), ranges, space.data_ptr()
    compiled_kernel("scatter", memory.dtype)(words, ranges)
    _refuse_wild(words, ids)
    return gradient


def scatter_rows(
    vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of the rows of memory that were read: their numbers `[1, n]`, ascending, and values `[n, unit]`.

    Raises:
        ValueError: for a memory of 2^31 rows or a batch of 2^32 reads, which one word per read cannot hold.
    """
    _, segments, reads, computed, longest, widest, unit = program[: p.UNIT + 1].tolist()
    batch = ids.shape[0]
    if max(memory.shape[0], batch * reads // 2) >= 1 << 31:
        raise ValueError(
            f"gradients of rows need less than 2^31 rows; got {memory.shape[0]}, and {batch * reads} reads"
        )
    words = _words(memory, lookup, ids, program, vectors := vectors.contiguous())
    threads = max(1, torch.get_num_threads())
    work = torch.empty(2 * batch * reads + threads * a.space_words(longest, widest), dtype=torch.int64)
    counts = torch.empty(segments, dtype=torch.int64)
    gradients = memory.new_empty(batch * computed * unit)
    words[a.READS] = work.data_ptr()
    words[a.SORTED] = words[a.READS] + 8 * batch * reads
    words[a.SPACE] = words[a.SORTED] + 8 * batch * reads
    words[a.COUNTS], words[a.COMPUTED] = counts.data_ptr(), gradients.data_ptr()
    compiled_kernel("reads", memory.dtype)(words, -(-batch // a.TILE))
    _refuse_wild(words, ids)
    words[a.NEXT] = words[a.SLOT] = 0
    compiled_kernel("sorts", torch.int64)(words, segments)
    ends = counts.cumsum(0)
    first = ends - counts
    rows = torch.empty(1, int(ends[-1]), dtype=torch.int64)
    values = memory.new_empty(rows.shape[1], unit)
    words[a.NEXT], words[a.COUNTS] = 0, first.data_ptr()
    words[a.ROWS], words[a.VALUES] = rows.data_ptr(), values.data_ptr()
    compiled_kernel("sums", memory.dtype)(words, segments)
    return rows, values


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
        raise WildIdError(ids, wild)


@cache
def compiled_kernel(name: str, dtype: torch.dtype) -> Kernel:
    """The kernel of module `numba_<name>` for a float type, compiled or loaded at its first use."""
    module = importlib.import_module(f"tablefold.ops.numba_{name}")
    return Kernel(module.kernel(str(dtype).removeprefix("torch."), _version()))


@cache
def _version() -> int:
    """A number that changes with any source that machine code is made of: Numba itself looks at one file's date."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(source.read_bytes() for source in sources)) | 1
