"""Terms as a kernel reads them: the records of a program, which Numba's kernels and Triton's read alike.

A term is cut into *pieces* such that any two pieces write the same output slots or none in common. The pieces of one
slot interval form a *chain*: the first is assigned, each later one is added or multiplied onto it. A program is one
array of int64 words, the same for every device:

    Header     the counts of what follows, and where each section begins
    rows       per table: its rows, 0 for an open vocabulary
    lines      per table: whether its pieces write whole lines, each at once
    columns    per table: its first range, one more at the end
    ranges     a `Range` each, one more at the end: ids of a table that are read by the same terms
    chains     per chain: its first piece, one more at the end
    pieces     a `Piece` each
    arrays     an `Array` each
    quantiles  `QUANTILES` + 1 places between which equally many reads are expected
    segments   a `Segment` each: stretches of an array, in order, that no read crosses: sorted apart, they are sorted
    reads      a `Read` for each row of memory that an example reads, segment by segment

A *place* is the number of a float when all arrays lie end to end, each from a multiple of `ALIGNMENT` floats on.
"""

from __future__ import annotations

import ctypes
import itertools
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tablefold.formats import FP32
from tablefold.formats.codes import Codes
from tablefold.ops.lowering import LoweredGather, lowers
from tablefold.ops.reference import ReferenceGather, starts_of
from tablefold.partitions import Partition
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Chunk, Projection, Term, Weight, chains_of

ASSIGN, ADD, MULTIPLY = range(3)
"""How a piece joins its chain."""

_OPS = {None: ASSIGN, "add": ADD, "mul": MULTIPLY}

PLAIN = 32
"""Bits of a float of memory that is read as it is."""

QUANTILES = 64
"""Into so many ranges of equally many reads memory is cut: the most threads that a dense gradient keeps busy."""

LINE = 16
"""Floats of a cache line: two threads write no line in common."""

ALIGNMENT = 64
"""Arrays begin at places that are multiples of it: whole lines, whole blocks of every format."""

_EXACT_IN_FLOAT64 = 1 << 53


def _words(*names: str) -> list[tuple[str, type[ctypes.c_int64]]]:
    return [(name, ctypes.c_int64) for name in names]


class Header(ctypes.Structure):
    """What a program holds.

    tables, arrays, segments, reads: how many. computed: floats of one example's reads whose gradient must be computed
    before it is summed. most_reads: of one segment. longest: pieces of the longest chain. widest: floats of the widest
    piece. innermost: of the widest row that is projected. most_slots: of a table. matrix_parts: pieces of the
    projection that most pieces read. *_at: the word at which a section begins.
    """

    _fields_ = _words(
        *("tables", "arrays", "segments", "reads", "computed", "most_reads", "longest", "widest", "innermost"),
        *("most_slots", "matrix_parts"),
        *("rows_at", "lines_at", "columns_at", "ranges_at", "chains_at", "pieces_at", "arrays_at", "quantiles_at"),
        *("segments_at", "reads_at"),
    )


class Range(ctypes.Structure):
    """Ids of a table, `size` of them from `first` on (2^64 - first for an open end, so that negative ids are in it; 0
    for all ids of the table), and the first chain that they read."""

    _fields_ = _words("first", "size", "chain")


class Array(ctypes.Structure):
    """An array of memory.

    start: the place of its first float. end: that after its last. width: of a row. bits: of a code (32 for memory as it
    is). of_most: whether a scale follows the largest magnitude, or else the mean. record: bytes of a packed block.
    factor: what a scale is multiplied by.
    """

    _fields_ = [*_words("start", "end", "width", "bits", "of_most", "record"), ("factor", ctypes.c_double)]


class Part(ctypes.Structure):
    """A partition. div_exact, buckets_exact: divide as integers, where float64 would not do. buckets: 0 where no number
    reaches num_buckets. lookup: where its array begins among all, -1 without. highest: the largest bucket in the array.
    edges: how many there are, 0 without; first_edge: where they begin among all.
    """

    _fields_ = _words("div", "div_exact", "buckets", "buckets_exact", "hashed", "key", "lookup", "highest") + _words(
        *("edges", "first_edge")
    )


class Listing(ctypes.Structure):
    """Where a piece's reads are listed: the segment, the first read there, and how many computed floats come before
    them, -1 where the gradient of the slots is that of the rows."""

    _fields_ = _words("segment", "read", "first_computed")


