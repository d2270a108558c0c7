"""The user's own log: Parquet or CSV files, described by a small schema file.

The schema file is TOML:

    label = "clicked"                   # 0 or 1
    categorical = ["user", "city"]      # any type; compared as text
    dense = ["age"]                     # numbers, taken as they are; missing ones count as 0
    counts = ["visits"]                 # numbers, taken as log(1 + x); negative and missing ones count as 0
    split = "order"                     # first 6/7 train, half of the rest test, half validation; or "last-file"

Columns that it does not name are ignored. A CSV file has a header; a line is a record.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.lines import Reject
from tablefold.data.records import check_columns, is_parquet
from tablefold.data.source import (
    Rows,
    Shard,
    byte_shards,
    describe_files,
    read_bytes,
    read_header,
    unpack_files,
)
from tablefold.data.split import Split
from tablefold.data.texts import text_keys

SPLITS = ("order", "last-file")
PARQUET_ROWS = 1 << 16
"""Rows of a Parquet file per shard."""


@dataclass(frozen=True)
class Columns:
    """What the schema file says."""

    label: str
    categorical: tuple[str, ...]
    dense: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    split: str = "order"

    @property
    def names(self) -> list[str]:
        """All columns to read; `label` is empty where labels are not."""
        return [*([self.label] if self.label else []), *self.dense, *self.counts, *self.categorical]

    @classmethod
    def load(cls, file: str) -> Columns:
        """Read a schema file.

        Raises:
            ValueError: for a missing file, or one that is not as the module's docstring says.
        """
        try:
            content = tomllib.loads(Path(file).read_text())
        except FileNotFoundError as error:
            raise ValueError(f"{file}: no such file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ValueError(f"{file} is not TOML: {error}") from error
        for key, value in content.items():
            kind: type = str if key in ("label", "split") else list
            if key not in cls.__dataclass_fields__:
                raise ValueError(f"{file}: unknown key {key!r}; known are {', '.join(cls.__dataclass_fields__)}")
            names = value if isinstance(value, list) else [value]
            if not isinstance(value, kind) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{file}: {key} must be a {'name' if kind is str else 'list of names'}; got {value!r}")
        if not content.get("label") or not content.get("categorical"):
            raise ValueError(f"{file} must name a label and at least one categorical column")
        options: dict[str, Any] = {
            key: value if isinstance(value, str) else tuple(value) for key, value in content.items()
        }
        columns = cls(**options)
        columns.check(file)
        return columns

    def check(self, origin: str) -> None:
        """Refuse names that cannot be: `origin` is where they are from."""
        if not self.label or not self.categorical:
            raise ValueError(f"{origin} must name a label and at least one categorical column")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"{origin} names a column twice: {', '.join(self.names)}")
        if self.split not in SPLITS:
            raise ValueError(f"{origin}: split {self.split!r}: choose one of {', '.join(SPLITS)}")


@dataclass(frozen=True)
class Table:
    """Parquet and CSV files with the columns of a schema file; `paths` is where the files' bytes are."""

    files: tuple[str, ...]
    columns: Columns
    paths: tuple[str, ...] = ()
    text: bool = True

    @property
    def dense(self) -> tuple[str, ...]:
        """Dense columns: numbers, then counts."""
        return self.columns.dense + self.columns.counts

    @property
    def tables(self) -> tuple[str, ...]:
        """Categorical columns."""
        return self.columns.categorical

    def describe(self) -> dict[str, Any]:
        """The source's name, columns and input."""
        return {"name": "table", "columns": vars(self.columns), "files": describe_files(self.files)}

    def split(self, shards: list[Shard], rows: list[int]) -> Split:
        """As the schema file says."""
        if self.columns.split == "last-file":
            return Split.last_file([shard.file for shard in shards], rows)
        return Split.by_order(sum(rows))

    def unpack(self, folder: Path) -> Table:
        """Unpack gzipped files."""
        return replace(self, paths=unpack_files(self.files, folder))

    def shards(self) -> list[Shard]:
        """Ranges of rows of Parquet files, pieces of CSV files."""
        shards = []
        for file, path in zip(self.files, self.paths or self.files, strict=True):
            if is_parquet(path):
                shards += self._parquet_shards(file, path)
            else:
                header = read_header(path)
                check_columns(file, self.columns.names, _fields(header))
                shards += byte_shards(file, path, len(header))
        if not shards:
            raise ValueError(f"{', '.join(self.files)}: no example in it")
        return shards

    def read(self, shard: Shard) -> Rows:
        """The rows of one shard."""
        if is_parquet(shard.path):
            rows = pl.scan_parquet(shard.path).slice(shard.start, shard.stop - shard.start)
            frame = rows.select(self.columns.names).cast(pl.String).collect()
            return self._rows(frame, range(1, len(frame) + 1), [], len(frame))
        lines = read_bytes(shard).tobytes().decode("utf-8", "backslashreplace").removesuffix("\n")
        return self._read_csv(lines.split("\n") if lines else [], _fields(read_header(shard.path)))

    def unlabelled(self) -> Table:
        """Without the label, which the files need not have."""
        return replace(self, columns=replace(self.columns, label=""))

    def best(self) -> None:
        """Unknown: the log is real."""

    def raw_values(self, table: str, keys: NDArray[np.int64]) -> NDArray[Any]:
        """Never asked for: texts are spilled (`Rows.texts`)."""
        raise NotImplementedError

    def keys(self, table: str, values: Sequence[str]) -> NDArray[np.int64]:
        """Of texts."""
        return text_keys(pl.Series(values, dtype=pl.String))[0]

    def _parquet_shards(self, file: str, path: str) -> list[Shard]:
        try:
            check_columns(file, self.columns.names, list(pl.read_parquet_schema(path)))
            rows = pl.scan_parquet(path).select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ValueError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        return [Shard(file, at, min(at + PARQUET_ROWS, rows), path) for at in range(0, rows, PARQUET_ROWS)]

    def _read_csv(self, lines: list[str], header: list[str]) -> Rows:
        chosen = [header.index(name) for name in self.columns.names]
        rows, numbers, rejects = [], [], []
        for number, line in enumerate(lines, 1):
            fields = _fields(line.encode())
            if len(fields) == len(header):
                rows.append([fields[column] for column in chosen])
                numbers.append(number)
            else:
                plural = "" if len(fields) == 1 else "s"
                reason = f"{len(fields)} field{plural} instead of {len(header)}"
                rejects.append(Reject(number, reason, line.removesuffix("\r").encode()))
        frame = pl.DataFrame(rows, schema=dict.fromkeys(self.columns.names, pl.String), orient="row")
        return self._rows(frame, numbers, rejects, len(lines))

    def _rows(self, frame: pl.DataFrame, numbers: Sequence[int], rejects: list[Reject], lines: int) -> Rows:
        """Type the columns of `frame` (all text), rejecting the records that cannot be."""
        columns = self.columns
        typed = frame.with_columns(pl.col(name).cast(pl.Float64, strict=False) for name in self.dense)
        label = self._label(frame)
        wrong = {columns.label: ~label.is_in([0.0, 1.0]).fill_null(False)}
        for name in self.dense:
            missing = frame[name].is_null() | (frame[name] == "")
            wrong[name] = ~missing & ~typed[name].is_finite().fill_null(False)
        bad = pl.DataFrame(wrong).select(pl.any_horizontal(pl.all())).to_series()
        for place in bad.arg_true():
            name = next(name for name, column in wrong.items() if column[place])
            reason = "is not 0 or 1" if name == columns.label else "is not a finite number"
            text = ",".join(value or "" for value in frame.row(place))
            reject = Reject(numbers[place], f"field {name} {reason}: {frame[name][place]!r}", text.encode())
            rejects.append(reject)
        frame, typed, label = frame.filter(~bad), typed.filter(~bad), label.filter(~bad)
        dense = typed.select(
            *(pl.col(name).fill_null(0) for name in columns.dense),
            *(pl.col(name).fill_null(0).clip(0).log1p() for name in columns.counts),
        )
        keyed = [text_keys(frame[name]) for name in columns.categorical]
        return Rows(
            label.to_numpy().astype(np.uint8),
            dense.to_numpy().astype(np.float32).reshape(len(frame), len(self.dense)),
            np.stack([keys for keys, _ in keyed]),
            lines,
            sorted(rejects, key=lambda reject: reject.line),
            tuple(texts for _, texts in keyed),
        )

    def _label(self, frame: pl.DataFrame) -> pl.Series:
        """The label as a number; null where it is none; 0 where labels are not read."""
        if not self.columns.label:
            return pl.repeat(0.0, len(frame), eager=True)
        return frame[self.columns.label].replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)


def _fields(line: bytes) -> list[str]:
    """The fields of one line of CSV; a single odd field where quotes do not close."""
    text = line.decode("utf-8", "backslashreplace").removesuffix("\n").removesuffix("\r")
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        return [text]
