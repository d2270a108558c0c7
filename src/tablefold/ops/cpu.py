"""The gather and its gradient on a CPU: arguments packed for the compiled kernels, which run on torch's own threads.

Kernels are compiled by Numba at first use (once: the machine code is kept on disk, see `tablefold.compilation`) and
serve every method: what a group reads is data, its program.

Torch keeps a pool of OpenMP threads. A second pool beside it (Numba's) would fight over the cores, and each of Numba's
has a trap of its own: `omp` aborts in forked children, `workqueue` aborts when two threads call at once. So a kernel
here is plain machine code with one argument, the address of its arguments, and every thread of torch's pool runs it;
the kernel takes tasks from a counter in the arguments until none is left. One thread alone does all of them: that is
the serial variant, used for tiny batches, in forked children (as in the workers of a data loader), wherever
`torch.get_num_threads()` is 1, and where torch was built without GNU's OpenMP entry point.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tablefold.ops.program import LINE, QUANTILES, Program

TILE = 64
"""Examples worked on together: their ids, places and one slot of their vectors fit the first-level cache."""

DIGITS = 256
"""Values of a digit that reads are sorted by."""

STREAMED_FLOATS = 1 << 19
"""Vectors of so many floats (2 MB in float32), more than a core keeps to itself, are written past the caches."""

NO_WILD = (1 << 63) - 1

KERNELS = (
    *(("vectors", "gather"), ("vectors", "bags"), ("gradients", "scatter"), ("gradients", "collect")),
    *(("gradients", "sort"), ("gradients", "sum"), ("steps", "step"), ("grids", "round")),
)
"""Modules and names of all kernels."""

_PROCESS = os.getpid()


class Arguments(ctypes.Structure):
    """What the kernels of the gather, the bags and their gradients are given; what is an address is so called.

    next: the next task; kernels take it atomically. slot: the next free scratch of `space`, likewise.
    wild: place in the ids `[batch, tables]` of the first one outside its table (of bags: among the ids of all tables).
    batch: examples, of the table with the most. lookup_size: bytes of one entry of the addressed `lookups`.
    ids: address, bytes of one, ids from one example to the next, ids from one table to the next.
    vectors: address of the vectors (or of their gradient), `floats` per example.
    gradient, ranges: address of memory's gradient; into how many ranges memory is cut.
    space: address of scratch, `space_words` per range or thread (of a gather, a tile of examples per thread, and 0
    where it writes its vectors plainly).
    reads, sorted, counts, computed: addresses of the reads of each segment, of as much room to sort them, of how many
    rows each segment reads (for the sums: of its first row among all), of gradients computed before they are summed.
    rows, values: addresses of the sorted row numbers and of their gradients.
    read_starts: address of where the examples of each read begin among all reads. example_bits: of its number.
    starts, table_ids, offsets: of bags, whose tables have examples of their own number each, else 0. Addresses: of
    where each table's examples begin among those of all, one more at the end; of the address of each table's ids; of
    each table's first example of each bag.
    bags, num_bags, weights: address of each example's bag; how many bags; address of each example's weight, 0 where
    all are 1.
    """

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("next", "slot", "wild", "batch", "program", "memory", "lookups", "lookup_size"),
            *("vectors", "floats", "ids", "id_size", "id_row", "id_column"),
            *("gradient", "ranges", "space", "reads", "sorted", "counts", "computed", "rows", "values"),
            *("read_starts", "example_bits", "starts", "table_ids", "offsets", "bags", "num_bags", "weights"),
        )
    ]


class Kernel:
    """Machine code `void kernel(Arguments *)`, compiled or loaded for a type of memory when that is first met.

    Args:
        name: of the kernel, for errors.
        dtypes: types of memory that there is machine code for.
        compile_for: gives the address of the code for one of them.
    """

    def __init__(self, name: str, dtypes: Sequence[str], compile_for: Callable[[str], int]) -> None:
        self._name, self.dtypes = name, dtypes
        self._compile_for = compile_for
        self._code: dict[str, int] = {}

    def address(self, dtype: str) -> int:
        """Where the machine code for memory of a type is.

        Raises:
            ValueError: for a type that the kernel was not made for.
        """
        if dtype not in self.dtypes:
            raise ValueError(f"{self._name} computes {' and '.join(self.dtypes)}; this memory is {dtype}")
        if dtype not in self._code:
            with _compiling:
                self._code[dtype] = self._compile_for(dtype)
        return self._code[dtype]

    def __call__(self, arguments: ctypes.Structure, dtype: torch.dtype | str, tasks: int) -> None:
        """Run with `arguments`, on as many threads as there are tasks for. The GIL is released meanwhile."""
        address = self.address(_NAMES[dtype] if isinstance(dtype, torch.dtype) else dtype)
        threads = min(tasks, torch.get_num_threads())
        parallel = _parallel_entry() if threads > 1 and os.getpid() == _PROCESS else None
        if parallel is None:
            _serial(address)(ctypes.byref(arguments))
        else:
            parallel(address, ctypes.byref(arguments), threads, 0)


_NAMES = {kind: str(kind).removeprefix("torch.") for kind in vars(torch).values() if isinstance(kind, torch.dtype)}


@cache
def _serial(address: int) -> Callable[..., None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@cache
def _parallel_entry() -> Callable[..., None] | None:
    """`GOMP_parallel` of the OpenMP library that torch has loaded; None where there is none."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/lib*omp*")):
        try:
            entry = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        entry.restype = None
        return entry
    return None


