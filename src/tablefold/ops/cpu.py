"""The gather and its gradient on a CPU: arguments packed for the compiled kernels.

Kernels are compiled by Numba at first use (some seconds, once: the machine code is kept on disk) and serve every
method: what a group reads is data, its program.
"""

from __future__ import annotations

import ctypes
import importlib
import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from tablefold.ops import arguments as a
from tablefold.ops import program as p
from tablefold.ops.threads import Kernel

STREAMED_FLOATS = 1 << 19
"""Vectors of so many floats (2 MB in float32), more than a core keeps to itself, are written past the caches."""

_Words = ctypes.c_int64 * a.WORDS


class WildIdError(ValueError):
    """The `id` of an `example` is outside its table, that of a `column`."""

    def __init__(self, wild: int, example: int, column: int) -> None:
        super().__init__(f"id {wild} (example {example}) is outside table {column}")
        self.id, self.example, self.column = wild, example, column

    @classmethod
    def at(cls, ids: Tensor, place: int) -> WildIdError:
        """For ids `[batch, tables]`, counted row by row."""
        example, column = divmod(place, ids.shape[1])
        return cls(int(ids[example, column]), example, column)


@dataclass(frozen=True)
class Bags:
    """The ids of every table, bag by bag.

    Args:
        ids: for each table its ids, all int64 or all int32, contiguous.
        offsets: each table's first example of each bag, int64 `[tables, bags]`, contiguous.
        weights: factors of all ids, one table after the other, of the memory's type.
    """

    ids: tuple[Tensor, ...]
    offsets: Tensor
    weights: Tensor | None

    @cached_property
    def starts(self) -> Tensor:
        """Where each table's examples begin among those of all, one more at the end."""
        return torch.tensor([0, *(ids.shape[0] for ids in self.ids)]).cumsum(0)

    @cached_property
    def addresses(self) -> Tensor:
        """Where each table's ids lie."""
        return torch.tensor([ids.data_ptr() for ids in self.ids])

    @cached_property
    def sizes(self) -> Tensor:
        """Ids of each bag, `[tables, bags]`."""
        ends = torch.cat([self.offsets[:, 1:], self.starts.diff()[:, None]], dim=1)
        return ends - self.offsets

    @cached_property
    def bag_of(self) -> Tensor:
        """The bag of each example."""
        tables, bags = self.offsets.shape
        return torch.arange(bags).repeat(tables).repeat_interleave(self.sizes.flatten())


