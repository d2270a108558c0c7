"""What to expect of an address map, by formula: distinct rows, shared terms, load. Nothing is enumerated or allocated.

Hashed buckets are taken as independent and uniform; arithmetic ones are what they are; lookup arrays are counted, one
by one (how several of them combine follows no formula: None then). Formulas cover all ids of a table, or a random
sample in which each id is with probability `kept`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tablefold.partitions import Partition, known_modulus
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Term
from tablefold.theory.occupancy import expected_distinct, expected_repeats, largest_load

OPEN_ROWS = 1 << 62
"""Ids of an open vocabulary, of which samples are drawn."""


@dataclass(frozen=True)
class Codes:
    """How the codes (the addresses of all terms) of a table's ids arise.

    Args:
        classes: ids in different residues modulo this have different codes, by arithmetic.
        per_class: codes that the ids of one class are hashed to, uniformly.
    """

    classes: int
    per_class: int

    def distinct(self, rows: int, kept: float = 1.0) -> float:
        """Expected number of different codes among `rows` ids: at most this many rows of the table can differ."""
        return self._sum(rows, expected_distinct, kept)

    def repeats(self, rows: int, kept: float = 1.0) -> float:
        """Expected number of ids whose code another id had before, precise where it is far below one."""
        if self.classes >= rows:
            return 0.0
        return self._sum(rows, expected_repeats, kept)

    def pairs(self, rows: int) -> float:
        """Expected number of pairs of ids with one code; a bound on the probability that there is any."""
        size, larger = divmod(rows, self.classes)
        pairs = larger * (size + 1) * size // 2 + (self.classes - larger) * size * (size - 1) // 2
        if pairs == 0:
            return 0.0
        return math.exp(min(math.log(pairs) - math.log(self.per_class), 700.0))

    def _sum(self, rows: int, count: Callable[[int, int, float], float], kept: float) -> float:
        size, larger = divmod(rows, self.classes)
        total = (self.classes - larger) * count(size, self.per_class, kept) if size else 0.0
        return total + (larger * count(size + 1, self.per_class, kept) if larger else 0.0)


def codes_of(terms: Sequence[Term], rows: int) -> Codes | None:
    """How the codes of ids 0 .. rows - 1 arise; None where a lookup array or a hash of a quotient decides."""
    period, _ = known_modulus([part for term in terms for part in _separating(term)], rows)
    if period >= rows:
        return Codes(rows, 1)
    parts = [part for term in terms for part in term.partitions]
    if any(part.lookup is not None for part in parts):
        return None
    if any(term.partition.key is not None and term.partition.div > term.neighbours for term in terms):
        return None
    per_class = math.prod(part.num_buckets for part in parts if part.key is not None)
    return Codes(period, per_class)


def _separating(term: Term) -> list[Partition]:
    """The partitions of a term whose buckets can be told from the address it reads."""
    weight = [] if term.weight is None else [term.weight.partition]
    span = term.width * term.neighbours
    if term.neighbours > 1 and term.stride < span:  # blocks overlap: one address, several (bucket, neighbour)
        return weight
    if term.wrap and term.stride * term.partition.num_buckets > term.wrap:
        return weight
    return [*term.partitions]


def same_address(term: Term, rows: int) -> float:
    """The probability that two different ids, drawn from `rows`, start to read at the same place.

    >>> from tablefold.partitions import remainder
    >>> same_address(Term(remainder(2), base=0, stride=8, width=8), rows=4)
    0.3333333333333333
    """
    partition = term.partition
    if rows < 2:
        return 0.0
    if term.neighbours > 1:
        return 1 / _places(term)
    if partition.key is None:
        return same_bucket(partition, rows)
    together = same_bucket(Partition(rows, div=partition.div), rows)
    return together + (1 - together) / partition.num_buckets


def same_bucket(partition: Partition, rows: int) -> float:
    """The share of all pairs of ids 0 .. rows - 1 that fall together in an arithmetic partition or a lookup."""
    assert partition.key is None
    pairs = sum(count * size * (size - 1) for count, size in bucket_sizes(partition, rows))
    return pairs / (rows * (rows - 1))


def _places(term: Term) -> int:
    """Different addresses at which a term can start to read."""
    if term.wrap:
        return term.wrap // math.gcd(term.stride, term.width, term.wrap)
    span = term.width * term.neighbours
    if term.stride >= span:
        return term.partition.num_buckets * term.neighbours
    return term.partition.num_buckets + (span - term.width) // math.gcd(term.stride, term.width)


def bucket_sizes(partition: Partition, rows: int) -> list[tuple[int, int]]:
    """(how many buckets, ids in each) of an arithmetic partition or a lookup over ids 0 .. rows - 1.

    >>> bucket_sizes(Partition(4), rows=10)
    [(2, 3), (2, 2)]
    """
    div, num_buckets = partition.div, partition.num_buckets
    if partition.edges is not None:
        cuts = np.minimum(partition.edges.firsts, -(-rows // div)).astype(np.int64) * div
        sizes_of = np.diff(np.minimum([0, *cuts.tolist(), rows], rows))
        totals = np.bincount(np.arange(len(sizes_of)) % num_buckets, sizes_of, num_buckets)
        return [(1, int(size)) for size in totals]
    if partition.lookup is not None:
        of_place = np.bincount(partition(np.arange(len(partition.lookup.buckets))), minlength=num_buckets)
        return [(1, int(size)) for size in of_place]
    cycles, rest = divmod(rows, div * num_buckets)
    whole, part = divmod(rest, div)
    sizes = [(whole, (cycles + 1) * div), (1 if part else 0, cycles * div + part)]
    sizes.append((num_buckets - whole - (1 if part else 0), cycles * div))
    return [(count, size) for count, size in sizes if count]


@dataclass(frozen=True)
class Load:
    """How many ids read a weight.

    Args:
        mean: over all weights of the memory.
        largest: of the most read weight.
        unread: share of the weights that no id reads.
    """

    mean: float
    largest: float
    unread: float


@dataclass(frozen=True)
class _Stream:
    """Reads of one term: `reads` of `width` floats each, spread over memory from `begin` to `end`.

    Places lie `step` floats apart. Where arithmetic or a lookup deals the ids out, `fullest` of all ids meet in one
    place, and the sample `kept` of them is thinned; where a hash does, fullest is None.
    """

    begin: int
    end: int
    width: int
    step: int
    reads: float
    fullest: int | None
    kept: float

    @property
    def density(self) -> float:
        """Mean reads of a weight."""
        return self.reads * self.width / (self.end - self.begin)

    @property
    def log_unread(self) -> float:
        """Logarithm of the share of weights left unread."""
        if self.fullest is None:
            return -self.density
        if self.kept == 1.0:
            return math.log1p(-self.density) if self.density < 1 else -math.inf
        return self.density / self.kept * math.log1p(-self.kept)


def expected_load(address_map: AddressMap, ids: Sequence[float], kept: Sequence[float] | None = None) -> Load:
    """The load of memory's weights when `ids[t]` ids of table t are each looked up once.

    Hashed reads fall on a weight like Poisson arrivals; the weights within a block of either end of a region see a
    little less than its mean, which is neglected.

    Args:
        address_map: of the group.
        ids: for each table how many ids are looked up.
        kept: for each table the share of its ids that this is; all by default.
    """
    kept = [1.0] * len(ids) if kept is None else kept
    streams = [
        stream
        for table, terms, count, share in zip(address_map.tables, address_map.terms, ids, kept, strict=True)
        for term in terms
        for stream in _streams(term, count * share_of(term, table), share)
    ]
    borders = sorted({0, address_map.floats, *(s.begin for s in streams), *(s.end for s in streams)})
    reads, largest, unread = 0.0, 0.0, 0.0
    for begin, end in itertools.pairwise(borders):
        here = [stream for stream in streams if stream.begin <= begin and stream.end >= end]
        reads += sum(stream.density for stream in here) * (end - begin)
        largest = max(largest, _largest(here, end - begin))
        unread += math.exp(sum(stream.log_unread for stream in here)) * (end - begin)
    return Load(reads / address_map.floats, largest, unread / address_map.floats)


def _largest(streams: Sequence[_Stream], floats: int) -> float:
    """The largest load in a stretch of `floats` weights that all of `streams` cover."""
    dealt = [stream for stream in streams if stream.fullest is not None]
    limit = math.inf if len(dealt) < len(streams) else sum(stream.fullest or 0 for stream in dealt)
    exact = sum(stream.fullest or 0 for stream in dealt if stream.kept == 1.0)
    by_chance = [stream for stream in streams if stream.fullest is None or stream.kept < 1.0]
    step = min((stream.step for stream in by_chance), default=1)
    peak = largest_load(sum(stream.density for stream in by_chance), max(1.0, floats / step))
    return min(limit, exact + peak)


def _streams(term: Term, ids: float, kept: float) -> list[_Stream]:
    span = term.width * term.neighbours
    fullest = None
    if term.partition.key is None and kept:
        sizes = bucket_sizes(term.partition, round(ids / kept))
        fullest = math.ceil(max(size for _, size in sizes) / term.neighbours) if sizes else 0
    streams = [_Stream(term.base, term.end, term.width, min(term.stride, span), ids, fullest, kept)]
    if (weight := term.weight) is not None:
        end = weight.base + weight.stride * (weight.partition.num_buckets - 1) + 1
        streams.append(_Stream(weight.base, end, 1, 1, ids, None, kept))
    if (projection := term.projection) is not None:  # which every id reads whole
        floats = term.width * projection.width
        everyone = round(ids / kept) if kept else 0
        streams.append(_Stream(projection.base, projection.base + floats, floats, floats, ids, everyone, kept))
    return streams


def share_of(term: Term, table: TableSpec) -> float:
    """Of a table's ids, the share that reads a term."""
    if term.first == 0 and term.stop is None:
        return 1.0
    rows = OPEN_ROWS if table.rows is None else table.rows
    return ((rows if term.stop is None else term.stop) - term.first) / rows


