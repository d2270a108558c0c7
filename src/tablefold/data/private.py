"""Keyed hashes in the place of raw values: a dataset, and the runs trained on it, then hold no value.

A hash is SipHash-2-4 (Aumasson and Bernstein, Indocrypt 2012) of the 64-bit key of a value, under a secret of 128 bits.
Who has the secret can hash a guess and look whether it is there; who has not sees numbers. The secret lies beside the
dictionaries, for nothing raw can be scored without it; take it away from a copy for whoever is to score ids alone.

A value that training has not shown has the hash of one that it has with odds of values / 2^64; two of a million values
of one table share their hash, and so their id, with odds of 1 in 37 million.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.compilation import compiled
from tablefold.data.lines import MISSING, Reject
from tablefold.data.source import RawSource, Rows, Shard, id_columns_of, inputs_of
from tablefold.data.split import Split
from tablefold.data.text_hash import hash_texts
from tablefold.files import new_file
from tablefold.json_files import read_bounded
from tablefold.tables import Column

SECRET_FILE = "secret"
"""Where the secret is, in a dataset and in an encoder."""

SECRET_BYTES = 16
HASH_DIGITS = 16
_MISSING_DIGITS = f"{MISSING & (1 << 64) - 1:016x}"
_ROUNDS_OF_WORD, _ROUNDS_AT_END = 2, 4
_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
_LENGTH = 8 << 56
"""The last block of a message of 8 bytes: its length, and no byte that is left."""


def read_secret(path: Path) -> bytes:
    """The secret in a file: 32 hex digits.

    Raises:
        ValueError: for a file that is missing or holds none.
    """
    text, secret = read_bounded(path, 1 << 10).decode("ascii", "replace").strip(), b""
    with suppress(ValueError):
        secret = bytes.fromhex(text)
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{path} holds no secret of {2 * SECRET_BYTES} hex digits; name a new file to make one")
    return secret


def find_secret(file: str | Path) -> bytes:
    """The secret in a file; one that is not there is made, with a new secret.

    Raises:
        ValueError: for a file that holds none.
    """
    path = Path(file)
    if not path.exists():
        write_secret(secrets.token_bytes(SECRET_BYTES), path)
    return read_secret(path)


def write_secret(secret: bytes, path: Path) -> None:
    """Write a secret to a file that nobody but its owner reads."""
    with new_file(path) as file:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(secret.hex() + "\n")


def fingerprint(secret: bytes) -> str:
    """What tells a secret from others, and nothing about it."""
    return hashlib.blake2b(secret, digest_size=8, person=b"tablefold").hexdigest()


def hash_keys(keys: NDArray[np.int64], secret: bytes) -> NDArray[np.int64]:
    """SipHash-2-4 of each key as 8 little-endian bytes; `MISSING` stays."""
    words = np.frombuffer(secret, dtype="<u8").astype(np.uint64)
    hashed = np.empty(keys.shape, dtype=np.int64)
    _hash(np.ascontiguousarray(keys).reshape(-1), words, hashed.reshape(-1))
    return hashed


def hash_column(values: pl.Series, secret: bytes) -> pl.Series:
    """The hash of every text, in hex digits; null for null."""
    keys = hash_keys(hash_texts(values.cast(pl.String)), secret)
    return pl.Series(values.name, hash_digits(keys).astype(np.str_)).set(pl.Series(keys == MISSING), None)


def hash_digits(keys: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Hashes as 16 hex digits.

    >>> hash_digits(np.array([-1, 16]))
    array([b'ffffffffffffffff', b'0000000000000010'], dtype='|S16')
    """
    return np.frombuffer(keys.astype(">i8").tobytes().hex().encode(), dtype=f"S{HASH_DIGITS}")


def keys_of_digits(values: Sequence[str | None]) -> NDArray[np.int64]:
    """The inverse of `hash_digits`; None is `MISSING`.

    Raises:
        ValueError: for a value that is no hash.
    """
    texts = [_MISSING_DIGITS if value is None else value for value in values]
    hashes = b""
    with suppress(ValueError):
        hashes = bytes.fromhex("".join(texts))
    if 2 * len(hashes) != HASH_DIGITS * len(texts) or any(len(text) != HASH_DIGITS for text in texts):
        raise ValueError(f"is no hash of {HASH_DIGITS} hex digits")
    return np.frombuffer(hashes, dtype=">i8").astype(np.int64)