@cache
def kernel(module: str, name: str) -> Kernel:
    """A kernel of `tablefold.ops.kernels`, whose modules import Numba: at first use."""
    with _compiling:
        found: Kernel = getattr(importlib.import_module(f"tablefold.ops.kernels.{module}"), f"{name}_kernel")
    return found


_compiling = threading.RLock()


class _Fork:
    """No fork while another thread imports or compiles a kernel: the child, which lacks that thread, would wait for it
    for ever."""

    def __init__(self) -> None:
        self._held: list[Any] = []

    def wait(self) -> None:
        """Before: hold what such a thread holds, in the same order. Numba's own lock is there once it is imported."""
        _compiling.acquire()
        self._held = [_compiling]
        numba_lock = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
        if numba_lock is not None:
            numba_lock.acquire()
            self._held.append(numba_lock)

    def go_on(self) -> None:
        """After, in the parent and in the child."""
        while self._held:
            self._held.pop().release()


if hasattr(os, "register_at_fork"):
    _fork = _Fork()
    os.register_at_fork(before=_fork.wait, after_in_parent=_fork.go_on, after_in_child=_fork.go_on)


def space_words(program: Program) -> int:
    """8-byte words of scratch per thread: four tiles per piece of the longest chain, three tiles of rows, digits."""
    words: int = TILE * (4 * program.header.longest + 3 * program.header.widest) + DIGITS
    return words


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
        return torch.tensor([0, *(ids.shape[0] for ids in self.ids)], device="cpu").cumsum(0)

    @cached_property
    def addresses(self) -> Tensor:
        """Where each table's ids lie."""
        return torch.tensor([ids.data_ptr() for ids in self.ids], device="cpu")

    @cached_property
    def sizes(self) -> Tensor:
        """Ids of each bag, `[tables, bags]`."""
        ends = torch.cat([self.offsets[:, 1:], self.starts.diff()[:, None]], dim=1)
        return ends - self.offsets

    @cached_property
    def bag_of(self) -> Tensor:
        """The bag of each example."""
        tables, bags = self.offsets.shape
        return torch.arange(bags, device="cpu").repeat(tables).repeat_interleave(self.sizes.flatten())


