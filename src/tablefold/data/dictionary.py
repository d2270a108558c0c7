"""From the values of a column to ids: count, rank by (-count, value), look up.

Keys are int64 (`lines.MISSING` is no key). Counts are taken per shard, merged per table, and ranked: id 0 is a missing
value, id 1 a value that training has not shown often enough, and the values kept follow, the most frequent first, ties
in the order of their keys. The look-up is an open-addressing hash table in a file, so that every process of a machine
shares one copy and the operating system, not the job, decides how much of it is in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tablefold.data.compiled import compiled
from tablefold.data.lines import MISSING
from tablefold.data.schema import MISSING_ID, RESERVED_IDS, UNSEEN_ID

_EMPTY = -1
_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as int64: Fibonacci hashing


def count_keys(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct keys of one column, ascending, and how often each occurs; missing ones are left out."""
    distinct, counts = np.unique(keys, return_counts=True)
    first = 1 if distinct.size and distinct[0] == MISSING else 0  # the smallest int64
    return distinct[first:], counts[first:]


def merge_counts(
    counted: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Add up the counts of several shards; distinct keys ascending."""
    keys = np.concatenate([keys for keys, _ in counted])
    counts = np.concatenate([counts for _, counts in counted])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=MISSING))
    if not first.size:
        return keys, counts
    return keys[first], np.add.reduceat(counts, first)


def rank_keys(
    keys: NDArray[np.int64], counts: NDArray[np.int64], min_count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys that own an id, in id order, and their counts."""
    kept = counts >= min_count
    keys, counts = keys[kept], counts[kept]
    order = np.argsort(-counts, kind="stable")  # keys are ascending: ties stay in their order
    return keys[order], counts[order]


def write_lookup(path: Path, keys: NDArray[np.int64]) -> None:
    """Write the hash table of ranked `keys` as an array file of (key, id) slots, at most half of them taken."""
    slots = np.full((1 << max(1, (2 * len(keys) - 1).bit_length()), 2), _EMPTY, dtype=np.int64)
    _insert(slots, keys)
    np.save(path, slots)


def open_lookup(path: Path) -> NDArray[np.int64]:
    """Memory-map a hash table."""
    slots: NDArray[np.int64] = np.load(path, mmap_mode="r")
    return slots


def encode(slots: NDArray[np.int64], keys: NDArray[np.int64], ids: NDArray[np.int32]) -> None:
    """Write the ids of one column's `keys` into `ids` (a column of the row-major matrix)."""
    _look_up(slots, keys, ids)


@compiled
def _slot(key: int, mask: int) -> int:
    word = key * _MULTIPLIER  # wraps at 64 bits
    return (word ^ (word >> 32)) & mask


@compiled
def _insert(slots: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
    mask = len(slots) - 1
    for number in range(len(keys)):
        at = _slot(keys[number], mask)
        while slots[at, 1] != _EMPTY:
            at = (at + 1) & mask
        slots[at, 0] = keys[number]
        slots[at, 1] = RESERVED_IDS + number


@compiled
def _look_up(slots: NDArray[np.int64], keys: NDArray[np.int64], ids: NDArray[np.int32]) -> None:
    mask = len(slots) - 1
    for row in range(len(keys)):
        key = keys[row]
        if key == MISSING:
            ids[row] = MISSING_ID
            continue
        at = _slot(key, mask)
        while slots[at, 1] != _EMPTY and slots[at, 0] != key:
            at = (at + 1) & mask
        ids[row] = UNSEEN_ID if slots[at, 1] == _EMPTY else slots[at, 1]
