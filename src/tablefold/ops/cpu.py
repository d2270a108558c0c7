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
from array import array as Words
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tablefold.ops.backends import are_contiguous
from tablefold.ops.program import LINE, QUANTILES, Program

TILE = 64
"""Examples worked on together: their ids, places and one slot of their vectors fit the first-level cache."""

DIGITS = 256
"""Values of a digit that reads are sorted by."""

STREAMED_FLOATS = 1 << 19
"""Vectors of so many floats (2 MB in float32), more than a core keeps to itself, are written past the caches."""

NO_WILD = (1 << 63) - 1

KERNELS = (
    *(("vectors", "gather"), ("vectors", "apart"), ("vectors", "bags")),
    *(("gradients", "scatter"), ("gradients", "collect"), ("gradients", "sort"), ("gradients", "sum")),
    *(("steps", "step"), ("vectors", "coded_gather"), ("vectors", "coded_apart"), ("vectors", "coded_bags")),
    *(("gradients", "coded_scatter"), ("gradients", "coded_collect")),
)
"""Modules and names of all kernels."""

_PROCESS = os.getpid()


class Arguments(ctypes.Structure):
    """What the kernels of the gather, the bags and their gradients are given; what is an address is so called.

    next: the next task; kernels take it atomically. slot: the next free scratch of `space`, likewise.
    wild: place in the ids `[batch, tables]` of the first one outside its table (of bags: among the ids of all tables).
    batch: examples, of the table with the most. arrays: address of a `Source` per array of memory.
    lookup_size: bytes of one entry of the addressed `lookups`; of the `edges` likewise.
    ids: address, bytes of one, ids from one example to the next, ids from one table to the next.
    vectors: address of the vectors (or of their gradient), `floats` per example.
    ranges: into how many ranges of places memory is cut.
    streams: whether a gather writes its vectors past the caches.
    space: address of scratch, `space_words` per range or thread (of a gather, a tile of examples per thread, and 0
    where it needs none).
    reads, sorted, counts, computed: addresses of the reads of each segment, of as much room to sort them, of how many
    rows each segment reads (for the sums: of its first row among all), of gradients computed before they are summed.
    rows, values, value_starts: addresses of the sorted row numbers, of their gradients, and of where those of each
    segment begin.
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
            *("next", "slot", "wild", "batch", "program", "arrays", "lookups", "lookup_size", "edges", "edge_size"),
            *("vectors", "floats", "ids", "id_size", "id_row", "id_column"),
            *("ranges", "streams", "space", "reads", "sorted", "counts", "computed", "rows", "values", "value_starts"),
            *("read_starts", "example_bits", "starts", "table_ids", "offsets", "bags", "num_bags", "weights"),
        )
    ]


class Source(ctypes.Structure):
    """An array of memory as the kernels find it.

    memory: address of what would be place 0 if the array went on before its beginning, so that a place is an index.
    packed: whether it is what `freeze()` made. gradient: likewise, of its dense gradient, 0 for none. by_row: whether
    its rows' gradients are collected.
    """

    _fields_ = [(name, ctypes.c_int64) for name in ("memory", "packed", "gradient", "by_row")]


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
    """8-byte words of scratch per thread: four tiles per piece of the longest chain, three of rows, one of rows that
    are projected, digits."""
    header = program.header
    words: int = TILE * (4 * header.longest + 3 * header.widest + header.innermost) + DIGITS
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


def gather(
    memory: Sequence[Tensor], lookup: Tensor | None, ids: Tensor, program: Program, edges: Tensor | None = None
) -> Tensor:
    """The vectors `[batch, features, dim]` of ids `[batch, tables]` (int64 or int32, any strides).

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    kind = vector_type(memory)
    vectors = _empty(memory[0], kind, ids.shape[0], program)
    arguments = _arguments(sources_of(memory, program), lookup, edges, ids, program, vectors)
    if vectors.numel() >= STREAMED_FLOATS and program.dim % LINE == 0 and vectors.data_ptr() % (4 * LINE) == 0:
        arguments.streams = 1
    is_apart = program.is_ranged or (arguments.streams and not program.is_in_lines)
    if arguments.streams or is_apart:
        tiles = _tiles(program)
        arguments.space = tiles.data_ptr()
    kernel("vectors", program.reading("apart" if is_apart else "gather"))(arguments, kind, -(-ids.shape[0] // TILE))
    _refuse_wild(arguments, ids)
    return vectors


def pool(
    memory: Sequence[Tensor], lookup: Tensor | None, bags: Bags, program: Program, edges: Tensor | None = None
) -> Tensor:
    """The weighted sums `[bags, features, dim]` of the vectors of each bag.

    Raises:
        WildIdError: for an id outside its table; nothing was read there.
    """
    kind = vector_type(memory)
    sums = _empty(memory[0], kind, bags.offsets.shape[1], program)
    arguments = _arguments(sources_of(memory, program), lookup, edges, bags, program, sums)
    tiles = _tiles(program)
    arguments.space = tiles.data_ptr()
    kernel("vectors", program.reading("bags"))(arguments, kind, -(-sums.shape[0] // TILE))
    _refuse_wild(arguments, bags)
    return sums


def vector_type(memory: Sequence[Tensor]) -> torch.dtype:
    """The type that vectors are computed in: packed arrays hold float32."""
    return torch.float64 if memory[0].dtype == torch.float64 else torch.float32


def _empty(memory: Tensor, kind: torch.dtype, batch: int, program: Program) -> Tensor:
    """Room for vectors; to name a type takes half as long again."""
    shape = (batch, program.features, program.dim)
    return memory.new_empty(shape) if memory.dtype == kind else memory.new_empty(shape, dtype=kind)


def _tiles(program: Program) -> Tensor:
    """Scratch for a tile of one table's vectors per thread."""
    words = max(1, torch.get_num_threads()) * TILE * program.header.most_slots
    return torch.empty(words, dtype=torch.int64, device="cpu")


def gradients(
    vectors: Tensor,
    memory: Sequence[Tensor],
    lookup: Tensor | None,
    ids: Tensor | Bags,
    program: Program,
    sparse: Sequence[bool],
    edges: Tensor | None = None,
) -> list[Tensor]:
    """The gradients of memory, given that of the vectors (of the sums of bags).

    Returns:
        For each array one tensor of its shape or, if `sparse` says so, two: the numbers of the rows that were read,
        `[1, n]` ascending, and their gradients `[n, width]`.

    Raises:
        ValueError: for sparse gradients of 2^31 rows or a batch of 2^32 reads, which one word per read cannot hold.
    """
    vectors, by_row = vectors.contiguous(), list(sparse) or [False] * len(memory)
    check_gradient(vectors, memory, program)
    dense = [None if rows else torch.empty_like(array) for array, rows in zip(memory, by_row, strict=True)]
    arguments = _arguments(sources_of(memory, program, dense, by_row), lookup, edges, ids, program, vectors)
    _add_bags(arguments, ids)
    if not all(by_row):
        _scatter(arguments, vectors.dtype, program)
        _refuse_wild(arguments, ids)
    found = _scatter_rows(arguments, vectors.dtype, ids, program) if any(by_row) else {}
    result: list[Tensor] = []
    for number, gradient in enumerate(dense):
        result += found[number] if gradient is None else [gradient]
    return result


def check_gradient(vectors: Tensor, memory: Sequence[Tensor], program: Program) -> None:
    """Refuse gradients of another type than memory's, and of memory that is packed.

    Raises:
        ValueError: names the types.
    """
    if vectors.dtype != vector_type(memory):
        raise ValueError(f"the vectors' gradient must be {vector_type(memory)}; got {vectors.dtype}")
    for array, own in zip(memory, program.arrays, strict=True):
        if array.dtype != vectors.dtype:
            raise ValueError(
                f"memory in {own.format.name} learns in float32 alone, and this one is {array.dtype}: keep its group "
                "in float32, and call freeze() when it is trained"
            )


def _scatter(arguments: Arguments, kind: torch.dtype, program: Program) -> None:
    """The dense gradients."""
    ranges = max(1, min(torch.get_num_threads(), QUANTILES))
    space = torch.empty(ranges * space_words(program), dtype=torch.int64, device="cpu")
    arguments.ranges, arguments.space = ranges, space.data_ptr()
    kernel("gradients", program.reading("scatter"))(arguments, kind, ranges)


def _scatter_rows(
    arguments: Arguments, kind: torch.dtype, ids: Tensor | Bags, program: Program
) -> dict[int, list[Tensor]]:
    """The rows that were read of each array whose gradient is sparse, and their gradients."""
    header, batch = program.header, arguments.batch
    starts = _read_starts(ids, program)
    arguments.example_bits, arguments.read_starts = max(batch - 1, 0).bit_length(), starts.data_ptr()
    most_rows = max(array.rows for array in program.arrays)
    if most_rows >= 1 << 31 or header.most_reads << arguments.example_bits > 1 << 32:
        raise ValueError(
            f"gradients of rows need less than 2^31 rows and 2^32 reads; got {most_rows} rows, and "
            f"{header.most_reads} reads of up to {batch} ids each"
        )
    threads, entries = max(1, torch.get_num_threads()), int(starts[-1])
    work = torch.empty(2 * entries + threads * space_words(program), dtype=torch.int64, device="cpu")
    counts = torch.empty(header.segments, dtype=torch.int64, device="cpu")
    computed = torch.empty(batch * header.computed, dtype=kind, device="cpu")
    arguments.reads = work.data_ptr()
    arguments.sorted = arguments.reads + 8 * entries
    arguments.space = arguments.sorted + 8 * entries
    arguments.counts, arguments.computed = counts.data_ptr(), computed.data_ptr()
    arguments.next = arguments.slot = 0
    kernel("gradients", program.reading("collect"))(arguments, kind, -(-batch // TILE))
    _refuse_wild(arguments, ids)
    arguments.next = arguments.slot = 0
    kernel("gradients", "sort")(arguments, "int64", header.segments)
    sizes = counts * program.width_of_segment
    first, value_starts = counts.cumsum(0) - counts, sizes.cumsum(0) - sizes
    rows = torch.empty(1, int(counts.sum()), dtype=torch.int64, device="cpu")
    values = torch.empty(int(sizes.sum()), dtype=kind, device="cpu")
    arguments.next, arguments.counts, arguments.value_starts = 0, first.data_ptr(), value_starts.data_ptr()
    arguments.rows, arguments.values = rows.data_ptr(), values.data_ptr()
    kernel("gradients", "sum")(arguments, kind, header.segments)
    return _by_array(program, counts, rows, values)


def _by_array(program: Program, counts: Tensor, rows: Tensor, values: Tensor) -> dict[int, list[Tensor]]:
    """Rows and their gradients, which lie segment by segment, cut where another array begins."""
    totals = [0] * len(program.arrays)
    for number, count in zip(program.array_of_segment, counts.tolist(), strict=True):
        totals[number] += count
    found, first, begin = {}, 0, 0
    for number, (array, count) in enumerate(zip(program.arrays, totals, strict=True)):
        end = begin + count * array.width
        found[number] = [rows[:, first : first + count], values[begin:end].view(count, array.width)]
        first, begin = first + count, end
    return found


def _read_starts(ids: Tensor | Bags, program: Program) -> Tensor:
    """Where each read of the program begins among the reads of the batch, one more at the end."""
    if isinstance(ids, Tensor):
        return torch.arange(program.header.reads + 1, device="cpu") * ids.shape[0]
    counts = ids.starts.diff()[program.table_of_read]
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def sources_of(
    memory: Sequence[Tensor],
    program: Program,
    gradients: Sequence[Tensor | None] = (),
    by_row: Sequence[bool] = (),
) -> ctypes.Array[ctypes.c_int64]:
    """A `Source` for each array. Kernels check nothing, so all that they rely on is checked here."""
    if len(memory) != len(program.arrays):
        raise ValueError(f"memory must be {len(program.arrays)} arrays; got {len(memory)}")
    kind, types = vector_type(memory), tuple([array.dtype for array in memory])
    shapes, befores, are_packed = program.layout(kind, types)
    if [array.shape for array in memory] != shapes or not are_contiguous(memory):
        _refuse_layout(memory, program, kind)
    addresses = [array.data_ptr() for array in memory]
    known = program.sources
    if not gradients and known is not None and known[:2] == (addresses, types):
        return known[2]
    given = zip(addresses, befores, are_packed, strict=True)
    words = [word for address, before, packed in given for word in (address - before, packed, 0, 0)]
    for number, gradient in enumerate(gradients):
        if gradient is not None:
            words[4 * number + 2] = gradient.data_ptr() - program.layouts[kind][number][kind].before
    if by_row:
        words[3::4] = by_row
    sources = _as_words(len(words)).from_buffer(Words("q", words))
    if not gradients:
        program.sources = addresses, types, sources
    return sources


def _refuse_layout(memory: Sequence[Tensor], program: Program, kind: torch.dtype) -> None:
    """`ValueError` for the first array that is not as the program reads it."""
    for number, (array, layouts) in enumerate(zip(memory, program.layouts[kind], strict=True)):
        shape = layouts.get(array.dtype, layouts[kind]).shape
        if array.dtype not in layouts or array.shape != shape or not array.is_contiguous():
            raise ValueError(
                f"array {program.arrays[number].name} of memory must be {list(shape)}, contiguous, {kind}; "
                f"got {array.dtype} {list(array.shape)}"
            )


@cache
def _as_words(count: int) -> type[ctypes.Array[ctypes.c_int64]]:
    return ctypes.c_int64 * count


def _arguments(
    sources: ctypes.Array[ctypes.c_int64],
    lookup: Tensor | None,
    edges: Tensor | None,
    ids: Tensor | Bags,
    program: Program,
    vectors: Tensor,
) -> Arguments:
    """What every kernel is given."""
    if program.is_indexed or lookup is not None or edges is not None:
        check_indices(lookup, edges, program)
    if vectors.shape[1:] != (program.features, program.dim):
        raise ValueError(f"vectors must be [batch, {program.features}, {program.dim}]; got {list(vectors.shape)}")
    batch = vectors.shape[0]
    arguments = Arguments(0, 0, NO_WILD, batch, program.address, ctypes.addressof(sources))
    arguments.kept = sources  # as long as its address is in use
    if lookup is not None:
        arguments.lookups, arguments.lookup_size = lookup.data_ptr(), lookup.element_size()
    if edges is not None:
        arguments.edges, arguments.edge_size = edges.data_ptr(), edges.element_size()
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


def check_indices(lookup: Tensor | None, edges: Tensor | None, program: Program) -> None:
    """Refuse lookup arrays and edges of other sizes than the program's.

    Raises:
        ValueError: names the sizes.
    """
    entries = 0 if lookup is None else lookup.numel()
    if entries != program.lookup_size:
        raise ValueError(f"lookup arrays must have {program.lookup_size} entries; got {entries}")
    entries = 0 if edges is None else edges.numel()
    if entries != program.edge_size:
        raise ValueError(f"edges must have {program.edge_size} entries; got {entries}")


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