def gather(memory: Tensor, lookup: Tensor | None, ids: Tensor, program: Program) -> Tensor:
    """The vectors `[batch, features, dim]` of ids `[batch, tables]` (int64 or int32, any strides).

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    vectors = memory.new_empty(ids.shape[0], program.features, program.dim)
    arguments = _arguments(memory, lookup, ids, program, vectors)
    if vectors.numel() >= STREAMED_FLOATS and program.dim % LINE == 0 and vectors.data_ptr() % (4 * LINE) == 0:
        tiles = _tiles(memory, program)
        arguments.space = tiles.data_ptr()
    kernel("vectors", "gather")(arguments, memory.dtype, -(-ids.shape[0] // TILE))
    _refuse_wild(arguments, ids)
    return vectors


def pool(memory: Tensor, lookup: Tensor | None, bags: Bags, program: Program) -> Tensor:
    """The weighted sums `[bags, features, dim]` of the vectors of each bag.

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    sums = memory.new_empty(bags.offsets.shape[1], program.features, program.dim)
    arguments = _arguments(memory, lookup, bags, program, sums)
    tiles = _tiles(memory, program)
    arguments.space = tiles.data_ptr()
    kernel("vectors", "bags")(arguments, memory.dtype, -(-sums.shape[0] // TILE))
    _refuse_wild(arguments, bags)
    return sums


def _tiles(memory: Tensor, program: Program) -> Tensor:
    """Scratch for a tile of vectors per thread."""
    return memory.new_empty(2 * max(1, torch.get_num_threads()) * TILE * program.features * program.dim)


def scatter(vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor | Bags, program: Program) -> Tensor:
    """The dense gradient of memory, given that of the vectors (of the sums of bags)."""
    gradient = torch.empty_like(memory)
    arguments = _arguments(memory, lookup, ids, program, vectors := vectors.contiguous())
    _add_bags(arguments, ids)
    ranges = max(1, min(torch.get_num_threads(), QUANTILES))
    space = torch.empty(ranges * space_words(program), dtype=torch.int64, device="cpu")
    arguments.gradient, arguments.ranges, arguments.space = gradient.data_ptr(), ranges, space.data_ptr()
    kernel("gradients", "scatter")(arguments, memory.dtype, ranges)
    _refuse_wild(arguments, ids)
    return gradient


def scatter_rows(
    vectors: Tensor, memory: Tensor, lookup: Tensor | None, ids: Tensor | Bags, program: Program
) -> tuple[Tensor, Tensor]:
    """The gradient of the rows of memory that were read: their numbers `[1, n]`, ascending, and values `[n, unit]`.

    Raises:
        ValueError: for a memory of 2^31 rows or a batch of 2^32 reads, which one word per read cannot hold.
    """
    header = program.header
    arguments = _arguments(memory, lookup, ids, program, vectors := vectors.contiguous())
    _add_bags(arguments, ids)
    batch = arguments.batch
    starts = _read_starts(ids, program)
    arguments.example_bits, arguments.read_starts = max(batch - 1, 0).bit_length(), starts.data_ptr()
    if memory.shape[0] >= 1 << 31 or header.most_reads << arguments.example_bits > 1 << 32:
        raise ValueError(
            f"gradients of rows need less than 2^31 rows and 2^32 reads; got {memory.shape[0]} rows, and "
            f"{header.most_reads} reads of up to {batch} ids each"
        )
    threads, entries = max(1, torch.get_num_threads()), int(starts[-1])
    work = torch.empty(2 * entries + threads * space_words(program), dtype=torch.int64, device="cpu")
    counts = torch.empty(header.segments, dtype=torch.int64, device="cpu")
    gradients = memory.new_empty(batch * header.computed * header.unit)
    arguments.reads = work.data_ptr()
    arguments.sorted = arguments.reads + 8 * entries
    arguments.space = arguments.sorted + 8 * entries
    arguments.counts, arguments.computed = counts.data_ptr(), gradients.data_ptr()
    kernel("gradients", "collect")(arguments, memory.dtype, -(-batch // TILE))
    _refuse_wild(arguments, ids)
    arguments.next = arguments.slot = 0
    kernel("gradients", "sort")(arguments, "int64", header.segments)
    ends = counts.cumsum(0)
    first = ends - counts
    rows = torch.empty(1, int(ends[-1]), dtype=torch.int64, device="cpu")
    values = memory.new_empty(rows.shape[1], header.unit)
    arguments.next, arguments.counts = 0, first.data_ptr()
    arguments.rows, arguments.values = rows.data_ptr(), values.data_ptr()
    kernel("gradients", "sum")(arguments, memory.dtype, header.segments)
    return rows, values


def _read_starts(ids: Tensor | Bags, program: Program) -> Tensor:
    """Where each read of the program begins among the reads of the batch, one more at the end."""
    if isinstance(ids, Tensor):
        return torch.arange(program.header.reads + 1, device="cpu") * ids.shape[0]
    counts = ids.starts.diff()[program.table_of_read]
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _arguments(
    memory: Tensor, lookup: Tensor | None, ids: Tensor | Bags, program: Program, vectors: Tensor
) -> Arguments:
    """What every kernel is given. Kernels check nothing, so all that they rely on is checked here."""
    entries = 0 if lookup is None else lookup.numel()
    if memory.shape != program.shape or not memory.is_contiguous() or entries != program.lookup_size:
        raise ValueError(
            f"memory must be {list(program.shape)}, contiguous, with {program.lookup_size} entries of lookup arrays; "
            f"got {list(memory.shape)} with {entries}"
        )
    if vectors.dtype != memory.dtype or vectors.shape[1:] != (program.features, program.dim):
        raise ValueError(
            f"vectors must be {memory.dtype} [batch, {program.features}, {program.dim}]; got {vectors.dtype} "
            f"{list(vectors.shape)}"
        )
    batch = vectors.shape[0]
    arguments = Arguments(0, 0, NO_WILD, batch, program.address, memory.data_ptr())
    if lookup is not None:
        arguments.lookups, arguments.lookup_size = lookup.data_ptr(), lookup.element_size()
    arguments.vectors, arguments.floats = vectors.data_ptr(), program.features * program.dim
    if isinstance(ids, Tensor):
        arguments.ids, arguments.id_size = ids.data_ptr(), ids.element_size()
        arguments.id_row, arguments.id_column = ids.stride()
        return arguments
    arguments.id_size, arguments.id_row = ids.ids[0].element_size(), 1
    arguments.batch = max(table_ids.shape[0] for table_ids in ids.ids)
    arguments.starts, arguments.table_ids = ids.starts.data_ptr(), ids.addresses.data_ptr()
    arguments.offsets, arguments.num_bags = ids.offsets.data_ptr(), batch
    arguments.weights = 0 if ids.weights is None else ids.weights.data_ptr()
    return arguments


def _add_bags(arguments: Arguments, ids: Tensor | Bags) -> None:
    """Say which bag each example is in, as gradients need to know."""
    if isinstance(ids, Bags):
        arguments.bags = ids.bag_of.data_ptr()


def _refuse_wild(arguments: Arguments, ids: Tensor | Bags) -> None:
    place = arguments.wild
    if place == NO_WILD:
        return
    if isinstance(ids, Tensor):
        raise WildIdError.at(ids, place)
    column = int((ids.starts <= place).sum()) - 1
    example = place - int(ids.starts[column])
    raise WildIdError(int(ids.ids[column][example]), example, column)
