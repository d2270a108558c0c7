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
from tablefold.terms import AddressMap, Term
from tablefold.theory.bounds import log_binomial_tail, log_meetings

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
    highest = max(logs)
    if highest == -math.inf:
        return highest
    return min(0.0, highest + math.log(sum(math.exp(value - highest) for value in logs)))


def _meetings(address_map: AddressMap) -> list[_Meeting]:
    """One for every pair of tables, each with itself included."""
    found = Counter[_Meeting]()
    both = zip(address_map.tables, address_map.terms, strict=True)
    described = [(MAX_ROWS if table.rows is None else table.rows, terms) for table, terms in both]
    for (rows, terms), (other_rows, other_terms) in itertools.permutations(described, 2):
        found[_meeting(math.log(rows) + math.log(other_rows), terms, other_terms, _between(terms, other_terms))] += 1
    for rows, terms in described:
        log_pairs = log_meetings(rows, max(1, sum(term.partition.key is not None for term in terms)))
        if log_pairs > -math.inf:
            found[_meeting(log_pairs, terms, terms, _within(terms, rows))] += 1
    weighted = [_repeated(meeting, count) for meeting, count in found.items()]
    return weighted or [_Meeting(0.0, 1, 0, 0, 1, 0.0)]


def _repeated(meeting: _Meeting, count: int) -> _Meeting:
    rest = (meeting.reads, meeting.certain, meeting.trials, meeting.width, meeting.touch)
    return _Meeting(meeting.log_pairs + math.log(count), *rest)


def _meeting(log_pairs: float, terms: Sequence[Term], others: Sequence[Term], certain: int) -> _Meeting:
    """Ids that read `terms`, touched by ids that read `others`."""
    pieces: dict[object, list[Term]] = {}
    for term in terms:
        if term.partition.key is not None:
            part = term.partition
            pieces.setdefault((part.key, part.div, part.num_buckets), []).append(term)
    shapes = Counter(_shape(term) for term in others)
    touch = max((sum(_touch(term, shapes) for term in piece) for piece in pieces.values()), default=0.0)
    width = max((sum(term.width for term in piece) for piece in pieces.values()), default=1)
    reads = min(sum(term.width for term in terms), sum(term.width for term in others))
    return _Meeting(log_pairs, reads, certain, len(pieces) if touch else 0, width, min(1.0, touch))


def _shape(term: Term) -> tuple[int, int, int, int]:
    return term.base, term.end, term.stride, term.width


def _touch(term: Term, shapes: Counter[tuple[int, int, int, int]]) -> float:
    """A bound on the chance that a hashed term touches any of the fixed reads of another id."""
    laps = 1
    if term.wrap:
        laps = -(-term.stride * term.partition.num_buckets // term.wrap)
    places = 0
    for (base, end, stride, width), count in shapes.items():
        if end <= term.base or term.end <= base:
            continue
        grid = (base, stride) == (term.base, term.stride) and max(width, term.width) * term.neighbours <= stride
        places += count * (1 if grid else (term.width + width - 2) // term.stride + 1)
    return laps * places / term.partition.num_buckets


def _within(terms: Sequence[Term], rows: int) -> int:
    """Floats that two ids of one table share in the worst case, chance aside."""
    steered = [term for term in terms if term.partition.key is None]
    by_chance = [term for term in terms if term.partition.key is not None]
    certain = sum(term.width for term in by_chance if term.partition.div > term.neighbours)
    for index, term in enumerate(terms):
        if term in steered and any(_meet(term, other) for other in (*terms[:index], *terms[index + 1 :])):
            steered.remove(term)
            certain += term.width
    return certain + _worst_agreement(steered, rows)


def _worst_agreement(terms: Sequence[Term], rows: int) -> int:
    """The most floats of `terms` in which two different ids can agree: a set of terms that does not name the id."""
    if len(terms) > _MANY_SUBSETS:
        return sum(term.width for term in terms)
    worst = 0
    for size in range(1, len(terms) + 1):
        for subset in itertools.combinations(terms, size):
            period, _ = known_modulus([part for term in subset for part in term.partitions], rows)
            if period < rows:
                worst = max(worst, sum(term.width for term in subset))
    return worst


def _between(terms: Sequence[Term], others: Sequence[Term]) -> int:
    """Floats that ids of two tables share in the worst case, chance aside."""
    keys = {other.partition.key for other in others}
    return sum(
        term.width
        for term in terms
        if any(_meet(term, other) for other in others) and (term.partition.key is None or term.partition.key in keys)
    )


def _meet(term: Term, other: Term) -> bool:
    return term.base < other.end and other.base < term.end