class Piece(ctypes.Structure):
    """The part of a term that writes one slot interval.

    array: its number. step: the term's width. offset, inner: the first float of the term that the piece reads, and how
    many; width: how many it writes. low, high: the places that it may read, from the first, up to the second. The
    weight's likewise. range: of the ids that read it. first: where its term counts ids from. projected: the rows of its
    projection, 0 without one; `width` columns of it begin at the place `matrix`, `matrix_step` floats apart.
    matrix_base: where the projection begins. matrix_part: how many earlier pieces read it.
    """

    _fields_ = [
        *_words("array", "base", "stride", "neighbours", "step", "wrap", "offset", "width", "slot", "op", "signed"),
        *_words("low", "high", "weighted", "weight_array", "weight_base", "weight_stride", "weight_low", "weight_high"),
        *[("part", Part), ("weight_part", Part), ("row_reads", Listing), ("weight_reads", Listing)],
        *_words(
            "table", "range", "first", "inner", "projected", "matrix_array", "matrix_base", "matrix", "matrix_step"
        ),
        *_words("matrix_end", "matrix_part"),
    ]


class Segment(ctypes.Structure):
    """A stretch of an array: its first place, the number of its first row, how many, and its reads per example."""

    _fields_ = _words("array", "first", "first_row", "rows", "width", "first_read", "reads")


class Read(ctypes.Structure):
    """A row that an example reads: the slot whose gradient is the row's (-1 where it must be computed first), how many
    computed floats come before it, its table."""

    _fields_ = _words("slot", "computed", "table")


RECORDS: tuple[type[ctypes.Structure], ...] = (Header, Range, Array, Part, Listing, Piece, Segment, Read)


def word(path: str) -> int:
    """The word of a field within its record.

    >>> word("part.div"), word("piece.part"), word("piece.weight_part.div") - word("piece.weight_part")
    (0, 19, 0)
    """
    record, *names = path.split(".")
    kind: Any = {kind.__name__.lower(): kind for kind in RECORDS}[record]
    place = 0
    for name in names:
        place += getattr(kind, name).offset // 8
        kind = dict(field[:2] for field in kind._fields_)[name]
    return place


def words(record: type[ctypes.Structure]) -> int:
    """How many words a record has."""
    return ctypes.sizeof(record) // 8


@cache
def layout() -> int:
    """A number that changes with the records: code compiled for others must not be taken."""
    fields = [[(name, kind.__name__) for name, kind in record._fields_] for record in RECORDS]  # type: ignore[misc]
    return zlib.crc32(repr(fields).encode())


class Layout(NamedTuple):
    """What the tensor of an array may be.

    shape: of the tensor. before: bytes of what comes before the array's first place. packed: whether it is what
    `freeze()` makes.
    """

    shape: torch.Size
    before: int
    packed: int


