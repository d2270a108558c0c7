"""A seeded bijection of the ids of a table: shows what a method owes to the order of the ids.

Ids ranked by frequency help some methods (a modulo then separates the frequent ids). A study that permutes them shows
how much of a result is the order's. The bijection is computed, not stored: a Feistel network on just enough bits, and
what falls outside the table is mapped again until it falls inside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tablefold.compilation import compiled

_ROUNDS = 6
_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)


def permute_ids(ids: NDArray[np.int64], rows: int, seed: int, table: int = 0, first: int = 0) -> NDArray[np.int64]:
    """The images of `ids` under a bijection of `first .. rows - 1`; smaller ids stay.

    Args:
        ids: any ids of the table.
        rows: ids of the table.
        seed: another seed, another bijection.
        table: number of the table: tables of equal size are permuted differently.
        first: smallest id that moves.

    >>> sorted(permute_ids(np.arange(5), rows=5, seed=1).tolist())
    [0, 1, 2, 3, 4]
    """
    keys = np.random.default_rng([seed, table]).integers(-(2**63), 2**63, _ROUNDS, dtype=np.int64)
    half = max(1, ((rows - first - 1).bit_length() + 1) // 2)
    return _permute(np.asarray(ids, dtype=np.int64), rows, first, half, keys)


@compiled
def _permute(ids: NDArray[np.int64], rows: int, first: int, half: int, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    mask = (1 << half) - 1
    images = ids.copy()
    for number in range(len(ids)):
        image = ids[number] - first
        if image < 0:
            continue
        while True:
            left, right = image >> half, image & mask
            for key in keys:
                word = (right ^ key) * _MULTIPLIER
                left, right = right, left ^ ((word ^ (word >> 29)) >> 16 & mask)
            image = left << half | right
            if image < rows - first:
                break
        images[number] = image + first
    return images
