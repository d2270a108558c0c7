"""Terms: the one formula every index-based method is written in, as data.

    e(x)[slot : slot + width]  (+)=  sign(x) * weight(x) * memory[base + stride * bucket(x) : + width]

A table's embedding is a list of terms; `(+)` is assignment for the first term that writes a slot, and that term's
`combine` (sum or product) for every later one. Signs and weights are 1 but for the few methods that have them.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tablefold.formats import FP32, Format
from tablefold.hashing import HASH_VERSION
from tablefold.partitions import Lookup, Partition
from tablefold.starts import Start
from tablefold.tables import TableSpec

Combine = Literal["add", "mul"]
Role = Literal["rows", "weights"]

MAX_FLOATS = 1 << 62
"""No memory has more: addresses are computed in signed 64-bit integers and must not overflow."""


@dataclass(frozen=True)
class Region:
    """`rows * width` consecutive floats of memory that start alike.

    Args:
        rows: how many.
        width: floats of a row. Terms read whole rows: every address is a multiple of it.
        start: how they begin.
        role: what they are, for optimisers: `rows` of vectors, or `weights` that multiply what others read.
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

    @property
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

    def address(self, ids: ArrayLike) -> NDArray[np.int64]:
        """The first float each id reads."""
        place = self.stride * self.partition(ids) + self.width * (np.asarray(ids, dtype=np.int64) % self.neighbours)
        return np.asarray(self.base + (place % self.wrap if self.wrap else place))


@dataclass(frozen=True)
class Chunk:
    """The part of a term that writes one slot interval.

    Args:
        term: it.
        offset: the first float of the term's row that is meant.
        width: floats.
        slot: the first that is written.
        combine: how they join what earlier terms wrote there; None where they are the first.
    """

    term: Term
    offset: int
    width: int
    slot: int
    combine: Combine | None


def table_chains(terms: Sequence[Term]) -> list[list[Chunk]]:
    """The terms of a table, cut such that any two chunks write the same slots or none in common: for each interval of
    slots, in their order, the chunks that write it."""
    edges = sorted({edge for term in terms for edge in (term.slot, term.slot + term.width)})
    chains = []
    for begin, end in itertools.pairwise(edges):
        writers = [term for term in terms if term.slot <= begin and end <= term.slot + term.width]
        combines = [None, *(term.combine for term in writers[1:])]
        chunks = zip(writers, combines, strict=True)
        chains.append([Chunk(term, begin - term.slot, end - begin, begin, combine) for term, combine in chunks])
    return chains