class Program:
    """The program of an address map, for any device.

    One address map has one program in a process, found again by the map's key (`program_of`, `find_program`).
    It holds no state: kernels read it, nothing writes it, copies of a group share it.

    read_starts: the number of the first read of each array, one more at the end.
    sources: the addresses and types of the memory that was read last, and its `Source`s.
    is_ranged: whether some ids of a table are read by other terms than others. is_in_lines: whether pieces write
    whole lines, each at once.
    """

    def __init__(self, address_map: AddressMap) -> None:
        self.address_map = address_map
        self.key = address_map.key
        self.array = array_program(address_map)
        self.header = Header.from_buffer(self.array.data)
        self.address: int = self.array.ctypes.data
        self.reference = ReferenceGather(address_map)
        self.features, self.dim = address_map.shape
        self.lookup_size = sum(len(lookup.buckets) for lookup in address_map.lookups)
        self.edge_size = sum(len(edges.firsts) for edges in address_map.edges)
        self.is_indexed = self.lookup_size + self.edge_size > 0
        self.is_ranged = any(len(ranges) > 1 for ranges in address_map.ranges)
        self.is_in_lines = bool(self.array[self.header.lines_at :][: self.header.tables].all())
        self.arrays = address_map.arrays
        self.starts = array_starts(address_map)
        self.packed = tuple([None if array.format == FP32 else array.format.dtype for array in self.arrays])
        self.layouts = {kind: self._layouts(kind) for kind in (torch.float32, torch.float64)}
        self.is_coded = any(packed is not None for packed in self.packed)
        segments = self.array[self.header.segments_at : self.header.reads_at].reshape(-1, words(Segment))
        self.array_of_segment, self.width_of_segment = segments[:, 0].copy(), torch.from_numpy(segments[:, 4].copy())
        reads = self.array[self.header.reads_at :].reshape(-1, words(Read))
        self.table_of_read = torch.from_numpy(reads[:, 2].copy())
        counts = np.bincount(segments[:, 0], segments[:, 6], len(self.arrays)).astype(int)
        self.read_starts = _starts([*counts.tolist(), 0])
        self._on_device: dict[torch.device, Tensor] = {}
        self.sources: tuple[list[int], tuple[torch.dtype, ...], ctypes.Array[ctypes.c_int64]] | None = None
        self._layout: dict[tuple[torch.dtype, ...], tuple[list[torch.Size], list[int], list[int]]] = {}

    def _layouts(self, kind: torch.dtype) -> list[dict[torch.dtype, Layout]]:
        """For each array what its tensor may be, by its type, where vectors are computed in one kind of float."""
        found = []
        for array, start, packed in zip(self.arrays, self.starts, self.packed, strict=False):
            own = {kind: Layout(torch.Size(array.shape), start * kind.itemsize, 0)}
            if packed is not None:
                shape = array.format.packed_like(*array.shape).shape
                own[packed] = Layout(shape, array.format.num_bytes(start), 1)
            found.append(own)
        return found

    def layout(
        self, kind: torch.dtype, types: tuple[torch.dtype, ...]
    ) -> tuple[list[torch.Size], list[int], list[int]]:
        """What each array's tensor must be, where they are of some types and vectors are computed in one kind of float:
        the shapes, and the rest of `Layout`. No shape, which nothing has, where an array cannot be of its type."""
        if types not in self._layout:
            given = [own.get(each) for own, each in zip(self.layouts[kind], types, strict=True)]
            if None in given:
                return [], [], []
            shapes, befores, packed = zip(*given, strict=True)
            self._layout[types] = [*shapes], [*befores], [*packed]
        return self._layout[types]

    @cached_property
    def lowered(self) -> LoweredGather | None:
        """The reference as exported programs have it; None for maps that are exported as the reference itself."""
        return LoweredGather(self.address_map) if lowers(self.address_map) else None

    def reading(self, name: str) -> str:
        """The kernel of a name that reads this program's memory: where some is in few bits, one that knows of codes."""
        return f"coded_{name}" if self.is_coded else name

    def by_row(self, sparse: Sequence[bool]) -> list[bool]:
        """For each array whether its gradient is that of rows, of those for which that is asked; none if empty."""
        pairs = zip(sparse, self.arrays, strict=True) if sparse else ()
        return [asked and array.role != "projections" for asked, array in pairs]

    def on(self, device: torch.device) -> Tensor:
        """The words on a device, copied there once."""
        if device not in self._on_device:
            with torch.inference_mode(False):
                self._on_device[device] = torch.from_numpy(self.array).to(device)
        return self._on_device[device]

    def __deepcopy__(self, _: object) -> Program:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return program_of, (self.address_map,)


_programs: WeakValueDictionary[int, Program] = WeakValueDictionary()  # by key: equal maps have equal programs


def program_of(address_map: AddressMap) -> Program:
    """The program of an address map; made once for all groups whose maps are equal."""
    program = _programs.get(address_map.key)
    if program is None:
        program = _programs[address_map.key] = Program(address_map)
    return program


def find_program(key: int) -> Program:
    """The program with that key, of a group that lives in this process.

    Raises:
        ValueError: where there is none: a compiled program outlived the group it was made of.
    """
    program = _programs.get(key)
    if program is None:
        raise ValueError("this compiled program reads a group that is gone: build the group before it is called")
    return program


