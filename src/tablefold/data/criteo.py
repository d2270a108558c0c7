"""Criteo's click logs: Kaggle's `train.txt`, and the day files of the terabyte log, which share one format.

A line holds a label, 13 integers (I1 .. I13, may be empty or negative) and 26 hex numbers (C1 .. C26, may be empty),
separated by tabs. Integers become log(1 + x), negative and missing ones 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.best import load_best
from tablefold.data.lines import (
    HEX,
    INTEGER,
    LABEL,
    SKIP,
    Field,
    Lines,
    field_texts,
    hex_text,
    parse_columns,
    parse_lines,
    parse_values,
)
from tablefold.data.records import plain_columns
from tablefold.data.source import Rows, Shard, byte_shards, describe_files, read_bytes, unpack_files
from tablefold.data.split import Split

DENSE = tuple(f"I{column}" for column in range(1, 14))
TABLES = tuple(f"C{column}" for column in range(1, 27))
FEATURES = (*(Field(name, INTEGER) for name in DENSE), *(Field(name, HEX) for name in TABLES))
FIELDS = (Field("label", LABEL), *FEATURES)
_PEEKED_BYTES = 1 << 20


@dataclass(frozen=True)
class Criteo:
    """Raw lines of Criteo's logs, plain or gzipped.

    Args:
        files: in the order of the log.
        by_day: the files are days and the last one is for test and validation; else the last seventh of the rows is.
        paths: where the files' bytes are, if elsewhere.
        fields: what a line holds; without a label in Criteo's `test.txt`.
    """

    files: tuple[str, ...]
    by_day: bool = False
    paths: tuple[str, ...] = ()
    dense: tuple[str, ...] = DENSE
    tables: tuple[str, ...] = TABLES
    text: bool = False
    fields: tuple[Field, ...] = FIELDS

    def check_room(self, out: Path) -> None:
        """How much a log takes is known when it is read."""

    def describe(self) -> dict[str, Any]:
        """The source's name and input."""
        return {"name": "criteo-tb" if self.by_day else "criteo", "files": describe_files(self.files)}

    def split(self, shards: list[Shard], rows: list[int]) -> Split:
        """By order, or the last day."""
        if self.by_day and len(self.files) > 1:
            return Split.last_file([shard.file for shard in shards], rows)
        return Split.by_order(sum(rows))

    def unpack(self, folder: Path) -> Criteo:
        """Unpack gzipped files."""
        return replace(self, paths=unpack_files(self.files, folder))

    def shards(self) -> list[Shard]:
        """Pieces of every file."""
        paths = self.paths or self.files
        return [shard for file, path in zip(self.files, paths, strict=True) for shard in byte_shards(file, path)]

    def read(self, shard: Shard) -> Rows:
        """The rows of one piece of a file."""
        return self._rows(parse_lines(read_bytes(shard), "\t", self.fields))

    def read_values(self, columns: Sequence[Sequence[Any]]) -> Rows:
        """The rows of Python values, a column each for `dense` and `tables`."""
        return replace(self, fields=FEATURES)._rows(parse_columns(field_texts(columns, FEATURES), "\t", FEATURES))

    def read_frame(self, frame: pl.DataFrame, origin: str) -> Rows:
        """The rows of a frame in memory, which errors call `origin`."""
        return self.read_values(plain_columns(origin, frame, [field.name for field in FEATURES]))

    def _rows(self, parsed: Lines) -> Rows:
        dense, keys = np.split(parsed.values[-len(FEATURES) :], [len(DENSE)])
        label = np.zeros(keys.shape[1], dtype=np.uint8)
        if self.fields[0].kind == LABEL:
            label = parsed.values[0].astype(np.uint8)
        return Rows(label, log_counts(dense), keys, parsed.lines, parsed.rejects)

    def unlabelled(self) -> Criteo:
        """Without labels where the first line that fits has none, as in Criteo's `test.txt`."""
        with open((self.paths or self.files)[0], "rb") as stream:
            columns = [line.count(b"\t") + 1 for line in stream.readlines(_PEEKED_BYTES)]
        known = next((count for count in columns if count in (len(FEATURES), len(FIELDS))), len(FIELDS))
        return replace(self, fields=FEATURES if known == len(FEATURES) else (Field("label", SKIP), *FEATURES))

    def best(self) -> dict[str, dict[str, float]] | None:
        """What `tablefold generate` wrote beside a synthetic log."""
        return load_best(self.files)

    def raw_values(self, table: str, keys: NDArray[np.int64]) -> NDArray[Any]:
        """Hex digits."""
        return hex_text(keys)

    def keys(self, table: str, values: Sequence[str]) -> NDArray[np.int64]:
        """Of hex digits."""
        return parse_values(values, Field(table, HEX))


def log_counts(values: NDArray[np.int64]) -> NDArray[np.float32]:
    """log(1 + x) of counts [columns, rows] as float32 [rows, columns]; negative and missing values count as 0."""
    return np.log1p(np.maximum(values, 0).T.astype(np.float32, order="C"))
