"""What an address map does, measured: a sample of ids is hashed, and all pairs in it are compared by sorting.

A table of 10^12 ids costs no more than its sample; memory itself is never allocated. A figure of a sample belongs
beside the formula's figure for that sample: `tablefold.theory.expected`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tablefold.hashing import derive_key, hash_id_numpy
from tablefold.terms import AddressMap, Term
from tablefold.theory.expected import OPEN_ROWS, Load

Codes = NDArray[np.int64]
Ids = NDArray[np.int64]


def sample_ids(rows: int | None, size: int, seed: int = 0) -> Ids:
    """All ids of a table with at most `size` rows, else `size` different ones drawn at random, in order.

    Of an open vocabulary (rows=None), from 0 .. 2^62 - 1.
    """
    rows = OPEN_ROWS if rows is None else rows
    if rows <= size:
        return np.arange(rows, dtype=np.int64)
    rng = np.random.default_rng(seed)
    if rows <= 16 * size:
        return np.sort(rng.choice(rows, size, replace=False))
    ids = np.unique(rng.integers(rows, size=size + size // 8 + 16))  # some repeat; far fewer than the surplus
    return np.sort(rng.choice(ids, size, replace=False))


@dataclass(frozen=True)
class Sharing:
    """What the ids of a sample share.

    Args:
        ids: of the sample.
        distinct: different codes among them. (Codes are compared by 64-bit hashes: of 10^6 ids, two different codes
            look equal with probability 3e-8.)
        terms_per_pair: terms that start to read at the same place, averaged over all pairs.
        first_pairs: pairs that share the first term.
        second_pairs: those of them that share the second term too; None with one term.
    """

    ids: int
    distinct: int
    terms_per_pair: float
    first_pairs: int
    second_pairs: int | None

    @property
    def second_given_first(self) -> float | None:
        """P(term 1 shared | term 0 shared); None where no pair shares term 0, or there is one term."""
        if not self.first_pairs or self.second_pairs is None:
            return None
        return self.second_pairs / self.first_pairs


def measure_sharing(codes: Codes, terms: int | None = None) -> Sharing:
    """Compare all pairs of rows of `codes`, `[ids, columns]`: what `AddressMap.codes` returns.

    The first `terms` columns (all by default) are those of terms; learned weights, which come last, count for what is
    distinct and are no shared terms; nor are terms that neither id reads, -1.

    >>> measure_sharing(np.array([[0, 1], [0, 1], [0, 2], [5, 6]]))
    Sharing(ids=4, distinct=3, terms_per_pair=0.6666666666666666, first_pairs=3, second_pairs=1)
    """
    ids, columns = codes.shape
    terms = columns if terms is None else terms
    pairs = ids * (ids - 1) // 2
    read = codes >= 0
    shared = [equal_pairs(codes[read[:, term], term]) for term in range(terms)]
    both = equal_pairs(_fingerprint(codes[read[:, 0] & read[:, 1], :2])) if terms > 1 else None
    distinct = len(np.unique(_fingerprint(codes)))
    return Sharing(ids, distinct, sum(shared) / pairs if pairs else 0.0, shared[0], both)


def equal_pairs(values: NDArray[np.int64]) -> int:
    """How many pairs of entries are equal."""
    counts = np.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _fingerprint(codes: Codes) -> NDArray[np.int64]:
    """A 64-bit hash of every row."""
    word = np.zeros(len(codes), dtype=np.int64)
    for term in range(codes.shape[1]):
        word = hash_id_numpy(word ^ codes[:, term], derive_key(0, term))
    return word


def measure_load(address_map: AddressMap, ids: Sequence[Ids]) -> Load:
    """The load of memory's weights when the ids of each table are looked up once.

    Args:
        address_map: of the group.
        ids: for each table the ids that are looked up.
    """
    stretches = [
        stretch
        for terms, looked_up in zip(address_map.terms, ids, strict=True)
        for term in terms
        for stretch in _stretches(term, looked_up)
    ]
    begins = np.sort(np.concatenate([begin for begin, _ in stretches]))
    ends = np.sort(np.concatenate([end for _, end in stretches]))
    reads = int((ends.sum() if len(ends) else 0) - (begins.sum() if len(begins) else 0))
    if not len(begins):
        return Load(0.0, 0, 1.0)
    places = np.unique(np.concatenate([begins, ends]))  # the load is constant between two of them
    load = np.searchsorted(begins, places, side="right") - np.searchsorted(ends, places, side="right")
    widths = np.diff(places)
    covered = int(widths[load[:-1] > 0].sum())
    floats = address_map.floats
    return Load(reads / floats, int(load.max()), (floats - covered) / floats)


def _stretches(term: Term, ids: Ids) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(begins, ends) of what ids read of a term's memory; two pieces where it wraps."""
    ids = ids[term.reads(ids)]
    begin = term.address(ids)
    end = begin + term.width
    found = []
    if term.wrap:
        limit = term.base + term.wrap
        over = end > limit
        found.append((np.full(int(over.sum()), term.base), term.base + end[over] - limit))
        end = np.minimum(end, limit)
    found.append((begin, end))
    if term.weight is not None:
        place = term.weight_address(ids)
        found.append((place, place + 1))
    if (projection := term.projection) is not None:
        place = np.full(len(ids), projection.base)
        found.append((place, place + term.width * projection.width))
    return found
