"""What a source of examples is: shards that can be read on their own, each to the same plain columns.

A new source is one file: a frozen dataclass with the names of its columns, `shards()` and `read(shard)`. Reading is a
pure function of the shard, so shards can be read in any order, in any process, twice.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.lines import Reject
from tablefold.data.split import Split
from tablefold.files import new_file
from tablefold.tables import Column, plain_columns

SHARD_BYTES = 16 << 20
"""Bytes of text per shard. Part of the output's identity: shards in, shards out."""

MAX_LINE_BYTES = 16 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_NEWLINE = 10


@dataclass(frozen=True)
class Shard:
    """A piece of a file: the lines that start at byte `start` or later, and before byte `stop`.

    Args:
        file: the input file, as the user named it.
        start: first byte.
        stop: byte after the last.
        path: where the bytes are: the file itself, or its unpacked copy.
        header: bytes of the header line that the file begins with.
    """

    file: str
    start: int
    stop: int
    path: str
    header: int = 0


Texts = tuple[NDArray[np.int64], list[str]]
"""Distinct keys and, for each, the text that it is a hash of."""


@dataclass(frozen=True)
class Rows:
    """What a shard holds.

    Args:
        label: uint8 [rows].
        dense: float32 [rows, dense_columns], transformed.
        keys: int64 [columns of ids, rows]; `lines.MISSING` where there is no value, or a list is shorter.
        lines: lines (or records) read, rows and rejects together.
        rejects: what is no row.
        texts: of a source with text, per table: the distinct keys and the texts they are hashes of.
        weight: float32 [rows], how much each counts in training; None: all alike.
        before: where a date divides the log, how many rows come before it.
    """

    label: NDArray[np.uint8]
    dense: NDArray[np.float32]
    keys: NDArray[np.int64]
    lines: int
    rejects: list[Reject]
    texts: tuple[Texts, ...] = ()
    weight: NDArray[np.float32] | None = None
    before: int | None = None


class Source(Protocol):
    """A kind of raw click log."""

    @property
    def dense(self) -> tuple[str, ...]:
        """Names of the dense columns."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the categorical columns."""

    @property
    def text(self) -> bool:
        """Whether keys are hashes of texts (`Rows.texts`); else `raw_values` reads them back."""

    def split(self, shards: list[Shard], rows: list[int]) -> Split:
        """How the log is dealt to the parts, given the rows of each shard."""

    def check_room(self, out: Path) -> None:
        """Refuse, before anything is written, what cannot fit where `out` is to be, if that is known so early."""

    def describe(self) -> dict[str, Any]:
        """The source's name and options, and what identifies its input: for `schema.json`."""

    def unpack(self, folder: Path) -> Source:
        """The same source, reading from copies in `folder` where the input cannot be read from the middle."""

    def shards(self) -> list[Shard]:
        """All shards, in the order of the log."""

    def read(self, shard: Shard) -> Rows:
        """The rows of one shard."""

    def best(self) -> dict[str, dict[str, float]] | None:
        """Of a synthetic log: what the model that drew its labels reaches on each part."""

    def raw_values(self, table: str, keys: NDArray[np.int64]) -> NDArray[Any]:
        """The raw values, as text, that `keys` of one table stand for."""


class RawSource(Source, Protocol):
    """A source of lines that a model can score later, with the dictionary of an earlier log."""

    def unpack(self, folder: Path) -> RawSource:
        """As of any source."""

    def unlabelled(self) -> RawSource:
        """The same source, already unpacked, for scoring: labels are not read and may be missing."""

    def keys(self, table: str, values: Sequence[str]) -> NDArray[np.int64]:
        """The keys of raw values, as a dictionary's file holds them."""

    def read_values(self, columns: Sequence[Sequence[Any]]) -> Rows:
        """The rows of Python values, a column each for `dense` and `tables`; as if they stood in a file.

        Raises:
            ValueError: for a value that is no text, number, date or time.
        """

    def read_frame(self, frame: pl.DataFrame, origin: str) -> Rows:
        """The rows of a frame in memory, which errors call `origin`.

        Raises:
            ValueError: for a column that it lacks, or of which a value is no single text or number.
        """


def id_columns_of(source: Source) -> tuple[Column, ...]:
    """What the matrix of ids of a source holds; an id for every table, unless it says otherwise."""
    return getattr(source, "id_columns", None) or plain_columns(source.tables)


def tables_of_ids(columns: Sequence[Column], tables: Sequence[str]) -> list[int]:
    """For every column of the matrix of ids, the number of its table."""
    return [list(tables).index(column.table) for column in columns for _ in range(column.width)]


