"""The user's own log: Parquet or CSV files, described by a small schema file.

The schema file is TOML:

    label = "clicked"                   # 0 or 1
    categorical = ["user", "city"]      # any type; compared as text
    dense = ["age"]                     # numbers, taken as they are; missing ones count as 0
    counts = ["visits"]                 # numbers, taken as log(1 + x); negative and missing ones count as 0
    times = ["at"]                      # dates and times: hour and weekday become tables, the order a dense column
    lists = ["genres"]                  # lists of values, pooled by the model; in text "drama|crime"
    list_length = 20                    # values of a list that are kept, the first ones
    pool = "mean"                       # or "sum"
    weight = "w"                        # numbers from 0: how much each row counts in training
    split = "order"                     # first 6/7 train, half of the rest test, half validation; or "last-file"; or
    time = "at"                         # "by-time": rows before `test_from` train; the log is in that order
    test_from = "2024-05-01"
    confirmed = ["session"]             # of the categorical columns, those with nearly as many values as rows

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

from tablefold.data.lines import MISSING, Reject
from tablefold.data.records import choose_columns, column, find_columns, is_parquet, reading_parquet, scan_parquet
from tablefold.data.source import (
    Rows,
    Shard,
    Texts,
    byte_shards,
    describe_files,
    read_bytes,
    read_header,
    unpack_files,
)
from tablefold.data.split import Split
from tablefold.data.text_hash import hash_texts
from tablefold.data.texts import text_keys
from tablefold.data.times import HOUR, ORDER, WEEKDAY, hours, orders, parse_times, weekdays
from tablefold.data.value_texts import as_texts
from tablefold.json_files import LARGEST_FILE, JsonValue, read_bounded
from tablefold.quoting import one_line, quoted
from tablefold.tables import Column, plain_columns

SPLITS = ("order", "last-file", "by-time")
LIST_LENGTH = 20
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
    times: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    list_length: int = LIST_LENGTH
    pool: str = "mean"
    weight: str = ""
    time: str = ""
    test_from: str = ""
    confirmed: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All columns to read; `label` is empty where labels are not."""
        own = [name for name in (self.label, self.weight) if name]
        return [*own, *self.inputs]

    @property
    def inputs(self) -> list[str]:
        """Those that a model reads."""
        return [*self.dense, *self.counts, *self.times, *self.categorical, *self.lists]

    @property
    def tables(self) -> tuple[str, ...]:
        """Of the categorical columns, of what times become, and of lists."""
        return (*self.categorical, *(name + of for name in self.times for of in (HOUR, WEEKDAY)), *self.lists)

    @property
    def id_columns(self) -> tuple[Column, ...]:
        """What the matrix of ids holds."""
        pool: Any = self.pool
        lists = [Column(name, name, length=self.list_length, pool=pool) for name in self.lists]
        return (*plain_columns(self.tables[: len(self.tables) - len(lists)]), *lists)

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
            if key not in cls.__dataclass_fields__:
                raise ValueError(f"{file}: unknown key {quoted(key)}; known are {', '.join(cls.__dataclass_fields__)}")
            default = cls.__dataclass_fields__[key].default
            kind: type = type(default) if isinstance(default, (str, int)) else str if key == "label" else list
            names = value if isinstance(value, list) else [] if kind is int else [value]
            if type(value) is not kind or not all(isinstance(name, str) for name in names):
                wanted = {str: "name", int: "number"}.get(kind, "list of names")
                raise ValueError(f"{file}: {key} must be a {wanted}; got {quoted(value)}")
        if not content.get("label") or not content.get("categorical"):
            raise ValueError(f"{file} must name a label and at least one categorical column")
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
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
        try:
            self._check_new()
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from error

    def _check_new(self) -> None:
        if len(set(self.tables)) < len(self.tables) or len(set(self.dense_names)) < len(self.dense_names):
            raise ValueError("a column is called as the hour, weekday or order of a time is; rename it")
        _ = self.id_columns  # which refuses lengths and pools
        if (self.split == "by-time") != bool(self.time or self.test_from):
            raise ValueError('split = "by-time" goes with time = "COLUMN" and test_from = "DATE"')
        if self.split == "by-time" and self.time not in self.times:
            raise ValueError(f"time {quoted(self.time)} must be one of times, so that it is read as one")
        if self.split == "by-time" and parse_times(pl.Series([self.test_from])).item() is None:
            raise ValueError(f"test_from {quoted(self.test_from)} is no date or time, such as 2024-05-01")
        if not set(self.confirmed) <= set(self.categorical):
            raise ValueError("confirmed names columns that are not categorical")

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Numbers, counts, and the order of times."""
        return (*self.dense, *self.counts, *(name + ORDER for name in self.times))


_FIRST = ("label", "categorical", "dense", "counts", "split")
"""Fields that are written down even at their defaults, as they always were."""
_DEFAULTS = {name: field.default for name, field in Columns.__dataclass_fields__.items()}


@dataclass(frozen=True)
class Table:
    """Parquet and CSV files with the columns of a schema file; `paths` is where the files' bytes are."""

    files: tuple[str, ...]
    columns: Columns
    paths: tuple[str, ...] = ()
    text: bool = True

    @property
    def dense(self) -> tuple[str, ...]:
        """Dense columns: numbers, then counts, then the order of times."""
        return self.columns.dense_names

    @property
    def tables(self) -> tuple[str, ...]:
        """Categorical columns, hours and weekdays, lists."""
        return self.columns.tables

    @property
    def id_columns(self) -> tuple[Column, ...]:
        """As the schema file says."""
        return self.columns.id_columns

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is read of a row to be scored."""
        return tuple(self.columns.inputs)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Which of these are numbers."""
        return self.columns.dense + self.columns.counts

    def check_room(self, out: Path) -> None:
        """How much a log takes is known when it is read."""

    def describe(self) -> dict[str, Any]:
        """The source's name, columns and input."""
        given = {
            name: value for name, value in vars(self.columns).items() if name in _FIRST or value != _DEFAULTS[name]
        }
        return {"name": "table", "columns": given, "files": describe_files(self.files)}

    def split(self, shards: list[Shard], rows: list[int]) -> Split:
        """As the schema file says."""
        if self.columns.split == "last-file":
            return Split.last_file([shard.file for shard in shards], rows)
        return Split.by_order(sum(rows))

    def split_at(self, before: Sequence[int], rows: list[int]) -> Split:
        """By time: what comes before the date trains, half of the rest tests, half validates.

        Args:
            before: of each shard, how many rows come before the date.
            rows: of each shard.

        Raises:
            ValueError: where rows before the date come after later ones, or there is none on either side.
        """
        late = [number for number, (one, all_) in enumerate(zip(before, rows, strict=True)) if one < all_]
        if late and any(before[late[0] + 1 :]):
            raise ValueError(
                f"the rows are not in the order of {quoted(self.columns.time)}: sort the files by it, and name them in "
                "their order"
            )
        train, total = sum(before), sum(rows)
        if not 0 < train < total:
            raise ValueError(
                f"{train:,} of {total:,} rows come before {quoted(self.columns.test_from)}: choose a date in the log"
            )
        return Split((0, train, train + (total - train + 1) // 2, total))

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
            scan = scan_parquet(shard.file, shard.path, self.columns.names, self.columns.lists)
            with reading_parquet(shard.file):
                frame = self._texts(scan.slice(shard.start, shard.stop - shard.start))
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
        chosen = self._texts(choose_columns(origin, frame.lazy(), self.columns.names, self.columns.lists))
        return self._rows(chosen, range(1, len(frame) + 1), [], len(frame))

    def _texts(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """All columns as text; lists as lists of text."""
        types, wanted = frame.collect_schema(), []
        for name, kind in types.items():
            values = pl.col(name)
            if isinstance(kind, (pl.List, pl.Array)):
                wanted.append((values.arr.to_list() if isinstance(kind, pl.Array) else values).cast(pl.List(pl.String)))
            elif isinstance(kind, pl.Datetime) and kind.time_zone and name in self._times:
                wanted.append(values.dt.replace_time_zone(None).cast(pl.String))
            else:
                wanted.append(values.cast(pl.String))
        return frame.select(wanted).collect()

    @property
    def _times(self) -> list[str]:
        first = self._first + len(self.numbers)
        return [column(place) for place in range(first, first + len(self.columns.times))]

    def read_values(self, columns: Sequence[Sequence[Any]]) -> Rows:
        """The rows of Python values, a column each for `dense` and `tables`."""
        count, split = len(columns[0]), len(self.numbers)
        plain = not self.columns.times and not self.columns.lists
        dense = self._plain_numbers(columns[:split], count) if plain else None
        if dense is None:  # text, a time, a list, or a row that does not fit
            given = zip(self.inputs, columns, strict=True)
            series = [_text_series(name, values, name in self.columns.lists) for name, values in given]
            frame = pl.DataFrame([values.alias(column(place)) for place, values in enumerate(series)])
            return self.unlabelled()._rows(frame, range(1, count + 1), [], count)
        values = [
            text for name, each in zip(self.tables, columns[split:], strict=True) for text in as_texts(name, each)
        ]
        keys = hash_texts(values).reshape(len(self.tables), count)
        return Rows(np.zeros(count, dtype=np.uint8), dense, keys, count, [])

    def unlabelled(self) -> Table:
        """Without the label, which the files need not have."""
        return replace(self, columns=replace(self.columns, label="", weight=""))

    def best(self) -> None:
        """Unknown: the log is real."""

    def raw_values(self, table: str, keys: NDArray[np.int64]) -> NDArray[Any]:
        """Never asked for: texts are spilled (`Rows.texts`)."""
        raise NotImplementedError

    def keys(self, table: str, values: Sequence[str]) -> NDArray[np.int64]:
        """Of texts."""
        return hash_texts(values)

    def _parquet_shards(self, file: str, path: str) -> list[Shard]:
        scan = scan_parquet(file, path, self.columns.names, self.columns.lists)
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
        for place in range(len(self.numbers)):
            values, misfits = self._dense(frame, place)
            typed.append(values)
            wrong += misfits
        times = [parse_times(frame[name]) for name in self._times]
        for name, values in zip(self._times, times, strict=True):
            given = frame[name].is_not_null() & (frame[name] != "").fill_null(False)
            wrong.append((given & values.is_null(), frame.columns.index(name), "is no date or time"))
        weight, misfits = self._weight(frame)
        refused = reduce(or_, (mask for mask, _, _ in wrong + misfits), pl.repeat(False, len(frame), eager=True))
        for row in refused.arg_true():
            place, reason = next((place, reason) for mask, place, reason in wrong + misfits if mask[row])
            text = ",".join(_shown(value) for value in frame.row(row))
            shown = f"field {one_line(self.columns.names[place], 60)} {reason}: {quoted(frame.item(row, place))}"
            rejects.append(Reject(numbers[row], shown, text.encode()))
        kept = ~refused
        frame, label, times = frame.filter(kept), label.filter(kept), [values.filter(kept) for values in times]
        dense = [values.filter(kept).to_numpy().astype(np.float32) for values in typed]
        dense += [orders(values).to_numpy().astype(np.float32) for values in times]
        keys, texts = self._keys(frame, times)
        return Rows(
            label.to_numpy().astype(np.uint8),
            np.stack(dense, axis=1) if dense else np.empty((len(frame), 0), dtype=np.float32),
            keys,
            lines,
            sorted(rejects, key=lambda reject: reject.line),
            texts,
            weight.filter(kept).to_numpy().astype(np.float32) if self.columns.weight else None,
            self._before(times),
        )

    def _keys(self, frame: pl.DataFrame, times: Sequence[pl.Series]) -> tuple[NDArray[np.int64], tuple[Texts, ...]]:
        """The keys of every column of ids, and for whoever ranks them the texts of every table."""
        first = self._first + len(self.numbers) + len(times)
        columns = [frame[column(place)] for place in range(first, first + len(self.columns.categorical))]
        columns += [values for each in times for values in (hours(each), weekdays(each))]
        first += len(self.columns.categorical)
        lists = [_listed(frame[column(place)]) for place in range(first, frame.width)]
        if not self.columns.label:
            keys = [hash_texts(each) for each in columns]
            wide = [
                self._padded(hash_texts(each.explode(keep_nulls=False, empty_as_null=False)), each) for each in lists
            ]
            return np.vstack([*keys, *wide]), ()
        spilled = [text_keys(each) for each in columns]
        pieces = [text_keys(_values(each)) for each in lists]
        wide = [self._padded(keys, each) for (keys, _), each in zip(pieces, lists, strict=True)]
        return np.vstack([*(keys for keys, _ in spilled), *wide]), tuple(texts for _, texts in (*spilled, *pieces))

    def _padded(self, keys: NDArray[np.int64], lists: pl.Series) -> NDArray[np.int64]:
        """The keys of all lists, one after the other, as a row for each place; `MISSING` where a list is shorter."""
        length = self.columns.list_length
        sizes = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
        ends = np.cumsum(sizes)
        row = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(len(keys)) - np.repeat(ends - sizes, sizes)
        kept = place < length
        padded = np.full((length, len(sizes)), MISSING, dtype=np.int64)
        padded[place[kept], row[kept]] = keys[kept]
        return padded

    def _weight(self, frame: pl.DataFrame) -> tuple[pl.Series, list[Misfit]]:
        """How much each row counts, and which rows do not say."""
        if not self.columns.weight:
            return pl.repeat(1.0, len(frame), eager=True), []
        place = 1 if self.columns.label else 0
        values = frame[column(place)].cast(pl.Float64, strict=False)
        fits = (values.is_finite() & (values >= 0) & values.cast(pl.Float32).is_finite()).fill_null(False)
        return values, [(~fits, place, "is no weight: a finite number from 0 on")]

    def _before(self, times: Sequence[pl.Series]) -> int | None:
        """How many of the rows come before the date at which the test part begins.

        Raises:
            ValueError: where they do not all come first.
        """
        if self.columns.split != "by-time" or not self.columns.label:
            return None
        begin = parse_times(pl.Series([self.columns.test_from])).item()
        later = (times[self.columns.times.index(self.columns.time)] >= begin).fill_null(False)
        before = int((~later).sum())
        if later[:before].any():
            raise ValueError(
                f"the rows are not in the order of {quoted(self.columns.time)}: some from {self.columns.test_from} on "
                "come before earlier ones (or such that lack it); sort the file by it first"
            )
        return before

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
        """The place of the first column after label and weight, among those read."""
        return bool(self.columns.label) + bool(self.columns.weight)

    def _label(self, frame: pl.DataFrame) -> tuple[pl.Series, list[Misfit]]:
        """The label as a number, 0 where labels are not read; and which rows have none."""
        if not self.columns.label:
            return pl.repeat(0.0, len(frame), eager=True), []
        label = frame[column(0)].replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
        return label, [(~label.is_in([0.0, 1.0]).fill_null(False), 0, "is not 0 or 1")]

    def _dense(self, frame: pl.DataFrame, number: int) -> tuple[pl.Series, list[Misfit]]:
        """A dense column as the model takes it, missing values as 0; and which rows have none that will do."""
        place = self._first + number
        text = frame[column(place)].replace({"": None, "true": "1", "false": "0"})
        values = text.cast(pl.Float64, strict=False)
        wrong = [(text.is_not_null() & ~values.is_finite().fill_null(False), place, "is not a finite number")]
        values = values.fill_null(0)
        if number >= len(self.columns.dense):
            return values.clip(0).log1p(), wrong
        large = values.is_finite() & ~values.cast(pl.Float32).is_finite()
        return values, [*wrong, (large, place, f"is beyond float32, which ends at {np.finfo(np.float32).max:.7g}")]


def _text_series(name: str, values: Sequence[Any], is_list: bool) -> pl.Series:
    """Python values as text; of a column of lists as lists of text, where some value is a list."""
    if not is_list or not any(isinstance(value, (list, tuple)) for value in values):
        return pl.Series(as_texts(name, values), dtype=pl.String)
    lists = [value if value is None or isinstance(value, (list, tuple)) else [value] for value in values]
    return pl.Series([None if value is None else as_texts(name, value) for value in lists], dtype=pl.List(pl.String))


def _listed(values: pl.Series) -> pl.Series:
    """Lists of text, without values that are missing; a text is cut at every bar."""
    if values.dtype == pl.String:
        values = values.str.split("|")
    return values.list.eval(pl.element().filter(pl.element().is_not_null() & (pl.element() != "")))


def _values(lists: pl.Series) -> pl.Series:
    """Of all lists, one after the other."""
    return lists.drop_nulls().filter(lists.drop_nulls().list.len() > 0).explode()


def _shown(value: Any) -> str:
    return "|".join(map(str, value)) if isinstance(value, list) else value or ""


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
