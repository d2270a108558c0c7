"""From a value's key to its id in 11.5 to 12 bytes a value: what scoring raw values keeps of a dictionary.

A key of 64 bits is scrambled by a bijection, so that keys are spread evenly. The first bits number a bucket of 4 to 8
keys; the other 56 bits of every key are kept, bucket by bucket, and its id: nothing of a key is lost, and a look-up
reads three or four lines of memory. A file of it is mapped into memory as it is, once for all processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tablefold.compilation import compiled
from tablefold.data.dictionary import scramble
from tablefold.data.lines import MISSING
from tablefold.files import new_file

_LEAST_BITS = 8
"""The bits of a bucket's number and of what is kept beside it are 64."""
_LOW_BITS, _HIGH_BITS = 32, 24
_KEY_BYTES, _ID_BYTES = 7, 4
_TOGETHER = 64
"""Keys that are looked up side by side."""
_VALUES_BITS = 2
"""A bucket holds 2^2 values at least, on average."""


class ValueIndex:
    """The ids of a table's values.

    Args:
        starts: uint32 [buckets + 1]: where each bucket begins, and the last one ends.
        low: uint32 [values]: the last bits of each key.
        ids: int32 [values].
        high: uint8 [3 * values]: the 24 bits before those of `low`.
    """

    def __init__(
        self, starts: NDArray[np.uint32], low: NDArray[np.uint32], ids: NDArray[np.int32], high: NDArray[np.uint8]
    ) -> None:
        self._arrays = (starts, low, ids, high)
        for array in self._arrays:
            array.flags.writeable = False  # as of what is mapped: one type for the compiler

    @classmethod
    def build(cls, pieces: Iterable[NDArray[np.int64]], size: int, first: int) -> ValueIndex:
        """Of `size` keys, piece by piece in the order of their ids, which count from `first`.

        Raises:
            RepeatedKeyError: where a key comes twice.

        >>> index = ValueIndex.build([np.array([7, 9]), np.array([-5])], size=3, first=2)
        >>> index.look_up(np.array([9, 8, -5]), unseen=1).tolist()
        [3, 1, 4]
        """
        signed = np.empty(size, dtype=np.int64)
        at = 0
        for piece in pieces:
            signed[at : at + len(piece)] = piece
            at += len(piece)
        _scramble_all(signed)
        keys = signed.view(np.uint64)
        order = np.argsort(keys)
        keys = keys[order]
        repeated = np.flatnonzero(keys[1:] == keys[:-1])
        if len(repeated):
            raise RepeatedKeyError(*sorted(order[repeated[0] : repeated[0] + 2].tolist()))
        bits = _bucket_bits(size)
        edges = np.arange((1 << bits) + 1, dtype=np.uint64)[:-1] << np.uint64(64 - bits)
        starts = np.append(np.searchsorted(keys, edges), size).astype(np.uint32)
        low = keys.astype(np.uint32)  # the last bits
        high = (keys >> np.uint64(_LOW_BITS)).astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
        return cls(starts, low, (order + first).astype(np.int32), np.ascontiguousarray(high).reshape(-1))

    @classmethod
    def open(cls, path: Path, size: int) -> ValueIndex:
        """Map the file of `size` values that `save` wrote.

        Raises:
            ValueError: for a file that is missing or holds another number of values.
        """
        expected = index_bytes(size)
        starts = expected - size * (_KEY_BYTES + _ID_BYTES)
        try:
            content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r")).view(np.ndarray)
        except (OSError, ValueError) as error:  # of an empty file
            raise ValueError(f"{path} is missing or damaged ({error}); restore it") from error
        if len(content) != expected:
            raise ValueError(f"{path} is damaged (it holds {len(content):,} bytes, not {expected:,}); restore it")
        first, low, ids, high = np.split(content, [starts, starts + 4 * size, starts + 8 * size])
        return cls(first.view(np.uint32), low.view(np.uint32), ids.view(np.int32), high)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        with new_file(path) as file, file.open("wb") as stream:
            for array in self._arrays:
                stream.write(array.data)

    @property
    def num_bytes(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for array in self._arrays)

    def look_up(self, keys: NDArray[np.int64], unseen: int, missing: int | None = None) -> NDArray[np.int32]:
        """The ids of keys; `unseen` for keys that it lacks, `missing` for `lines.MISSING`, which is a key if None."""
        ids = np.empty(len(keys), dtype=np.int32)
        self.look_up_into(ids, keys, unseen, missing)
        return ids

    def look_up_into(
        self, ids: NDArray[np.int32], keys: NDArray[np.int64], unseen: int, missing: int | None = None
    ) -> None:
        """`look_up` into an array, which may be a column of a matrix."""
        _look_up(*self._arrays, keys, ids, unseen, missing is None, missing or 0)


