"""Terms: the one formula every index-based method is written in, as data.

    e(x)[slot : slot + width]  (+)=  sign(x) * weight(x) * memory[base + stride * bucket(x) : + width]

A table's embedding is a list of terms; `(+)` is assignment for the first term that writes a slot, and that term's
`combine` (sum or product) for every later one. Signs and weights are 1 but for the few methods that have them.

A group's `AddressMap` holds the terms of all its tables and the regions its memory is made of. It is plain data, equal
wherever it is built: kernels, proofs, byte counts and exports read it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tablefold.hashing import HASH_VERSION
from tablefold.partitions import Lookup, Partition
from tablefold.starts import Start
from tablefold.tables import TableSpec

Combine = Literal["add", "mul"]


@dataclass(frozen=True)
class Region:
    """`rows * width` consecutive floats of memory that start alike."""

    rows: int
    width: int
    start: Start

    @property
    def floats(self) -> int:
        """How many floats the region holds."""
        return self.rows * self.width


@dataclass(frozen=True)
class Weight:
    """A learned number per bucket, `memory[base + stride * bucket(x)]`, that multiplies what a term reads."""

    partition: Partition
    base: int
    stride: int = 1


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
        assert len(self.tables) == len(self.terms)
        for table, terms in zip(self.tables, self.terms, strict=True):
            covered = np.zeros(max(term.slot + term.width for term in terms), dtype=bool)
            for term in terms:
                assert term.base >= 0, f"table {table.name!r}: term reads before the memory: {term}"
                assert term.end <= self.floats, f"table {table.name!r}: term reads beyond the memory: {term}"
                assert not term.signed or term.partition.key is not None, "only hashed partitions have signs"
                covered[term.slot : term.slot + term.width] = True
            assert covered.all(), f"table {table.name!r}: terms leave slots unwritten"
            assert len(covered) % table.dim == 0, f"table {table.name!r}: {len(covered)} slots, dim {table.dim}"

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
    def unit(self) -> int:
        """The largest number of floats that divides every address, stride, width and slot.

        Memory is stored as rows of `unit` floats, so that a gather moves whole rows: `dim` for a full table, 1 where
        blocks may start anywhere.
        """
        numbers = [self.floats]  # weights are read one float at a time, whatever the unit
        for terms in self.terms:
            for term in terms:
                numbers += [term.base, term.width, term.slot, term.wrap]
                if term.partition.num_buckets > 1:
                    numbers.append(term.stride)
        return math.gcd(*numbers)

    @cached_property
    def fingerprint(self) -> int:
        """An int64 that changes whenever some id would read another address: hash version, terms, lookup arrays."""
        text = repr((HASH_VERSION, self.floats, [(table.rows, table.dim) for table in self.tables], self.terms))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)

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

    def add_region(self, rows: int, width: int, start: Start) -> int:
        """Append a region; returns its first float."""
        base = self._floats
        self._regions.append(Region(rows, width, start))
        self._floats += rows * width
        return base

    def add_term(self, table: int, term: Term) -> None:
        """Append a term to the table in column `table`."""
        self._terms[table].append(term)

    def finish(self) -> AddressMap:
        """The finished map."""
        return AddressMap(self._tables, tuple(tuple(terms) for terms in self._terms), tuple(self._regions))
