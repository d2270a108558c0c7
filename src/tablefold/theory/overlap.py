"""The overlap that an address map guarantees: how much of what one id reads another id may read too.

The overlap of an id with another is the share of the floats it reads that the other reads as well. For hashed terms the
bound is that of `tablefold.theory.bounds.Blocks`, for every pair of tables that read the same memory; terms that are
arithmetic can be steered by an adversary, so the worst pair of ids counts.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tablefold.partitions import known_modulus
from tablefold.tables import MAX_ROWS
from tablefold.terms import AddressMap, Range, Term
from tablefold.theory.bounds import log_binomial_tail, log_meetings
from tablefold.theory.ranges import ids_seen

_MANY_SUBSETS = 12
_SLACK = 1 + 1e-12  # against the rounding of eps


@dataclass(frozen=True)
class _Meeting:
    """What two ids may share: `certain` floats by arithmetic, and `trials` hashed pieces of `width` floats by chance.

    Each piece is touched with probability `touch` at most, independently of the others; each id reads `reads` floats.
    """

    log_pairs: float
    reads: int
    certain: int
    trials: int
    width: int
    touch: float

    def log_failure(self, eps: float) -> float:
        """Logarithm of a bound on the probability that some pair overlaps by more than `eps`."""
        room = eps * self.reads * _SLACK - self.certain
        if room < 0:
            return 0.0
        refused = math.floor(room / self.width) + 1 if self.trials else 1
        return self.log_pairs + log_binomial_tail(self.trials, self.touch, refused)

    def possible(self) -> set[float]:
        """The overlaps that can arise."""
        return {min(1.0, (self.certain + count * self.width) / self.reads) for count in range(self.trials + 1)}


def log_failure(address_map: AddressMap, eps: float) -> float:
    """Logarithm of a bound on P(two ids of the group overlap by more than `eps`), over the choice of the hash.

    >>> from tablefold import TableSpec, parse
    >>> tables = [TableSpec("user", rows=10**6, dim=128)]
    >>> log_failure(parse("robe:block=1,floats=100_000").address_map(tables), eps=0.1) < math.log(0.01)
    True
    """
    return _total(_meetings(address_map), eps)


def guaranteed_overlap(address_map: AddressMap, delta: float) -> float:
    """The smallest eps that no two ids of the group exceed, with probability 1 - delta; 1.0 where it is none.

    >>> from tablefold import TableSpec, parse
    >>> guaranteed_overlap(parse("qr").address_map([TableSpec("user", rows=1000, dim=8)]), delta=0.01)
    0.5
    """
    meetings = _meetings(address_map)
    candidates = sorted({0.0, 1.0}.union(*(meeting.possible() for meeting in meetings)))
    low, high = -1, len(candidates) - 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = _total(meetings, candidates[middle]) <= math.log(delta)
        low, high = (low, middle) if fits else (middle, high)
    return candidates[high]


def _total(meetings: Sequence[_Meeting], eps: float) -> float:
    logs = [meeting.log_failure(eps) for meeting in meetings]
    highest = max(logs, default=-math.inf)
    if highest == -math.inf:
        return highest
    return min(0.0, highest + math.log(sum(math.exp(value - highest) for value in logs)))


@dataclass(frozen=True)
class _Shape:
    """Where a term reads, whatever its hash: terms of one shape touch others equally often."""

    base: int
    end: int
    stride: int
    width: int
    neighbours: int
    places: int
    laps: int  # how often the places of a circular region go round

    @classmethod
    def of(cls, term: Term) -> _Shape:
        """The shape of a term."""
        places = term.partition.num_buckets
        laps = -(-term.stride * places // term.wrap) if term.wrap else 1
        return cls(term.base, term.end, term.stride, term.width, term.neighbours, places, laps)

    def touch(self, others: Counter[_Shape]) -> float:
        """A bound on the chance that a hashed term of this shape touches any of the fixed reads of another id."""
        starts = 0
        for other, count in others.items():
            if other.end <= self.base or self.end <= other.base:
                continue
            grid = (other.base, other.stride) == (self.base, self.stride)
            apart = max(other.width, self.width) * self.neighbours <= self.stride
            starts += count * (1 if grid and apart else (self.width + other.width - 2) // self.stride + 1)
        return self.laps * starts / self.places


class _Reader:
    """The ids of a table, or of a range of it, as readers of memory. Projections, which they all read, do not count."""

    def __init__(self, own: Range) -> None:
        stop = MAX_ROWS if own.stop is None else own.stop
        self.rows, self.terms = stop - own.first, own.terms
        self.seen, terms = ids_seen(own, stop), own.terms
        self.reads = sum(term.width for term in terms)
        self.shapes = Counter(map(_Shape.of, terms))
        self.keys = {term.partition.key for term in terms}
        by_hash: dict[object, list[_Shape]] = {}
        for term in terms:  # terms of one hash fall together
            part = term.partition
            if part.key is not None:
                by_hash.setdefault((part.key, part.div, part.num_buckets), []).append(_Shape.of(term))
        self.trials = len(by_hash)
        self.pieces = {tuple(shapes) for shapes in by_hash.values()}
        self.width = max((sum(shape.width for shape in piece) for piece in self.pieces), default=1)

    def meet(self, other: _Reader, log_pairs: float, certain: int) -> _Meeting:
        """Ids of this table, touched by ids of `other`."""
        touch = max((sum(shape.touch(other.shapes) for shape in piece) for piece in self.pieces), default=0.0)
        trials = self.trials if touch else 0
        return _Meeting(log_pairs, min(self.reads, other.reads), certain, trials, self.width, min(1.0, touch))


def _meetings(address_map: AddressMap) -> list[_Meeting]:
    """One for every ordered pair of tables, or ranges of them, each with itself included."""
    readers = [_Reader(own) for ranges in address_map.ranges for own in ranges]
    found = []
    for one, other in itertools.permutations(readers, 2):
        found.append(one.meet(other, math.log(one.rows) + math.log(other.rows), _between(one, other)))
    for one in readers:
        log_pairs = log_meetings(one.rows, max(1, one.trials))
        if log_pairs > -math.inf:
            found.append(one.meet(one, log_pairs, _within(one.terms, one.seen)))
    return found


def _within(terms: Sequence[Term], rows: int | None) -> int:
    """Floats that two ids of one table share in the worst case, chance aside. Its terms count up to `rows` ids; None
    where they do not agree on what an id's number is."""
    steered = [term for term in terms if term.partition.key is None]
    by_chance = [term for term in terms if term.partition.key is not None]
    certain = sum(term.width for term in by_chance if term.partition.div > term.neighbours)
    for index, term in enumerate(terms):
        if term in steered and any(_meet(term, other) for other in (*terms[:index], *terms[index + 1 :])):
            steered.remove(term)
            certain += term.width
    return certain + _worst_agreement(steered, rows)


def _worst_agreement(terms: Sequence[Term], rows: int | None) -> int:
    """The most floats of `terms` in which two different ids can agree: a set of terms that does not name the id."""
    if rows is None or len(terms) > _MANY_SUBSETS:
        return sum(term.width for term in terms)
    worst = 0
    for size in range(1, len(terms) + 1):
        for subset in itertools.combinations(terms, size):
            period, _ = known_modulus([part for term in subset for part in term.partitions], rows)
            if period < rows:
                worst = max(worst, sum(term.width for term in subset))
    return worst


def _between(one: _Reader, other: _Reader) -> int:
    """Floats that ids of two tables share in the worst case, chance aside."""
    return sum(
        term.width
        for term in one.terms
        if (term.partition.key is None or term.partition.key in other.keys)
        and any(_meet(term, foreign) for foreign in other.terms)
    )


def _meet(term: Term, other: Term) -> bool:
    return term.base < other.end and other.base < term.end
