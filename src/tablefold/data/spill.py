"""Counts of many shards, spilled to disk and merged in bounded memory.

A shard's counts are two files of int64: `counts-N`, [2, distinct keys of all columns], and `ends-N`, where each column
ends in it. Within a column keys ascend, so a range of keys is a slice of every file, and a column that is too
large for memory is merged range by range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tablefold.data.dictionary import Counts, count_keys, merge_counts

_BYTES_PER_KEY = 64
"""Memory that merging takes per key: keys, counts, their order, and copies."""
_SAMPLES = 64
"""Keys sampled per shard to find ranges of about equal size."""


@dataclass(frozen=True)
class Spill:
    """The counts of shard `number` in the folder `work`."""

    work: Path
    number: int

    def write(self, columns: Sequence[NDArray[np.int64]]) -> None:
        """Count the keys of one shard, of each table."""
        counts = count_keys(columns)
        np.cumsum([len(keys) for keys, _ in counts], dtype=np.int64).tofile(self._ends)
        np.hstack([np.stack(pair) for pair in counts]).tofile(self._counts)

    def open(self, column: int) -> NDArray[np.int64]:
        """Keys and counts [2, distinct keys] of one column, memory-mapped."""
        ends = np.fromfile(self._ends, dtype=np.int64)
        if not ends[-1]:
            return np.empty((2, 0), dtype=np.int64)  # an empty file cannot be mapped
        start = int(ends[column - 1]) if column else 0
        counts = np.memmap(self._counts, dtype=np.int64, mode="r", shape=(2, int(ends[-1])))
        return counts[:, start : int(ends[column])]

    @property
    def _ends(self) -> Path:
        return self.work / f"ends-{self.number:06d}"

    @property
    def _counts(self) -> Path:
        return self.work / f"counts-{self.number:06d}"


def merge_spills(spills: Sequence[Spill], column: int, memory: int) -> Iterator[Counts]:
    """The counts of one column over all spills: consecutive ranges of keys, each within about `memory` bytes."""
    counted = [spill.open(column) for spill in spills]
    total = sum(counts.shape[1] for counts in counted)
    bounds = _range_bounds(counted, -(-total * _BYTES_PER_KEY // memory))
    positions = [np.searchsorted(counts[0], bounds).tolist() for counts in counted]
    for place in range(len(bounds) + 1):
        slices = []
        for counts, cuts in zip(counted, positions, strict=True):
            cuts = [0, *cuts, counts.shape[1]]
            piece = counts[:, cuts[place] : cuts[place + 1]]
            slices.append((piece[0], piece[1]))
        yield merge_counts(slices)


def _range_bounds(counted: Sequence[NDArray[np.int64]], ranges: int) -> NDArray[np.int64]:
    """Keys that cut the column into at most `ranges` ranges of about equal size."""
    if ranges <= 1:
        return np.empty(0, dtype=np.int64)
    samples = [counts[0][:: max(1, counts.shape[1] // (_SAMPLES * ranges))] for counts in counted]
    sample = np.sort(np.concatenate(samples))
    return np.unique(sample[np.arange(1, ranges) * len(sample) // ranges])