def table_bytes(address_map: AddressMap, column: int) -> tuple[int, bool]:
    """(bytes of memory and lookup arrays that the table's ids can read, whether other tables read that memory too)."""
    own = _spans(address_map.terms[column])
    others = [terms for index, terms in enumerate(address_map.terms) if index != column]
    foreign = [span for terms in others for span in _spans(terms)]
    shared = any(begin < end2 and begin2 < end for begin, end in own for begin2, end2 in foreign)
    num_bytes = 0
    for region, base in zip(address_map.regions, address_map.bases, strict=True):
        spans = ((max(begin, base), min(end, base + region.floats)) for begin, end in own)
        num_bytes += region.format.num_bytes(sum(end - begin for begin, end in spans if begin < end))
    parts = {part.lookup for term in address_map.terms[column] for part in term.partitions if part.lookup is not None}
    return num_bytes + sum(lookup.buckets.nbytes for lookup in parts), shared


def _spans(terms: Sequence[Term]) -> list[tuple[int, int]]:
    """The stretches of memory that terms can read, merged."""
    spans = {(term.base, term.end) for term in terms}
    for weight in (term.weight for term in terms):
        if weight is not None:
            last = weight.base + weight.stride * (weight.partition.num_buckets - 1)
            spans.add((weight.base, last + 1))
    for term in terms:
        if (projection := term.projection) is not None:
            spans.add((projection.base, projection.base + term.width * projection.width))
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