def gather(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Tensor, features: int, dim: int) -> Tensor:
    """The vectors `[batch, features, dim]` of ids `[batch, tables]` (int64 or int32, any strides).

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    vectors = memory.new_empty(ids.shape[0], features, dim)
    words = _words(memory, lookup, ids, program, vectors)
    if vectors.numel() >= STREAMED_FLOATS and dim % p.LINE == 0 and vectors.data_ptr() % (4 * p.LINE) == 0:
        space = memory.new_empty(2 * max(1, torch.get_num_threads()) * a.TILE * features * dim)
        words[a.SPACE] = space.data_ptr()
    compiled_kernel("gather", memory.dtype)(words, -(-ids.shape[0] // a.TILE))
    _refuse_wild(words, ids)
    return vectors


def pool(memory: Tensor, lookup: Tensor | None, bags: Bags, program: Tensor, features: int, dim: int) -> Tensor:
    """The weighted sums `[bags, features, dim]` of the vectors of each bag.

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    sums = memory.new_empty(bags.offsets.shape[1], features, dim)
    words = _words(memory, lookup, bags, program, sums)
    space = memory.new_empty(2 * max(1, torch.get_num_threads()) * a.TILE * features * dim)
    words[a.SPACE] = space.data_ptr()
    compiled_kernel("bags", memory.dtype)(words, -(-sums.shape[0] // a.TILE))
    _refuse_wild(words, bags)
    return sums


def scatter(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor | Bags, program: Tensor) -> Tensor:
    """The dense gradient of memory, given that of the vectors (of the sums of bags)."""
    gradient = torch.empty_like(memory)
    words = _words(memory, lookup, ids, program, vectors := vectors.contiguous())
    _add_bags(words, ids)
    ranges = max(1, min(torch.get_num_threads(), p.QUANTILES))
    longest, widest = program[p.LONGEST : p.UNIT].tolist()
    space = torch.empty(ranges * a.space_words(longest, widest), dtype=torch.int64)
    words[a.GRADIENT], words[a.RANGES], words[a.SPACE] = gradient.data_ptr(), ranges, space.data_ptr()
    compiled_kernel("scatter", memory.dtype)(words, ranges)
    _refuse_wild(words, ids)
    return gradient


def scatter_rows(
    vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor | Bags, program: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of the rows of memory that were read: their numbers `[1, n]`, ascending, and values `[n, unit]`.

    Raises:
        ValueError: for a memory of 2^31 rows or a batch of 2^32 reads, which one word per read cannot hold.
    """
    _, segments, reads, computed, most_reads, longest, widest, unit = program[: p.UNIT + 1].tolist()
    words = _words(memory, lookup, ids, program, vectors := vectors.contiguous())
    _add_bags(words, ids)
    batch = words[a.BATCH]
    starts = _read_starts(ids, program, reads)
    words[a.EXAMPLE_BITS], words[a.READ_STARTS] = max(batch - 1, 0).bit_length(), starts.data_ptr()
    if memory.shape[0] >= 1 << 31 or most_reads << words[a.EXAMPLE_BITS] > 1 << 32:
        raise ValueError(
            f"gradients of rows need less than 2^31 rows and 2^32 reads; got {memory.shape[0]} rows, and {most_reads} "
            f"reads of up to {batch} ids each"
        )
    threads, entries = max(1, torch.get_num_threads()), int(starts[-1])
    work = torch.empty(2 * entries + threads * a.space_words(longest, widest), dtype=torch.int64)
    counts = torch.empty(segments, dtype=torch.int64)
    gradients = memory.new_empty(batch * computed * unit)
    words[a.READS] = work.data_ptr()
    words[a.SORTED] = words[a.READS] + 8 * entries
    words[a.SPACE] = words[a.SORTED] + 8 * entries
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


def _read_starts(ids: Tensor | Bags, program: Tensor, reads: int) -> Tensor:
    """Where each read of the program begins among the reads of the batch, one more at the end."""
    if isinstance(ids, Tensor):
        return torch.arange(reads + 1) * ids.shape[0]
    table = program[int(program[p.READS_AT]) :].view(-1, p.READ_WORDS)[:, 2]
    counts = ids.starts.diff()[table]
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _words(
    memory: Tensor, lookup: Tensor | None, ids: Tensor | Bags, program: Tensor, vectors: Tensor
) -> ctypes.Array[ctypes.c_int64]:
    array, size = (0, 0) if lookup is None else (lookup.data_ptr(), lookup.element_size())
    batch = vectors.shape[0]
    floats = vectors.numel() // max(batch, 1)
    fixed = (0, a.NO_WILD, batch, program.data_ptr(), memory.data_ptr(), array, size)
    if isinstance(ids, Tensor):
        return _Words(*fixed, ids.data_ptr(), ids.element_size(), *ids.stride(), vectors.data_ptr(), floats)
    words = _Words(*fixed, 0, ids.ids[0].element_size(), 1, 0, vectors.data_ptr(), floats)
    words[a.BATCH] = max(table_ids.shape[0] for table_ids in ids.ids)
    words[a.STARTS], words[a.TABLE_IDS] = ids.starts.data_ptr(), ids.addresses.data_ptr()
    words[a.OFFSETS], words[a.NUM_BAGS] = ids.offsets.data_ptr(), batch
    words[a.WEIGHTS] = 0 if ids.weights is None else ids.weights.data_ptr()
    return words


def _add_bags(words: ctypes.Array[ctypes.c_int64], ids: Tensor | Bags) -> None:
    """Say which bag each example is in, as gradients need to know."""
    if isinstance(ids, Bags):
        words[a.BAGS] = ids.bag_of.data_ptr()


def _refuse_wild(words: ctypes.Array[ctypes.c_int64], ids: Tensor | Bags) -> None:
    place = words[a.WILD]
    if place == a.NO_WILD:
        return
    if isinstance(ids, Tensor):
        raise WildIdError.at(ids, place)
    column = int((ids.starts <= place).sum()) - 1
    example = place - int(ids.starts[column])
    raise WildIdError(int(ids.ids[column][example]), example, column)


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
