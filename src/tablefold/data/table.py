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

import codecs
import csv
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.lines import Reject
from tablefold.data.records import choose_columns, column, find_columns, is_parquet, reading_parquet, scan_parquet
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
from tablefold.data.text_hash import hash_texts
from tablefold.data.texts import text_keys
from tablefold.data.value_texts import as_texts
from tablefold.json_files import LARGEST_FILE, JsonValue, read_bounded
from tablefold.quoting import one_line, quoted

SPLITS = ("order", "last-file")
PARQUET_ROWS = 1 << 16
"""Rows of a Parquet file per shard."""

_FEW_ROWS = 1000
"""Rows of a frame that are faster read one by one."""
_PYTHON_TYPES = (pl.String, pl.Boolean, pl.Float64, pl.Int64, pl.Int32, pl.UInt64, pl.UInt32)
"""Types whose values Python writes as polars does."""
_FEW_NUMBERS = 100
"""Numbers whose logarithms Python takes before polars has begun; numpy's differ from both in the last bit."""
_PLAIN_NUMBERS = {int, float, type(None)}

Misfit = tuple[pl.Series, int, str]
"""Which rows do not fit, the place of the column for which they do not, and why."""


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
        if not Path(file).exists():
            raise ValueError(f"{file}: no such file")
        text = read_bounded(Path(file), LARGEST_FILE)
        try:
            content = tomllib.loads(text.decode("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{file} is not TOML: {one_line(str(error), 200)}") from error
        for key, value in content.items():
            kind: type = str if key in ("label", "split") else list
            if key not in cls.__dataclass_fields__:
                raise ValueError(f"{file}: unknown key {quoted(key)}; known are {', '.join(cls.__dataclass_fields__)}")
            names = value if isinstance(value, list) else [value]
            if not isinstance(value, kind) or not all(isinstance(name, str) for name in names):
                wanted = "name" if kind is str else "list of names"
                raise ValueError(f"{file}: {key} must be a {wanted}; got {quoted(value)}")
        if not content.get("label") or not content.get("categorical"):
            raise ValueError(f"{file} must name a label and at least one categorical column")
        options: dict[str, Any] = {
            key: value if isinstance(value, str) else tuple(value) for key, value in content.items()
        }
        columns = cls(**options)
        columns.check(file)
        return columns

    @classmethod
    def of_json(cls, content: JsonValue) -> Columns:
        """Read what was written as JSON, `vars` of the columns."""
        columns = content.into(cls)
        columns.check(content.file)
        return columns

    def check(self, origin: str) -> None:
        """Refuse names that cannot be: `origin` is where they are from."""
        if not self.label or not self.categorical:
            raise ValueError(f"{origin} must name a label and at least one categorical column")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"{origin} names a column twice: {one_line(', '.join(self.names), 300)}")
        if "" in self.names:
            raise ValueError(f"{origin} names a column by the empty text; give it a name in the file")
        if self.split not in SPLITS:
            raise ValueError(f"{origin}: split {quoted(self.split)}: choose one of {', '.join(SPLITS)}")


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

    def check_room(self, out: Path) -> None:
        """How much a log takes is known when it is read."""

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
                find_columns(file, self.columns.names, _header(header))
                shards += byte_shards(file, path, len(header))
        if not shards:
            raise ValueError(f"{', '.join(self.files)}: no example in it")
        return shards

    def read(self, shard: Shard) -> Rows:
        """The rows of one shard."""
        if is_parquet(shard.path):
            scan = scan_parquet(shard.file, shard.path, self.columns.names)
            with reading_parquet(shard.file):
                frame = scan.slice(shard.start, shard.stop - shard.start).cast(pl.String).collect()
            return self._rows(frame, range(1, len(frame) + 1), [], len(frame))
        lines = read_bytes(shard).tobytes().decode("utf-8", "backslashreplace").removesuffix("\n")
        return self._read_csv(lines.split("\n") if lines else [], _header(read_header(shard.path)))

    def read_frame(self, frame: pl.DataFrame, origin: str) -> Rows:
        """The rows of a frame in memory, which errors call `origin`."""
        if len(frame) <= _FEW_ROWS and not self.columns.label:
            places = find_columns(origin, self.columns.names, frame.columns)
            chosen_columns = [frame.to_series(place) for place in places]
            if all(values.dtype in _PYTHON_TYPES for values in chosen_columns):
                return self.read_values([values.to_list() for values in chosen_columns])
        chosen = choose_columns(origin, frame.lazy(), self.columns.names).cast(pl.String).collect()
        return self._rows(chosen, range(1, len(frame) + 1), [], len(frame))

    def read_values(self, columns: Sequence[Sequence[Any]]) -> Rows:
        """The rows of Python values, a column each for `dense` and `tables`."""
        count, split = len(columns[0]), len(self.dense)
        dense = self._plain_numbers(columns[:split], count)
        if dense is None:  # text, or a row that does not fit
            names = [*self.dense, *self.tables]
            texts = [as_texts(name, values) for name, values in zip(names, columns, strict=True)]
            frame = pl.DataFrame(
                [pl.Series(column(place), values, dtype=pl.String) for place, values in enumerate(texts)]
            )
            return self.unlabelled()._rows(frame, range(1, count + 1), [], count)
        values = [
            text for name, each in zip(self.tables, columns[split:], strict=True) for text in as_texts(name, each)
        ]
        keys = hash_texts(values).reshape(len(self.tables), count)
        return Rows(np.zeros(count, dtype=np.uint8), dense, keys, count, [])

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
        return hash_texts(values)

    def _parquet_shards(self, file: str, path: str) -> list[Shard]:
        scan = scan_parquet(file, path, self.columns.names)
        with reading_parquet(file):
            rows = scan.select(pl.len()).collect().item()
        return [Shard(file, at, min(at + PARQUET_ROWS, rows), path) for at in range(0, rows, PARQUET_ROWS)]

    def _read_csv(self, lines: list[str], header: list[str]) -> Rows:
        chosen = [header.index(name) for name in self.columns.names]
        rows, numbers, rejects = [], [], []
        for number, line in enumerate(lines, 1):
            fields = _fields(line.encode())
            if len(fields) == len(header):
                rows.append([fields[place] for place in chosen])
                numbers.append(number)
            else:
                plural = "" if len(fields) == 1 else "s"
                reason = f"{len(fields)} field{plural} instead of {len(header)}"
                rejects.append(Reject(number, reason, line.removesuffix("\r").encode()))
        names = [column(place) for place in range(len(chosen))]
        frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
        return self._rows(frame, numbers, rejects, len(lines))

    def _rows(self, frame: pl.DataFrame, numbers: Sequence[int], rejects: list[Reject], lines: int) -> Rows:
        """Type the columns of `frame` (all text), rejecting the records that cannot be."""
        label, wrong = self._label(frame)
        typed = []
        for place in range(len(self.dense)):
            values, misfits = self._dense(frame, place)
            typed.append(values)
            wrong += misfits
        refused = reduce(or_, (mask for mask, _, _ in wrong), pl.repeat(False, len(frame), eager=True))
        for row in refused.arg_true():
            place, reason = next((place, reason) for mask, place, reason in wrong if mask[row])
            text = ",".join(value or "" for value in frame.row(row))
            shown = f"field {one_line(self.columns.names[place], 60)} {reason}: {quoted(frame.item(row, place))}"
            rejects.append(Reject(numbers[row], shown, text.encode()))
        kept = ~refused
        frame, label = frame.filter(kept), label.filter(kept)
        dense = [values.filter(kept).to_numpy().astype(np.float32) for values in typed]
        columns = [frame[column(place)] for place in range(self._first + len(self.dense), frame.width)]
        spilled = [text_keys(each) for each in columns] if self.columns.label else []  # for whoever ranks them
        return Rows(
            label.to_numpy().astype(np.uint8),
            np.stack(dense, axis=1) if dense else np.empty((len(frame), 0), dtype=np.float32),
            np.stack([keys for keys, _ in spilled] or [hash_texts(each) for each in columns]),
            lines,
            sorted(rejects, key=lambda reject: reject.line),
            tuple(texts for _, texts in spilled),
        )

    def _plain_numbers(self, columns: Sequence[Sequence[Any]], rows: int) -> NDArray[np.float32] | None:
        """Dense columns of numbers as the model takes them; None where `_dense` must say what does not fit."""
        if not all(set(map(type, values)) <= _PLAIN_NUMBERS for values in columns):
            return None
        try:
            filled = [[0 if value is None else value for value in values] for values in columns]
            numbers = np.array(filled, dtype=np.float64).reshape(len(columns), rows)
        except OverflowError:  # an integer that no float holds
            return None
        counts = numbers[len(self.columns.dense) :]
        if counts.size > _FEW_NUMBERS:
            counts[:] = pl.Series(counts.ravel()).clip(0).log1p().to_numpy().reshape(counts.shape)
        elif counts.size:
            counts[:] = [[math.log1p(max(value, 0)) for value in values] for values in counts.tolist()]
        with np.errstate(over="ignore"):
            dense = numbers.T.astype(np.float32, order="C")
        return dense if np.isfinite(dense).all() else None

    @property
    def _first(self) -> int:
        """The place of the first column after the label, among those read."""
        return 1 if self.columns.label else 0

    def _label(self, frame: pl.DataFrame) -> tuple[pl.Series, list[Misfit]]:
        """The label as a number, 0 where labels are not read; and which rows have none."""
        if not self.columns.label:
            return pl.repeat(0.0, len(frame), eager=True), []
        label = frame[column(0)].replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
        return label, [(~label.is_in([0.0, 1.0]).fill_null(False), 0, "is not 0 or 1")]

    def _dense(self, frame: pl.DataFrame, number: int) -> tuple[pl.Series, list[Misfit]]:
        """A dense column as the model takes it, missing values as 0; and which rows have none that will do."""
        place = self._first + number
        text = frame[column(place)].replace("", None)
        values = text.cast(pl.Float64, strict=False)
        wrong = [(text.is_not_null() & ~values.is_finite().fill_null(False), place, "is not a finite number")]
        values = values.fill_null(0)
        if number >= len(self.columns.dense):
            return values.clip(0).log1p(), wrong
        large = values.is_finite() & ~values.cast(pl.Float32).is_finite()
        return values, [*wrong, (large, place, f"is beyond float32, which ends at {np.finfo(np.float32).max:.7g}")]


def _header(line: bytes) -> list[str]:
    """The names of the columns; a byte-order mark is no part of the first."""
    return _fields(line.removeprefix(codecs.BOM_UTF8))


def _fields(line: bytes) -> list[str]:
    """The fields of one line of CSV; a single odd field where quotes do not close."""
    text = line.decode("utf-8", "backslashreplace").removesuffix("\n").removesuffix("\r")
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        return [text]