class RepeatedKeyError(ValueError):
    """A key came twice: `places`, in the order of the ids."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"the keys {first:,} and {second:,} are equal")
        self.places = (first, second)


def index_bytes(size: int) -> int:
    """Bytes of the index of `size` values.

    >>> index_bytes(10_131_225) / 10_131_225 < 12
    True
    """
    return 4 * ((1 << _bucket_bits(size)) + 1) + size * (_KEY_BYTES + _ID_BYTES)


def _bucket_bits(size: int) -> int:
    return max(_LEAST_BITS, size.bit_length() - 1 - _VALUES_BITS)


@compiled
def _scramble_all(keys: NDArray[np.int64]) -> None:
    for number in range(len(keys)):
        keys[number] = scramble(keys[number])


@compiled
def _look_up(
    starts: NDArray[np.uint32],
    low: NDArray[np.uint32],
    known: NDArray[np.int32],
    high: NDArray[np.uint8],
    keys: NDArray[np.int64],
    ids: NDArray[np.int32],
    unseen: int,
    missing_is_key: bool,
    missing: int,
) -> None:
    shift, buckets = 64, len(starts) - 1
    while buckets > 1:
        buckets, shift = buckets >> 1, shift - 1
    wanted, begins, ends = np.empty(_TOGETHER, np.uint64), np.empty(_TOGETHER, np.int64), np.empty(_TOGETHER, np.int64)
    places = np.empty(_TOGETHER, np.int64)
    for first in range(0, len(keys), _TOGETHER):  # step by step, so that the processor waits for many reads at once
        count = min(_TOGETHER, len(keys) - first)
        for lane in range(count):
            wanted[lane] = scramble(keys[first + lane])
            bucket = np.int64(wanted[lane] >> np.uint64(shift))
            begins[lane], ends[lane] = starts[bucket], starts[bucket + 1]
        for lane in range(count):
            places[lane] = _find(low, begins[lane], ends[lane], np.uint32(wanted[lane]))
        for lane in range(count):
            ids[first + lane] = unseen
            more_bits = np.int64(wanted[lane] >> np.uint64(_LOW_BITS)) & 0xFFFFFF
            at = places[lane]
            while at < ends[lane]:
                kept = np.int64(high[3 * at]) | np.int64(high[3 * at + 1]) << 8 | np.int64(high[3 * at + 2]) << 16
                if kept == more_bits:
                    ids[first + lane] = known[at]
                    break
                at = _find(low, at + 1, ends[lane], np.uint32(wanted[lane]))
            if keys[first + lane] == MISSING and not missing_is_key:
                ids[first + lane] = missing


@compiled
def _find(low: NDArray[np.uint32], begin: int, end: int, wanted: np.uint32) -> int:
    """The first place of `wanted` in `low[begin : end]`; `end` where it is not."""
    place = end
    for at in range(end - 1, begin - 1, -1):  # to the end, whatever is found: no branch depends on what is read
        place = at if low[at] == wanted else place
    return place