def array_starts(address_map: AddressMap) -> list[int]:
    """The place of the first float of each array, and the one after the last."""
    sizes = [-(-array.floats // ALIGNMENT) * ALIGNMENT for array in address_map.arrays]
    return [0, *itertools.accumulate(sizes)]


class _Places:
    """Addresses of a map as places."""

    def __init__(self, address_map: AddressMap) -> None:
        self._map = address_map
        self._starts = array_starts(address_map)

    def __call__(self, base: int) -> tuple[int, int]:
        """(the array that holds a float of memory, its place)."""
        region = self._map.region_at(base)
        array, before = self._map.places[region]
        return array, self._starts[array] + before + base - self._map.bases[region]


def array_program(address_map: AddressMap) -> NDArray[np.int64]:
    """The words of an address map's program."""
    starts = {**starts_of(address_map.lookups), **starts_of(address_map.edges)}
    places = _Places(address_map)
    columns, chains = [0], [0]
    ranges: list[Range] = []
    pieces: list[Piece] = []
    chain_of: list[int] = []
    first_slot = longest = 0
    for number, table in enumerate(address_map.tables):
        for own in address_map.ranges[number]:
            ranges.append(Range(own.first, _size(own.first, own.stop, table.rows), len(chains) - 1))
            for chain in chains_of(own.terms):
                for chunk in chain:
                    chain_of.append(len(chains) - 1)
                    pieces.append(_piece(chunk, first_slot, number, len(ranges) - 1, table, starts, places))
                chains.append(len(pieces))
                longest = max(longest, len(chain))
        columns.append(len(ranges))
        first_slot += address_map.features[number] * table.dim
    ranges.append(Range(0, 0, len(chains) - 1))
    matrix_parts, arrays = _share_matrices(pieces), _arrays(address_map)
    segments, reads, computed = _segments(pieces, chain_of, arrays)
    lines = [1] * len(address_map.tables)
    for piece in pieces:
        lines[piece.table] &= _is_in_lines(piece)
    sections = [[table.rows or 0 for table in address_map.tables], lines, columns, _flat(ranges), chains, _flat(pieces)]
    sections += [_flat(arrays), _quantiles(pieces, places_end(arrays)), _flat(segments), _flat(reads)]
    header = Header(
        len(address_map.tables),
        len(arrays),
        len(segments),
        len(reads),
        computed,
        max(segment.reads for segment in segments),
        longest,
        max(piece.width for piece in pieces),
        max(piece.projected for piece in pieces),
        max(own * table.dim for own, table in zip(address_map.features, address_map.tables, strict=True)),
        matrix_parts,
        *_starts([len(section) for section in sections], words(Header)),
    )
    return np.array(_flat([header]) + [each for section in sections for each in section], dtype=np.int64)


def _share_matrices(pieces: Sequence[Piece]) -> int:
    """Number the pieces that read each projection; the most that read one."""
    readers: Counter[int] = Counter()
    for piece in pieces:
        piece.matrix_part = readers[piece.matrix_base]
        readers[piece.matrix_base] += int(piece.projected > 0)
    return max([1, *readers.values()])


def _is_in_lines(piece: Piece) -> bool:
    return not ((piece.slot | piece.width) % LINE or piece.wrap or piece.projected)


def _size(first: int, stop: int | None, rows: int | None) -> int:
    """Of a `Range`, in 64 bits."""
    if first == 0 and stop == rows:
        return 0
    return -first if stop is None else stop - first


def places_end(arrays: Sequence[Array]) -> int:
    """One past the last place."""
    end: int = arrays[-1].end
    return end


def _arrays(address_map: AddressMap) -> list[Array]:
    made = []
    for array, start in zip(address_map.arrays, array_starts(address_map), strict=False):
        kind = array.format
        of_most, factor, record = 0, 0.0, 0
        if isinstance(kind, Codes):
            of_most, factor, record = int(kind.statistic == "max"), kind.factor, kind.record
        made.append(Array(start, start + array.floats, array.width, kind.bits, of_most, record, factor))
    return made


def _starts(sizes: Sequence[int], first: int = 0) -> list[int]:
    return [first + sum(sizes[:index]) for index in range(len(sizes))]


def _flat(records: Sequence[ctypes.Structure]) -> list[int]:
    return [each for record in records for each in memoryview(record).cast("B").cast("q")]


def _piece(
    chunk: Chunk,
    first_slot: int,
    table_number: int,
    range_number: int,
    table: TableSpec,
    starts: Mapping[Any, int],
    places: _Places,
) -> Piece:
    term = chunk.term
    weight = term.weight or Weight(Partition(1), 0, 0)
    (array, base), (weight_array, weight_base) = places(term.base), places(weight.base)
    inner, offset = (chunk.width, chunk.offset) if term.projection is None else (term.width, 0)
    low, high = (base + each - term.base for each in _interval(term, offset, inner))
    projection = term.projection or Projection(0, 0)
    matrix_array, matrix = places(projection.base)
    projected = 0 if term.projection is None else term.width
    stop = table.rows if term.stop is None else term.stop
    ids = None if stop is None else stop - term.first
    return Piece(
        array=array,
        base=base,
        stride=term.stride,
        neighbours=term.neighbours,
        step=term.width,
        wrap=term.wrap,
        offset=offset,
        width=chunk.width,
        slot=first_slot + chunk.slot,
        op=_OPS[chunk.combine],
        signed=int(term.signed),
        low=low,
        high=high,
        weighted=int(term.weight is not None),
        weight_array=weight_array,
        weight_base=weight_base,
        weight_stride=weight.stride,
        weight_low=weight_base,
        weight_high=weight_base + weight.end - weight.base,
        part=_part(term.partition, ids, starts),
        weight_part=_part(weight.partition, ids, starts),
        row_reads=Listing(-1, -1, -1),  # `_segments` fills them in
        weight_reads=Listing(-1, -1, -1),
        table=table_number,
        range=range_number,
        first=term.first,
        inner=inner,
        projected=projected,
        matrix_array=matrix_array,
        matrix_base=matrix,
        matrix=matrix + chunk.offset,
        matrix_step=projection.width,
        matrix_end=matrix + chunk.offset + max(0, projected - 1) * projection.width + chunk.width,
    )


def _interval(term: Term, offset: int, width: int) -> tuple[int, int]:
    """The floats of memory that some of a term's may be: from the first, up to the second."""
    if term.wrap:
        return term.base, term.end
    return term.base + offset, term.end - term.width + offset + width


def _part(part: Partition, ids: int | None, starts: Mapping[Any, int]) -> Part:
    """The record of a partition of so many ids; None for any."""
    most = _EXACT_IN_FLOAT64 + 1 if ids is None else ids
    number = -(-most // part.div)  # numbers before the last step are less than this
    highest = 0
    if part.lookup is not None:
        highest = part.lookup.highest
        number = highest + 1
    if part.key is not None:
        number = _EXACT_IN_FLOAT64
    edges = 0 if part.edges is None else len(part.edges.firsts)
    if edges:
        number = edges + 1
    return Part(
        div=part.div,
        div_exact=int(most > _EXACT_IN_FLOAT64),
        buckets=0 if number <= part.num_buckets else part.num_buckets,
        buckets_exact=int(number > _EXACT_IN_FLOAT64),
        hashed=int(part.key is not None),
        key=part.key or 0,
        lookup=-1 if part.lookup is None else starts[part.lookup],
        highest=highest,
        edges=edges,
        first_edge=0 if part.edges is None else starts[part.edges],
    )


def _quantiles(pieces: Sequence[Piece], end: int) -> list[int]:
    """Places, from the start of a line, between which equally many reads are expected."""
    projected = [piece for piece in pieces if piece.projected]
    spans = np.array(
        [(piece.low, piece.high) for piece in pieces] + [(piece.matrix, piece.matrix_end) for piece in projected]
    )
    low, high = spans.T.astype(np.float64)
    floats = [piece.inner for piece in pieces] + [piece.projected * piece.width for piece in projected]
    width = np.array(floats, dtype=np.float64)
    edges = np.unique(spans)
    reads = (np.clip((edges[:, None] - low) / (high - low), 0, 1) * width).sum(axis=1)
    wanted = np.linspace(0, reads[-1], QUANTILES + 1)
    inner = (np.interp(wanted, reads, edges)[1:-1] // LINE * LINE).astype(np.int64)
    return [0, *inner.tolist(), end]


def _segments(
    pieces: list[Piece], chain_of: list[int], arrays: Sequence[Array]
) -> tuple[list[Segment], list[Read], int]:
    """(segments, reads, floats per example of reads whose gradient is computed); pieces are told their reads."""
    spans = [(piece.low, piece.high, number, False) for number, piece in enumerate(pieces)]
    spans += [
        (piece.weight_low, piece.weight_high, number, True) for number, piece in enumerate(pieces) if piece.weighted
    ]
    multiplied = {chain for piece, chain in zip(pieces, chain_of, strict=True) if piece.op == MULTIPLY}
    segments: list[Segment] = []
    reads: list[Read] = []
    computed = last = 0
    for low, high, number, of_weight in sorted(spans):
        piece = pieces[number]
        array_number = piece.weight_array if of_weight else piece.array
        array = arrays[array_number]
        width = array.width
        first_row, end_row = (low - array.start) // width, -(-(high - array.start) // width)
        if not segments or segments[-1].array != array_number or first_row >= last:
            first = array.start + first_row * width
            segments.append(Segment(array_number, first, first_row, 0, width, len(reads), 0))
            last = end_row
        segment, last = segments[-1], max(last, end_row)
        count = 1 if of_weight else piece.inner // width
        scaled = piece.signed or piece.weighted or piece.projected
        direct = not (of_weight or chain_of[number] in multiplied or scaled)
        listing = Listing(len(segments) - 1, segment.reads, -1 if direct else computed)
        if of_weight:
            piece.weight_reads = listing
        else:
            piece.row_reads = listing
        for chunk in range(count):
            slot, before = (piece.slot + chunk * width, -1) if direct else (-1, computed + chunk * width)
            reads.append(Read(slot, before, piece.table))
        computed += 0 if direct else count * width
        segment.rows = last - segment.first_row
        segment.reads += count
    return segments, reads, computed