@dataclass(frozen=True)
class Private:
    """A source whose keys are keyed hashes of another's; its rejects say where and why, and show no value."""

    source: RawSource
    secret: bytes
    text: bool = False

    @property
    def dense(self) -> tuple[str, ...]:
        """As of the source."""
        return self.source.dense

    @property
    def tables(self) -> tuple[str, ...]:
        """As of the source."""
        return self.source.tables

    @property
    def id_columns(self) -> tuple[Column, ...]:
        """As of the source."""
        return id_columns_of(self.source)

    @property
    def inputs(self) -> tuple[str, ...]:
        """As of the source."""
        return inputs_of(self.source)[0]

    @property
    def numbers(self) -> tuple[str, ...]:
        """As of the source."""
        return inputs_of(self.source)[1]

    @property
    def files(self) -> tuple[str, ...]:
        """As of the source."""
        return tuple(getattr(self.source, "files", ()))

    def check_room(self, out: Path) -> None:
        """As of the source."""
        self.source.check_room(out)

    def split(self, shards: list[Shard], rows: list[int]) -> Split:
        """As of the source."""
        return self.source.split(shards, rows)

    def describe(self) -> dict[str, Any]:
        """As of the source, and by which secret values are hashed."""
        return {**self.source.describe(), "private": fingerprint(self.secret)}

    def unpack(self, folder: Path) -> Private:
        """As of the source."""
        return replace(self, source=self.source.unpack(folder))

    def shards(self) -> list[Shard]:
        """As of the source."""
        return self.source.shards()

    def read(self, shard: Shard) -> Rows:
        """The rows of one shard."""
        return self._hashed(self.source.read(shard))

    def best(self) -> dict[str, dict[str, float]] | None:
        """As of the source."""
        return self.source.best()

    def unlabelled(self) -> Private:
        """As of the source."""
        return replace(self, source=self.source.unlabelled())

    def raw_values(self, table: str, keys: NDArray[np.int64]) -> NDArray[Any]:
        """The hashes, which are all that is known."""
        return hash_digits(keys)

    def keys(self, table: str, values: Sequence[str]) -> NDArray[np.int64]:
        """Of hashes."""
        return keys_of_digits(values)

    def read_values(self, columns: Sequence[Sequence[Any]]) -> Rows:
        """The rows of Python values."""
        return self._hashed(self.source.read_values(columns))

    def read_frame(self, frame: pl.DataFrame, origin: str) -> Rows:
        """The rows of a frame in memory."""
        return self._hashed(self.source.read_frame(frame, origin))

    def _hashed(self, rows: Rows) -> Rows:
        rejects = [Reject(reject.line, reject.reason.partition(":")[0], b"") for reject in rows.rejects]
        return replace(rows, keys=hash_keys(rows.keys, self.secret), rejects=rejects, texts=())


@compiled
def _hash(keys: NDArray[np.int64], secret: NDArray[np.uint64], hashed: NDArray[np.int64]) -> None:
    for number in range(len(keys)):
        if keys[number] == MISSING:
            hashed[number] = MISSING
            continue
        word = np.uint64(keys[number])
        a, b = secret[0] ^ np.uint64(_START[0]), secret[1] ^ np.uint64(_START[1])
        c, d = secret[0] ^ np.uint64(_START[2]), secret[1] ^ np.uint64(_START[3]) ^ word
        for _ in range(_ROUNDS_OF_WORD):
            a, b, c, d = _round(a, b, c, d)
        a ^= word
        d ^= np.uint64(_LENGTH)
        for _ in range(_ROUNDS_OF_WORD):
            a, b, c, d = _round(a, b, c, d)
        a ^= np.uint64(_LENGTH)
        c ^= np.uint64(0xFF)
        for _ in range(_ROUNDS_AT_END):
            a, b, c, d = _round(a, b, c, d)
        found = np.int64(a ^ b ^ c ^ d)
        hashed[number] = np.int64(0) if found == MISSING else found


@compiled
def _round(a: Any, b: Any, c: Any, d: Any) -> tuple[Any, Any, Any, Any]:
    a = a + b
    b = _turn(b, np.uint64(13)) ^ a
    a = _turn(a, np.uint64(32))
    c = c + d
    d = _turn(d, np.uint64(16)) ^ c
    a = a + d
    d = _turn(d, np.uint64(21)) ^ a
    c = c + b
    b = _turn(b, np.uint64(17)) ^ c
    c = _turn(c, np.uint64(32))
    return a, b, c, d


@compiled
def _turn(word: Any, bits: Any) -> Any:
    return word << bits | word >> (np.uint64(64) - bits)
