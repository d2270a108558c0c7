"""What tells the ids of a table apart where different terms read them: each range by itself, and any two of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tablefold.tables import TableSpec
from tablefold.terms import Range, Term, table_ranges
from tablefold.theory.expected import Codes, codes_of


@dataclass(frozen=True)
class TableCodes:
    """How the codes of a table's ids arise: (ids, codes) of each range, where no two of them have codes in common."""

    ranges: tuple[tuple[int, Codes], ...]

    @property
    def is_proved(self) -> bool:
        """Whether arithmetic tells all ids apart."""
        return all(codes.classes >= ids for ids, codes in self.ranges)

    def distinct(self, kept: float = 1.0) -> float:
        """Expected number of different codes, of a random sample in which every id is with probability `kept`."""
        return sum(codes.distinct(ids, kept) for ids, codes in self.ranges)

    def repeats(self) -> float:
        """Expected number of ids whose code another id had before, precise where it is far below one."""
        return sum(codes.repeats(ids) for ids, codes in self.ranges)

    def pairs(self) -> float:
        """Expected number of pairs of ids with one code."""
        return sum(codes.pairs(ids) for ids, codes in self.ranges)


def table_codes(table: TableSpec, terms: Sequence[Term], rows: int) -> TableCodes | None:
    """How the codes of ids 0 .. rows - 1 of a table arise; None where that follows no formula (see `codes_of`), or ids
    of two ranges may read the same."""
    ranges = table_ranges(table, terms)
    if not all(are_apart(*both) for both in itertools.combinations(ranges, 2)):
        return None
    found = []
    for each in ranges:
        stop = rows if each.stop is None else min(each.stop, rows)
        codes = codes_of(each.terms, seen) if (seen := ids_seen(each, stop)) else None
        if codes is None:
            return None
        found.append((stop - each.first, codes))
    return TableCodes(tuple(found))


def ids_seen(own: Range, stop: int) -> int | None:
    """How far the terms of a range count to its end; None where they count from different ids and have quotients, which
    then do not fall together."""
    firsts = {term.first for term in own.terms}
    if len(firsts) > 1 and any(part.div > 1 for term in own.terms for part in term.partitions):
        return None
    return stop - min(firsts)


def are_apart(one: Range, other: Range) -> bool:
    """Whether no id of one range reads all that an id of the other reads: it has a term of which the other has nothing.

    Rows that are projected by different matrices, or fill different slots, are different to a model.
    """
    return _has_own(one, other) or _has_own(other, one)


def _has_own(one: Range, other: Range) -> bool:
    return any(not any(_may_agree(term, foreign) for foreign in other.terms) for term in one.terms)


def _may_agree(term: Term, other: Term) -> bool:
    alike = (term.slot, term.out, term.projection) == (other.slot, other.out, other.projection)
    return alike and term.base < other.end and other.base < term.end


def merged_codes(terms: Sequence[Term], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The codes of ids, `[ids, columns]` (`AddressMap.codes`), with terms that no id reads together in one column where
    they would read alike: ids of two ranges that read the same then have equal codes."""
    columns: list[list[int]] = []
    for number, term in enumerate(terms):
        fitting = [own for own in columns if all(_follows(terms[each], term) for each in own)]
        if fitting:
            fitting[0].append(number)
        else:
            columns.append([number])
    weights = [codes[:, [number]] for number in range(len(terms), codes.shape[1])]
    return np.concatenate([codes[:, own].max(axis=1, keepdims=True) for own in columns] + weights, axis=1)


def _follows(term: Term, other: Term) -> bool:
    """Whether two terms that read other ids do the same with what they read."""
    one, two = ((each.slot, each.width, each.combine, each.weight, each.projection) for each in (term, other))
    before, after = (a.stop is not None and a.stop <= b.first for a, b in ((term, other), (other, term)))
    return one == two and (before or after)
