"""The mixing hash: a versioned, seeded 64-bit hash of ids, the same in Python, numpy and torch.

An id `x` is hashed under a 64-bit key by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; the constants
are David Stafford's "variant 13"), a bijection of 64-bit words in which every input bit flips every output bit with
probability close to 1/2:

    mix64(z): z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27; z *= 0x94D049BB133111EB; z ^= z >> 31
    hash_id(x, key) = mix64(x ^ key)

Keys are derived from `(seed, table, k)` by chaining the same finaliser, so that each term of each table hashes on its
own: two ids that meet in one term meet in another one no more often than chance. (A linear hash `a*x + b mod P` moves
all terms of a row together: most rows then coincide.)

Consumers split the 64 bits: the upper 53 choose a bucket (`bucket_bits`: a non-negative int64, exact as a float64),
bit 0 chooses a sign (`sign_bit`).

Any change of a value that this module returns is a new `HASH_VERSION`: saved models record it and refuse another.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

HASH_VERSION = 1

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment: 2^64 / golden ratio, odd
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB
_BUCKET_SHIFT = 11  # 64 - 53


def signed64(word: int) -> int:
    """The int64 with the same 64 bits as the unsigned `word`.

    >>> signed64(2**64 - 1)
    -1
    """
    return word - (1 << 64) if word >> 63 else word


def mix64(word: int) -> int:
    """SplitMix64's finaliser on one unsigned 64-bit word.

    >>> hex(mix64(1))
    '0x5692161d100b05e5'
    """
    word &= _MASK
    word = ((word ^ (word >> 30)) * _MULTIPLY_1) & _MASK
    word = ((word ^ (word >> 27)) * _MULTIPLY_2) & _MASK
    return word ^ (word >> 31)


def derive_key(seed: int, *path: int) -> int:
    """An int64 key for a place in a tree of uses, such as `(seed, table, k)`.

    Args:
        seed: any int of at most 64 bits.
        path: numbers that name the use; different paths give unrelated keys.
    """
    word = mix64((seed & _MASK) + _GAMMA)
    for step in path:
        word = mix64((word ^ mix64(step & _MASK)) + _GAMMA)
    return signed64(word)


def hash_id(ids: Int64[Tensor, "..."], key: Int64[Tensor, "..."] | int) -> Int64[Tensor, "..."]:
    """`mix64(id ^ key)` elementwise in torch; int64 in, the 64 result bits as int64 out. Broadcasts like torch."""
    word = ids ^ key
    word = (word ^ _shift(word, 30)) * signed64(_MULTIPLY_1)
    word = (word ^ _shift(word, 27)) * signed64(_MULTIPLY_2)
    return word ^ _shift(word, 31)


def hash_id_numpy(ids: NDArray[np.int64], key: int) -> NDArray[np.int64]:
    """`hash_id` in numpy, bit for bit."""
    word = (np.asarray(ids, dtype=np.int64) ^ np.int64(key)).view(np.uint64)
    with np.errstate(over="ignore"):  # numpy warns of wrap-around in scalars, though not in arrays
        word = (word ^ (word >> np.uint64(30))) * np.uint64(_MULTIPLY_1)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(_MULTIPLY_2)
    return np.asarray(word ^ (word >> np.uint64(31))).view(np.int64)


def bucket_bits(word: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """The upper 53 bits of hashed words, as non-negative int64: `bucket_bits(word) % m` is a bucket."""
    return _shift(word, _BUCKET_SHIFT)


def bucket_bits_numpy(word: NDArray[np.int64]) -> NDArray[np.int64]:
    """`bucket_bits` in numpy."""
    return np.asarray(word.view(np.uint64) >> np.uint64(_BUCKET_SHIFT)).view(np.int64)


def sign_bit(word: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """+1 or -1 from bit 0 of hashed words, independent of `bucket_bits`."""
    return 1 - 2 * (word & 1)


def _shift(word: Int64[Tensor, "..."], bits: int) -> Int64[Tensor, "..."]:
    """Logical right shift: torch's `>>` on int64 is arithmetic, so the copies of the sign bit are masked off."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)