def inputs_of(source: RawSource) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns that are read of a row to be scored, and which of them are numbers."""
    plain = (*source.dense, *source.tables)
    return tuple(getattr(source, "inputs", plain)), tuple(getattr(source, "numbers", source.dense))


def describe_files(files: Sequence[str]) -> list[dict[str, Any]]:
    """Name and size of every input file.

    Raises:
        ValueError: for a file that is missing, not a file, empty, not to be read, or named twice.
    """
    if not files:
        raise ValueError("name at least one input file")
    seen: dict[str, str] = {}
    for file in files:
        path = Path(file)
        if not path.exists():
            raise ValueError(f"{file}: no such file")
        if not path.is_file():
            raise ValueError(f"{file} is not a file")
        if path.stat().st_size == 0:
            raise ValueError(f"{file} is empty")
        _check_readable(file)
        real = os.path.realpath(file)
        if real in seen:
            also = "" if seen[real] == file else f", first as {seen[real]}"
            raise ValueError(f"{file} is named twice{also}; its lines would count twice")
        seen[real] = file
    return [{"name": Path(file).name, "bytes": Path(file).stat().st_size} for file in files]


def _check_readable(file: str) -> None:
    try:
        with open(file, "rb") as stream:
            stream.read(1)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error


def identify(source: Source) -> dict[str, Any]:
    """What tells the input from another of the same name and size, and its shards from others."""
    files = [Path(file).absolute() for file in getattr(source, "files", ())]
    return {"shard_bytes": SHARD_BYTES, "input": [(str(file), file.stat().st_mtime_ns) for file in files]}


def is_gzip(file: str) -> bool:
    """Whether a file starts as gzip does, whatever its name."""
    with open(file, "rb") as stream:
        return stream.read(2) == _GZIP_MAGIC


def unpack_files(files: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Where to read each file: a .gz file is unpacked into `folder` (once), another is read where it is.

    Raises:
        ValueError: for a .gz file that is cut off or damaged: how much is lost cannot be known.
    """
    paths = []
    for number, file in enumerate(files):
        paths.append(file)
        if is_gzip(file):
            copy = folder / f"unpacked-{number:06d}"
            if not copy.exists():
                _unpack(file, copy)
            paths[-1] = str(copy)
    return tuple(paths)


def _unpack(file: str, copy: Path) -> None:
    lines = 0
    try:
        with gzip.open(file) as stream, new_file(copy) as target, target.open("wb") as output:
            while data := stream.read(1 << 20):
                lines += data.count(b"\n")
                output.write(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{file}: the gzip stream is cut off or damaged after line {lines:,} ({error}); get the file again"
        ) from error
    if copy.stat().st_size == 0:
        raise ValueError(f"{file} is empty")


def byte_shards(file: str, path: str, header: int = 0) -> list[Shard]:
    """Cut a text file (whose bytes are at `path`) into shards of `SHARD_BYTES`, after a header of `header` bytes."""
    size = Path(path).stat().st_size
    starts = range(header, size, SHARD_BYTES)
    return [Shard(file, start, min(start + SHARD_BYTES, size), path, header) for start in starts]


def read_header(path: str) -> bytes:
    """The first line of a text file, with its newline."""
    with open(path, "rb") as stream:
        return stream.readline(MAX_LINE_BYTES)


def read_bytes(shard: Shard) -> NDArray[np.uint8]:
    """The whole lines that start in the shard.

    Raises:
        ValueError: for a line longer than `MAX_LINE_BYTES`.
    """
    with open(shard.path, "rb") as stream:
        if shard.start > shard.header:  # a line that started earlier belongs to the shard before
            stream.seek(shard.start - 1)
            _read_line(stream, shard)
        else:
            stream.seek(shard.header)
        size = max(0, shard.stop - stream.tell())
        data = np.empty(size, dtype=np.uint8)
        size = stream.readinto(data.data)
        if not size or data[size - 1] == _NEWLINE:
            return data[:size]
        rest = np.frombuffer(_read_line(stream, shard), dtype=np.uint8)
        return np.concatenate([data[:size], rest])


def _read_line(stream: Any, shard: Shard) -> bytes:
    line: bytes = stream.readline(MAX_LINE_BYTES)
    if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
        raise ValueError(
            f"{shard.file}: the line around byte {shard.stop:,} is longer than {MAX_LINE_BYTES:,} bytes; "
            "is this a click log?"
        )
    return line