@dataclass(frozen=True)
class AddressMap:
    """Where every weight of every table lives in one memory.

    Args:
        tables: the tables, in column order.
        terms: for each table its terms. Slots must be covered from 0 to a multiple of the table's dim: each `dim` of
            them is one feature.
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
            _check_slots(table, terms)
            _check_chunks(table, terms, self)

    @cached_property
    def floats(self) -> int:
        """Floats of the whole memory."""
        return sum(region.floats for region in self.regions)

    @cached_property
    def lookups(self) -> tuple[Lookup, ...]:
        """The lookup arrays the terms read, each once."""
        parts = (part for terms in self.terms for term in terms for part in term.partitions)
        return tuple(dict.fromkeys(part.lookup for part in parts if part.lookup is not None))

    @cached_property
    def features(self) -> tuple[int, ...]:
        """Features (vectors of `dim`) that each table gives."""
        return tuple(
            max(term.slot + term.width for term in terms) // table.dim
            for table, terms in zip(self.tables, self.terms, strict=True)
        )

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

    def region_at(self, base: int) -> int:
        """The number of the region that holds a float of memory."""
        return bisect.bisect_right(self.bases, base) - 1

    def only(self, name: str) -> AddressMap:
        """The map of one table, over the arrays that it reads, whole as they are."""
        terms = self.terms[self.index(name)]
        bases = [base for term in terms for base in (term.base, *([] if term.weight is None else [term.weight.base]))]
        arrays = {self.places[self.region_at(base)][0] for base in bases}
        kept = sorted(number for array in arrays for number in self.arrays[array].regions)
        regions = tuple(self.regions[number] for number in kept)
        before = itertools.accumulate((region.floats for region in regions), initial=0)
        by = {number: base - self.bases[number] for number, base in zip(kept, before, strict=False)}
        moved = tuple(self._moved(term, by) for term in terms)
        return AddressMap((self.tables[self.index(name)],), (moved,), regions)

    def _moved(self, term: Term, by: Mapping[int, int]) -> Term:
        """A term whose regions, by their numbers, lie so many floats further on."""
        weight = term.weight
        if weight is not None:
            weight = replace(weight, base=weight.base + by[self.region_at(weight.base)])
        return replace(term, base=term.base + by[self.region_at(term.base)], weight=weight)

    def in_format(self, kept: Format) -> AddressMap:
        """The same addresses, with the rows of vectors kept in a format."""
        regions = [replace(region, format=kept) if region.role == "rows" else region for region in self.regions]
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
        """The float addresses at which each term of table `name` starts to read, `[ids, terms]`; weights come last.

        Ids with equal codes have equal embeddings, whatever the memory learns.
        """
        terms = self.terms[self.index(name)]
        columns = [term.address(ids) for term in terms]
        weights = [term.weight for term in terms if term.weight is not None]
        columns += [weight.base + weight.stride * weight.partition(ids) for weight in weights]
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
    for part in term.partitions:
        _check_lookup(table, part)


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


def _check_lookup(table: TableSpec, part: Partition) -> None:
    if part.lookup is None:
        return
    entries, needed = len(part.lookup.buckets), -(-table.vocabulary // part.div)
    if entries < needed:
        raise ValueError(f"table {table.name!r}: a lookup array of {entries} entries serves no {needed} ids")


def _check_slots(table: TableSpec, terms: Sequence[Term]) -> None:
    if not terms:
        raise ValueError(f"table {table.name!r} has no terms: its ids would read nothing")
    covered = np.zeros(max(term.slot + term.width for term in terms), dtype=bool)
    for term in terms:
        covered[term.slot : term.slot + term.width] = True
    if not covered.all():
        raise ValueError(f"table {table.name!r}: no term writes slot {int(np.flatnonzero(~covered)[0])}")
    if len(covered) % table.dim:
        raise ValueError(f"table {table.name!r}: {len(covered)} slots are no whole vectors of dim {table.dim}")


def _check_chunks(table: TableSpec, terms: Sequence[Term], address_map: AddressMap) -> None:
    """`ValueError` where terms that write some slots in common cut each other's rows."""
    for chunk in itertools.chain.from_iterable(table_chains(terms)):
        width = address_map.regions[address_map.region_at(chunk.term.base)].width
        if chunk.offset % width or chunk.width % width:
            raise ValueError(
                f"table {table.name!r}: other terms cut the rows of {width} floats of a term: {chunk.term}"
            )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _named(value: Any) -> Any:
    """A term, or a part of one, as the names and values of the fields that differ from their defaults."""
    if isinstance(value, Lookup):
        return {"entries": len(value.buckets), "digest": value.digest}
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
    return f"{type(value).__name__}({', '.join(f'{name}={_text_0_1(getattr(value, name))}' for name in names)})"


def _tuple_0_1(texts: Sequence[str]) -> str:
    return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"


def join(tables: Sequence[TableSpec], maps: Sequence[AddressMap]) -> AddressMap:
    """One address map over one memory from maps of disjoint tables, columns in the order of `tables`."""
    terms: dict[TableSpec, tuple[Term, ...]] = {}
    base = 0
    for part in maps:
        for table, part_terms in zip(part.tables, part.terms, strict=True):
            terms[table] = tuple(_moved(term, base) for term in part_terms)
        base += part.floats
    regions = tuple(region for part in maps for region in part.regions)
    return AddressMap(tuple(tables), tuple(terms[table] for table in tables), regions)


def _moved(term: Term, by: int) -> Term:
    weight = None if term.weight is None else replace(term.weight, base=term.weight.base + by)
    return replace(term, base=term.base + by, weight=weight)


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
