"""Terms: the one formula every index-based method is written in, as data.

    e(x)[slot : slot + out]  (+)=  sign(x) * weight(x) * row(x) @ P,    x in first .. stop - 1
    row(x) = memory[base + stride * bucket(x - first) : + width]

A table's embedding is a list of terms; `(+)` is assignment for the first term that writes a slot, and that term's
`combine` (sum or product) for every later one. Signs and weights are 1 but for the few methods that have them. `P`,
`[width, out]`, is a learned projection that belongs to a term; most have none, and then `out` is `width`.

A term reads all ids of its table unless it says which. Where the terms of a table read different ids, they cut the
table into *ranges*: consecutive ids that the same terms read. Every id is in one, and all give the same features.

A group's `AddressMap` holds the terms of all its tables and the regions its memory is made of. It is plain data, equal
wherever it is built: kernels, proofs, byte counts and exports read it.

Addresses count floats from the front of the first region to the end of the last. What a group allocates are *arrays*
`[rows, width]`: regions of one role, width and format, stacked. No term reads across the end of a region.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tablefold.formats import FP32, INT4, Format
from tablefold.hashing import HASH_VERSION
from tablefold.partitions import Edges, Lookup, Partition
from tablefold.starts import Start
from tablefold.tables import MAX_ROWS, TableSpec

Combine = Literal["add", "mul"]
Role = Literal["rows", "shared", "weights", "projections"]

MAX_FLOATS = 1 << 62
"""No memory has more: addresses are computed in signed 64-bit integers and must not overflow."""


@dataclass(frozen=True)
class Region:
    """`rows * width` consecutive floats of memory that start alike.

    Args:
        rows: how many.
        width: floats of a row. Terms read whole rows: every address is a multiple of it.
        start: how they begin.
        role: what they are, for optimisers: `rows` of vectors, `shared` rows that many ids read beside rows of their
            own, `weights` that multiply what others read, or `projections` of narrow rows.
        format: in how many bits they are kept and read.
    """

    rows: int
    width: int
    start: Start
    role: Role = "rows"
    format: Format = FP32

    @property
    def floats(self) -> int:
        """How many floats the region holds."""
        return self.rows * self.width


@dataclass(frozen=True)
class Array:
    """Regions of one role, width and format, stacked: one parameter of a group.

    Args:
        role, width, format: of every region.
        rows: of all regions together.
        regions: their numbers.
    """

    role: Role
    width: int
    format: Format
    rows: int
    regions: tuple[int, ...]

    @cached_property
    def name(self) -> str:
        """Such as `rows_16` and, where memory is not float32, `rows_16_int2`."""
        words = [self.role, str(self.width), *([] if self.format == FP32 else [self.format.name])]
        return "_".join(words)

    @property
    def shape(self) -> tuple[int, int]:
        """`[rows, width]`."""
        return self.rows, self.width

    @property
    def floats(self) -> int:
        """How many floats the array holds."""
        return self.rows * self.width

    @property
    def num_bytes(self) -> int:
        """Bytes of the array in its format."""
        return self.format.num_bytes(self.floats)


@dataclass(frozen=True)
class Weight:
    """A learned number per bucket, `memory[base + stride * bucket(x)]`, that multiplies what a term reads."""

    partition: Partition
    base: int
    stride: int = 1

    @property
    def end(self) -> int:
        """One past the last float of memory that any id can read."""
        return self.base + self.stride * (self.partition.num_buckets - 1) + 1


@dataclass(frozen=True)
class Projection:
    """A learned matrix that a term's row is multiplied by: `[the term's width, width]`, row by row, from `base` on."""

    base: int
    width: int


@dataclass(frozen=True)
class Term:
    """One read from memory: a bucket and a slice.

    Args:
        partition: gives the bucket of an id.
        base: first float of the term's rows in memory.
        stride: floats from one bucket to the next.
        width: floats read.
        neighbours: so many consecutive ids lie side by side, `width` floats apart: `width * (x mod neighbours)` is
            added to the address.
        wrap: floats of a circular region that begins at `base`; reads past its end go on at its beginning. 0 for none.
        slot: first output float written, counted from the start of the table's vector.
        combine: how the term joins what earlier terms wrote to its slots.
        signed: multiply by the hashed sign; needs a hashed partition.
        weight: multiply by a learned number.
        first: the first id that reads the term. Partitions, and `neighbours`, count from there: they see `x - first`.
        stop: one past the last id that reads it; None for all that follow (and the negative ids of an open vocabulary).
        projection: multiply the row by a learned matrix.
    """

    partition: Partition
    base: int
    stride: int
    width: int
    neighbours: int = 1
    wrap: int = 0
    slot: int = 0
    combine: Combine = "add"
    signed: bool = False
    weight: Weight | None = None
    first: int = 0
    stop: int | None = None
    projection: Projection | None = None

    @property
    def out(self) -> int:
        """Floats written."""
        return self.width if self.projection is None else self.projection.width

    @property
    def bases(self) -> tuple[int, ...]:
        """Where what the term reads begins: its rows, its weights, its projection."""
        others = (each.base for each in (self.weight, self.projection) if each is not None)
        return (self.base, *others)

    @property
    def end(self) -> int:
        """One past the last float of memory that any id can read."""
        if self.wrap:
            return self.base + self.wrap
        return self.base + self.stride * (self.partition.num_buckets - 1) + self.width * self.neighbours

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All that tells ids apart in this term."""
        inner = () if self.neighbours == 1 else (Partition(self.neighbours),)
        return (self.partition, *inner, *(() if self.weight is None else (self.weight.partition,)))

    def reads(self, ids: ArrayLike) -> NDArray[np.bool_]:
        """Which ids read the term."""
        ids = np.asarray(ids, dtype=np.int64)
        if self.stop is None:
            return np.asarray((ids < 0) | (ids >= self.first))
        return np.asarray((ids >= self.first) & (ids < self.stop))

    def address(self, ids: ArrayLike) -> NDArray[np.int64]:
        """The first float each id reads; -1 for those that do not read the term."""
        place = self.stride * self.partition(own := self._counted(ids)) + self.width * (own % self.neighbours)
        return np.where(self.reads(ids), self.base + (place % self.wrap if self.wrap else place), -1)

    def weight_address(self, ids: ArrayLike) -> NDArray[np.int64]:
        """The weight of each id; -1 for those that do not read the term."""
        assert self.weight is not None
        place = self.weight.base + self.weight.stride * self.weight.partition(self._counted(ids))
        return np.where(self.reads(ids), place, -1)

    def _counted(self, ids: ArrayLike) -> NDArray[np.int64]:
        """The ids from the term's first on; 0 for those that do not read it."""
        return np.where(self.reads(ids), np.asarray(ids, dtype=np.int64) - self.first, 0)


@dataclass(frozen=True)
class Range:
    """Consecutive ids of a table, from `first` up to `stop`, that the same terms read; None for an open end."""

    first: int
    stop: int | None
    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return f"ids from {self.first} on" if self.stop is None else f"ids {self.first} .. {self.stop - 1}"

    @property
    def slots(self) -> int:
        """How many the terms write, from 0 on."""
        return max(term.slot + term.out for term in self.terms)


def table_ranges(table: TableSpec, terms: Sequence[Term]) -> tuple[Range, ...]:
    """The ids of a table, cut where a term's ids begin or end."""
    begins, ends = {term.first for term in terms}, {term.stop for term in terms if term.stop is not None}
    cuts = sorted(({0} | begins | ends) - {table.rows})
    spans = zip(cuts, [*cuts[1:], table.rows], strict=True)
    return tuple(Range(first, stop, _readers(terms, first, stop)) for first, stop in spans)


def _readers(terms: Sequence[Term], first: int, stop: int | None) -> tuple[Term, ...]:
    """The terms that all of these ids read."""

    def reads(term: Term) -> bool:
        return term.first <= first and (term.stop is None or (stop is not None and stop <= term.stop))

    return tuple(term for term in terms if reads(term))


@dataclass(frozen=True)
class Chunk:
    """The part of a term that writes one slot interval.

    Args:
        term: it.
        offset: the first float of the term's row that is meant; of one with a projection, the first of its product.
        width: floats.
        slot: the first that is written.
        combine: how they join what earlier terms wrote there; None where they are the first.
    """

    term: Term
    offset: int
    width: int
    slot: int
    combine: Combine | None


def chains_of(terms: Sequence[Term]) -> list[list[Chunk]]:
    """The terms of a range, cut such that any two chunks write the same slots or none in common: for each interval of
    slots, in their order, the chunks that write it."""
    edges = sorted({edge for term in terms for edge in (term.slot, term.slot + term.out)})
    chains = []
    for begin, end in itertools.pairwise(edges):
        writers = [term for term in terms if term.slot <= begin and end <= term.slot + term.out]
        combines = [None, *(term.combine for term in writers[1:])]
        chunks = zip(writers, combines, strict=True)
        chains.append([Chunk(term, begin - term.slot, end - begin, begin, combine) for term, combine in chunks])
    return chains


@dataclass(frozen=True)
class AddressMap:
    """Where every weight of every table lives in one memory.

    Args:
        tables: the tables, in column order.
        terms: for each table its terms. Slots must be covered from 0 to a multiple of the table's dim, the same for all
            of its ids: each `dim` of them is one feature.
        regions: the memory, front to back.
    """

    tables: tuple[TableSpec, ...]
    terms: tuple[tuple[Term, ...], ...]
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        if len(self.tables) != len(self.terms):
            raise ValueError(f"{len(self.tables)} tables need a list of terms each; got {len(self.terms)} lists")
        if self.floats > MAX_FLOATS:
            raise ValueError(f"a memory of {self.floats} floats is beyond the largest, {MAX_FLOATS}: fold further")
        for table, terms in zip(self.tables, self.terms, strict=True):
            for term in terms:
                _check_term(table, term, self.floats)
                _check_region(table, term, self)
                _check_projection(table, term, self)
            if not terms:
                raise ValueError(f"table {table.name!r} has no terms: its ids would read nothing")
        for table, ranges in zip(self.tables, self.ranges, strict=True):
            for each in ranges:
                _check_slots(table, each, ranges[0])
                _check_chunks(table, each, self)

    @cached_property
    def floats(self) -> int:
        """Floats of the whole memory."""
        return sum(region.floats for region in self.regions)

    @cached_property
    def ranges(self) -> tuple[tuple[Range, ...], ...]:
        """For each table its ranges, in the order of their ids."""
        return tuple(table_ranges(table, terms) for table, terms in zip(self.tables, self.terms, strict=True))

    @cached_property
    def lookups(self) -> tuple[Lookup, ...]:
        """The lookup arrays the terms read, each once."""
        return tuple(dict.fromkeys(part.lookup for part in self._partitions if part.lookup is not None))

    @cached_property
    def edges(self) -> tuple[Edges, ...]:
        """The edges the terms search, each once."""
        return tuple(dict.fromkeys(part.edges for part in self._partitions if part.edges is not None))

    @property
    def _partitions(self) -> Iterator[Partition]:
        return (part for terms in self.terms for term in terms for part in term.partitions)

    @cached_property
    def features(self) -> tuple[int, ...]:
        """Features (vectors of `dim`) that each table gives."""
        return tuple(ranges[0].slots // table.dim for table, ranges in zip(self.tables, self.ranges, strict=True))

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(features, dim) of what one example reads; one feature of all floats where the tables' dims differ."""
        dims = [table.dim for table in self.tables]
        if len(set(dims)) == 1:
            return sum(self.features), dims[0]
        return 1, sum(features * dim for features, dim in zip(self.features, dims, strict=True))

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """What a group allocates: regions of one role, width and format, stacked in their order."""
        stacks: dict[tuple[Role, int, Format], list[int]] = {}
        for number, region in enumerate(self.regions):
            stacks.setdefault((region.role, region.width, region.format), []).append(number)
        return tuple(
            Array(*alike, sum(self.regions[number].rows for number in numbers), tuple(numbers))
            for alike, numbers in stacks.items()
        )

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of all arrays in their formats."""
        return sum(array.num_bytes for array in self.arrays)

    @cached_property
    def bases(self) -> tuple[int, ...]:
        """The first float of each region."""
        return (0, *itertools.accumulate(region.floats for region in self.regions))[:-1]

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """For each region the number of its array, and how many floats of that come before it."""
        found: dict[int, tuple[int, int]] = {}
        for number, array in enumerate(self.arrays):
            floats = 0
            for region in array.regions:
                found[region] = (number, floats)
                floats += self.regions[region].floats
        return tuple(found[region] for region in range(len(self.regions)))

    @cached_property
    def read_singly(self) -> frozenset[str]:
        """The names of the arrays of which no term reads several rows at once."""
        reads = [(self.region_at(term.base), term.width) for terms in self.terms for term in terms]
        several = {self.places[region][0] for region, width in reads if width > self.regions[region].width}
        return frozenset(array.name for number, array in enumerate(self.arrays) if number not in several)

    def region_at(self, base: int) -> int:
        """The number of the region that holds a float of memory."""
        return bisect.bisect_right(self.bases, base) - 1

    def only(self, *names: str) -> AddressMap:
        """The map of some tables, over the arrays that they read, whole as they are."""
        columns = [self.index(name) for name in names]
        bases = [base for column in columns for term in self.terms[column] for base in term.bases]
        arrays = {self.places[self.region_at(base)][0] for base in bases}
        kept = sorted(number for array in arrays for number in self.arrays[array].regions)
        regions = tuple(self.regions[number] for number in kept)
        before = itertools.accumulate((region.floats for region in regions), initial=0)
        by = {number: base - self.bases[number] for number, base in zip(kept, before, strict=False)}
        terms = tuple(
            tuple(moved_to(term, lambda base: base + by[self.region_at(base)]) for term in self.terms[column])
            for column in columns
        )
        return AddressMap(tuple(self.tables[column] for column in columns), terms, regions)

    def in_format(self, kept: Format) -> AddressMap:
        """The same addresses, with the rows of vectors kept in a format: shared ones in no fewer bits than int4 has,
        for what many ids read is worth them."""
        formats = {"rows": kept, "shared": kept if kept.num_bytes(1 << 20) > INT4.num_bytes(1 << 20) else INT4}
        regions = [replace(region, format=formats.get(region.role, region.format)) for region in self.regions]
        return replace(self, regions=tuple(regions))

    @cached_property
    def fingerprint(self) -> int:
        """An int64 that changes whenever some id would read another address.

        Hash version, terms and lookup arrays, by the names of their fields; what is at its default is left out, so that
        a field that is added later changes no fingerprint.
        """
        tables = [[table.rows, table.dim] for table in self.tables]
        terms = [[_named(term) for term in terms] for terms in self.terms]
        named = {"hash": HASH_VERSION, "floats": self.floats, "tables": tables, "terms": terms}
        return _digest(json.dumps(named, sort_keys=True))

    @cached_property
    def key(self) -> int:
        """An int64 that changes with the fingerprint and with how memory is kept: one for each program."""
        return _digest(repr((self.fingerprint, [(array.name, array.regions) for array in self.arrays])))

    @cached_property
    def fingerprint_0_1(self) -> int:
        """What release 0.1 saved as the fingerprint: the terms as Python writes them."""
        tables = [(table.rows, table.dim) for table in self.tables]
        terms = _tuple_0_1([_tuple_0_1([_text_0_1(term) for term in terms]) for terms in self.terms])
        return _digest(f"({HASH_VERSION!r}, {self.floats!r}, {tables!r}, {terms})")

    def __deepcopy__(self, _: object) -> AddressMap:
        return self  # plain data that nobody changes

    def codes(self, name: str, ids: ArrayLike) -> NDArray[np.int64]:
        """The float addresses at which each term of table `name` starts to read, `[ids, terms]`; weights come last, and
        -1 stands for what an id does not read.

        Ids with equal codes have equal embeddings, whatever the memory learns.
        """
        terms = self.terms[self.index(name)]
        columns = [term.address(ids) for term in terms]
        columns += [term.weight_address(ids) for term in terms if term.weight is not None]
        return np.stack(columns, axis=-1)

    def index(self, name: str) -> int:
        """The column of table `name`; `ValueError` that lists the tables where there is none."""
        names = [table.name for table in self.tables]
        if name not in names:
            raise ValueError(f"no table {name!r} in this group; its tables: {', '.join(names)}")
        return names.index(name)


def _check_term(table: TableSpec, term: Term, floats: int) -> None:
    """`ValueError` where a term could read outside the memory, or an array of its lookups outside its ends."""
    name = f"table {table.name!r}"
    if min(term.base, term.stride, term.wrap, term.slot) < 0 or min(term.width, term.neighbours) < 1:
        raise ValueError(f"{name}: a term's addresses must be 0 or more, its width and neighbours 1 or more: {term}")
    if term.end > floats:
        raise ValueError(f"{name}: a term reads up to float {term.end} of a memory of {floats}: {term}")
    if term.wrap and term.width > term.wrap:
        raise ValueError(f"{name}: a term reads {term.width} floats of a circular region of {term.wrap}: {term}")
    if term.signed and term.partition.key is None:
        raise ValueError(f"{name}: signs come from a hash; this term's partition has none: {term}")
    weight = term.weight
    if weight is not None and (min(weight.base, weight.stride) < 0 or weight.end > floats):
        raise ValueError(
            f"{name}: weights at {weight.base} .. {weight.end - 1} lie outside a memory of {floats} floats"
        )
    last = MAX_ROWS if table.rows is None else table.rows
    if not 0 <= term.first < (last if term.stop is None else term.stop) <= last:
        raise ValueError(f"{name}: a term reads {Range(term.first, term.stop, ())}, of 0 .. {last - 1}: {term}")
    for part in term.partitions:
        _check_lookup(table, term, part)


def _check_region(table: TableSpec, term: Term, address_map: AddressMap) -> None:
    """`ValueError` where a term reads across the end of a region, or parts of its rows."""
    number = address_map.region_at(term.base)
    region, first = address_map.regions[number], address_map.bases[number]
    if term.end > first + region.floats:
        raise ValueError(f"table {table.name!r}: a term reads across the end of region {number}: {term}")
    steps = [term.base - first, term.width, term.wrap, *([term.stride] if term.partition.num_buckets > 1 else [])]
    if any(step % region.width for step in steps):
        raise ValueError(f"table {table.name!r}: a term reads parts of rows of {region.width} floats: {term}")
    if term.weight is None:
        return
    number = address_map.region_at(term.weight.base)
    region, first = address_map.regions[number], address_map.bases[number]
    if region.width != 1 or region.format != FP32 or term.weight.end > first + region.floats:
        raise ValueError(f"table {table.name!r}: weights must be rows of 1 float32, all in one region: {term}")


def _check_projection(table: TableSpec, term: Term, address_map: AddressMap) -> None:
    """`ValueError` where a term's projection is no region of its own shape."""
    projection = term.projection
    if projection is None:
        return
    name, base = f"table {table.name!r}", projection.base
    region = address_map.regions[address_map.region_at(base)] if 0 <= base < address_map.floats else None
    if region is None or region.role != "projections" or region.format != FP32 or base not in address_map.bases:
        raise ValueError(f"{name}: a projection must be a whole region of float32 in that role: {term}")
    if (region.rows, region.width) != (term.width, projection.width):
        wider = "is wider than" if region.rows > term.width else "does not fit"
        raise ValueError(
            f"{name}: a projection of {region.rows} x {region.width} floats {wider} rows of {term.width} that become "
            f"{projection.width}: it needs {term.width} x {projection.width}"
        )


def _check_lookup(table: TableSpec, term: Term, part: Partition) -> None:
    if part.lookup is None:
        return
    stop = table.vocabulary if term.stop is None else term.stop
    entries, needed = len(part.lookup.buckets), -(-(stop - term.first) // part.div)
    if entries < needed:
        raise ValueError(f"table {table.name!r}: a lookup array of {entries} entries serves no {needed} ids")


def _check_slots(table: TableSpec, own: Range, first: Range) -> None:
    """`ValueError` where ids read nothing, or not what the first range's ids do."""
    name = f"table {table.name!r}"
    if not own.terms:
        raise ValueError(f"{name}: no term reads {own}: give every id one")
    covered = np.zeros(own.slots, dtype=bool)
    for term in own.terms:
        covered[term.slot : term.slot + term.out] = True
    if not covered.all():
        raise ValueError(f"{name}: no term writes slot {int(np.flatnonzero(~covered)[0])}")
    if len(covered) % table.dim:
        raise ValueError(f"{name}: {len(covered)} slots are no whole vectors of dim {table.dim}")
    if own.slots != first.slots:
        raise ValueError(f"{name}: {first} write {first.slots} slots, {own} write {own.slots}: all must write as many")


def _check_chunks(table: TableSpec, own: Range, address_map: AddressMap) -> None:
    """`ValueError` where terms that write some slots in common cut each other's rows."""
    for chunk in itertools.chain.from_iterable(chains_of(own.terms)):
        if chunk.term.projection is not None:  # whose whole row is read for any part of the product
            continue
        width = address_map.regions[address_map.region_at(chunk.term.base)].width
        if chunk.offset % width or chunk.width % width:
            raise ValueError(
                f"table {table.name!r}: other terms cut the rows of {width} floats of a term: {chunk.term}"
            )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _named(value: Any) -> Any:
    """A term, or a part of one, as the names and values of the fields that differ from their defaults."""
    if isinstance(value, (Lookup, Edges)):
        return {"entries": len(value.array), "digest": value.digest}
    if not is_dataclass(value):
        return value
    held = {field.name: (getattr(value, field.name), field.default) for field in fields(value)}
    return {name: _named(own) for name, (own, default) in held.items() if own != default}


_FIELDS_0_1 = {
    Term: ("partition", "base", "stride", "width", "neighbours", "wrap", "slot", "combine", "signed", "weight"),
    Weight: ("partition", "base", "stride"),
    Partition: ("num_buckets", "div", "key", "lookup"),
}


def _text_0_1(value: Any) -> str:
    """How Python wrote a term, or a part of one, in release 0.1."""
    if isinstance(value, Lookup):
        digest = hashlib.blake2b(value.buckets.tobytes(), digest_size=8).hexdigest()
        return f"Lookup({len(value.buckets)} ids, {digest})"
    names = _FIELDS_0_1.get(type(value))
    if names is None:
        return repr(value)
    later = [field.name for field in fields(value) if field.name not in names]
    names += tuple(name for name in later if getattr(value, name) != type(value).__dataclass_fields__[name].default)
    return f"{type(value).__name__}({', '.join(f'{name}={_text_0_1(getattr(value, name))}' for name in names)})"


def _tuple_0_1(texts: Sequence[str]) -> str:
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def join(tables: Sequence[TableSpec], maps: Sequence[AddressMap]) -> AddressMap:
    """One address map over one memory from maps of disjoint tables, columns in the order of `tables`."""
    terms: dict[TableSpec, tuple[Term, ...]] = {}
    floats = 0
    for part in maps:
        for table, part_terms in zip(part.tables, part.terms, strict=True):
            terms[table] = moved(part_terms, floats)
        floats += part.floats
    regions = tuple(region for part in maps for region in part.regions)
    return AddressMap(tuple(tables), tuple(terms[table] for table in tables), regions)


def moved(terms: Sequence[Term], by: int) -> tuple[Term, ...]:
    """Terms whose memory lies so many floats further on."""
    return tuple(moved_to(term, lambda base: base + by) for term in terms)


def moved_to(term: Term, to: Callable[[int], int]) -> Term:
    """A term whose bases lie where `to` says of each."""
    weight = None if term.weight is None else replace(term.weight, base=to(term.weight.base))
    projection = None if term.projection is None else replace(term.projection, base=to(term.projection.base))
    return replace(term, base=to(term.base), weight=weight, projection=projection)


class MapBuilder:
    """Lays regions out one after the other and collects the terms that read them.

    >>> from tablefold.partitions import identity
    >>> from tablefold.starts import Start
    >>> builder = MapBuilder([TableSpec("user", rows=10, dim=4)])
    >>> base = builder.add_region(10, 4, Start(std=0.5))
    >>> builder.add_term(0, Term(identity(10), base, stride=4, width=4))
    >>> builder.finish().floats
    40
    """

    def __init__(self, tables: Sequence[TableSpec]) -> None:
        self._tables = tuple(tables)
        self._terms: list[list[Term]] = [[] for _ in tables]
        self._regions: list[Region] = []
        self._floats = 0

    def add_region(self, rows: int, width: int, start: Start, role: Role = "rows") -> int:
        """Append a region; returns its first float."""
        base = self._floats
        self._regions.append(Region(rows, width, start, role))
        self._floats += rows * width
        return base

    def add_term(self, table: int, term: Term) -> None:
        """Append a term to the table in column `table`."""
        self._terms[table].append(term)

    def finish(self) -> AddressMap:
        """The finished map."""
        return AddressMap(self._tables, tuple(tuple(terms) for terms in self._terms), tuple(self._regions))
