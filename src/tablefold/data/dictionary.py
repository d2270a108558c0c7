"""From the values of a column to ids: count, rank by (-count, value), look up.

Keys are int64 (`lines.MISSING` is no key). Id 0 is a missing value, id 1 a value that training has not shown often
enough, and the values kept follow, the most frequent first, ties in the order of their keys. The look-up is an
open-addressing hash table in a file, so that every process of a machine shares one copy and the operating system, not
the job, decides how much of it is in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tablefold.compilation import compiled
from tablefold.data.lines import MISSING
from tablefold.data.schema import MISSING_ID, RESERVED_IDS, UNSEEN_ID

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Distinct keys, ascending, and how often each occurs."""

_EMPTY = -1
_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as int64: Fibonacci hashing


def count_keys(columns: Sequence[NDArray[np.int64]]) -> list[Counts]:
    """Of every column, the distinct keys and how often each occurs; missing ones are left out."""
    rows = max(map(len, columns))
    cells = np.zeros(
        (1 << max(1, (2 * rows - 1).bit_length()), 2), dtype=np.int64
    )  # (key, count), empty again after use
    taken = np.empty(rows, dtype=np.int64)
    counted = []
    for keys in columns:
        used = taken[: _count(keys, cells, taken)]
        distinct, counts = cells[used].T
        cells[used, 1] = 0
        order = np.argsort(distinct)
        counted.append((distinct[order], counts[order]))
    return counted


def merge_counts(counted: list[Counts]) -> Counts:
    """Add up counts."""
    keys = np.concatenate([keys for keys, _ in counted])
    counts = np.concatenate([counts for _, counts in counted])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    first = np.flatnonzero(np.diff(keys, prepend=MISSING))
    if not first.size:
        return keys, counts
    return keys[first], np.add.reduceat(counts, first)


class Ranking:
    """Ids of keys by (-count, key), for keys that come range by range, without ever sorting them all.

    A first look at the counts tells how many keys have each count, so where the ids of each count begin; in a second
    one, in ascending order of the keys, every key takes the next id of its count.

    Args:
        counts: the counts of all keys, range by range.
        min_count: keys with a smaller count get no id.
    """

    def __init__(self, counts: Iterable[NDArray[np.int64]], min_count: int) -> None:
        having: dict[int, int] = {}
        for piece in counts:
            for count, number in zip(*(array.tolist() for array in np.unique(piece, return_counts=True)), strict=True):
                if count >= min_count:
                    having[count] = having.get(count, 0) + number
        self._min_count = min_count
        self._next: dict[int, int] = {}
        self.size = 0
        for count in sorted(having, reverse=True):
            self._next[count] = RESERVED_IDS + self.size
            self.size += having[count]

    def take(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Keys, counts and ids of those keys of the next range that get one."""
        kept = counts >= self._min_count
        keys, counts = keys[kept], counts[kept]
        order = np.argsort(counts, kind="stable")
        keys, counts = keys[order], counts[order]
        distinct, first, number = np.unique(counts, return_index=True, return_counts=True)
        start = np.array([self._next[count] for count in distinct.tolist()], dtype=np.int64)
        ids = np.repeat(start - first, number) + np.arange(len(keys))
        self._next |= dict(zip(distinct.tolist(), (start + number).tolist(), strict=True))
        return keys, counts, ids


def create_array(path: Path, shape: tuple[int, int]) -> NDArray[np.int64]:
    """A new file of int64, memory-mapped; its space is reserved now: a full disk could not be reported later."""
    array = np.memmap(path, dtype=np.int64, mode="w+", shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, array.nbytes)
    return array


def create_lookup(path: Path | None, size: int) -> NDArray[np.int64]:
    """A new, empty hash table for `size` keys, in a file or in memory: (key, id) cells, at most half to be taken."""
    shape = (1 << max(1, (2 * size - 1).bit_length()), 2)
    cells = np.empty(shape, dtype=np.int64) if path is None else create_array(path, shape)
    cells[:] = _EMPTY
    return cells


def open_lookup(path: Path) -> NDArray[np.int64]:
    """Memory-map a hash table."""
    return np.asarray(np.memmap(path, dtype=np.int64, mode="r").reshape(-1, 2)).view(np.ndarray)


def encode(keys: NDArray[np.int64], lookups: Sequence[Path | NDArray[np.int64]]) -> NDArray[np.int32]:
    """Ids [rows, columns] of keys [columns, rows], by the hash table of each column, or the file that holds it."""
    ids = np.empty(keys.shape[::-1], dtype=np.int32)
    for table, lookup in enumerate(lookups):
        look_up(open_lookup(lookup) if isinstance(lookup, Path) else lookup, keys[table], ids[:, table])
    return ids


def encode_hashed(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids [rows, tables] of keys [tables, rows], without dictionaries."""
    ids = np.empty(keys.shape[::-1], dtype=np.int64)
    for table in range(len(keys)):
        hash_ids(keys[table], ids[:, table])
    return ids


@compiled
def insert(cells: NDArray[np.int64], keys: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
    """Add distinct `keys` and their `ids` to a hash table."""
    mask = len(cells) - 1
    for number in range(len(keys)):
        at = scramble(keys[number]) & mask
        while cells[at, 1] != _EMPTY:
            at = (at + 1) & mask
        cells[at, 0] = keys[number]
        cells[at, 1] = ids[number]


@compiled
def look_up(cells: NDArray[np.int64], keys: NDArray[np.int64], ids: NDArray[np.int32]) -> None:
    """Write the ids of one column's `keys` into `ids` (a column of the row-major matrix)."""
    mask = len(cells) - 1
    for row in range(len(keys)):
        key = keys[row]
        if key == MISSING:
            ids[row] = MISSING_ID
            continue
        at = scramble(key) & mask
        while cells[at, 1] != _EMPTY and cells[at, 0] != key:
            at = (at + 1) & mask
        ids[row] = UNSEEN_ID if cells[at, 1] == _EMPTY else cells[at, 1]


@compiled
def _count(keys: NDArray[np.int64], cells: NDArray[np.int64], taken: NDArray[np.int64]) -> int:
    """Count `keys` in an empty hash table of (key, count); writes which cells are used, and returns how many."""
    mask, used = len(cells) - 1, 0
    for key in keys:
        if key == MISSING:
            continue
        at = scramble(key) & mask
        while cells[at, 1] != 0 and cells[at, 0] != key:
            at = (at + 1) & mask
        if cells[at, 1] == 0:
            cells[at, 0] = key
            taken[used] = at
            used += 1
        cells[at, 1] += 1
    return used


@compiled
def hash_ids(keys: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
    """Write ids that need no dictionary: a bijection of the keys, spread over all of int64."""
    for row in range(len(keys)):
        ids[row] = scramble(keys[row])


@compiled
def scramble(key: int) -> int:
    """A bijection of int64 whose low bits depend on all bits of the key; products wrap at 64 bits."""
    word = key * _MULTIPLIER
    word ^= word >> 32 & 0xFFFFFFFF
    word *= _MULTIPLIER
    return word ^ (word >> 29 & 0x7FFFFFFFF)
