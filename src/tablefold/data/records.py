"""Whole Parquet and CSV files as columns, with what could not be read as rejects.

Columns are asked for by their names in the file and called by their place among those asked for: `column(0)`,
`column(1)`, ... A name in a file may be anything, a pattern that means several columns for one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tablefold.data.rejects import RejectRow, path_text
from tablefold.data.source import describe_files
from tablefold.data.value_texts import is_plain
from tablefold.panics import without_panic_text
from tablefold.quoting import one_line, quoted

_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Records:
    """Columns of a file: `frame` has the columns asked for and `line`; `rejects` is what is not in it."""

    frame: pl.DataFrame
    rejects: list[RejectRow]


def column(place: int) -> str:
    """What the column asked for at `place` is called."""
    return f"column{place}"


def read_records(file: str, columns: Sequence[str]) -> Records:
    """Read some columns of a Parquet or CSV file (with a header), all of it into memory.

    Columns of a CSV file are text, or integers where every value is one.

    Raises:
        ValueError: for a file that is missing, empty, damaged, or lacks a column.
    """
    describe_files([file])
    return _read_parquet(file, columns) if is_parquet(file) else _read_csv(file, columns)


def is_parquet(file: str) -> bool:
    """Whether a file starts as Parquet does, whatever its name."""
    with open(file, "rb") as stream:
        return stream.read(4) == _PARQUET_MAGIC


def find_columns(file: str, columns: Sequence[str], present: Sequence[str]) -> list[int]:
    """Where the columns of a file are among those `present`.

    Raises:
        ValueError: for a column that the file does not have, or has twice.
    """
    for name in columns:
        if name not in present:
            raise ValueError(f"{file} has no column {quoted(name)}; it has {one_line(', '.join(present), 300)}")
        if list(present).count(name) > 1:
            raise ValueError(f"{file} has the column {quoted(name)} twice; which one is meant? Rename or drop one")
    return [list(present).index(name) for name in columns]


def scan_parquet(file: str, path: str, columns: Sequence[str], lists: Sequence[str] = ()) -> pl.LazyFrame:
    """Some columns of a Parquet file, whose bytes are at `path`; categories are text.

    Raises:
        ValueError: for a file that is damaged, lacks a column, or has one of which a value is no single text or number.
    """
    with reading_parquet(file):
        return choose_columns(file, pl.scan_parquet(path, glob=False), columns, lists)  # no pattern, whatever it holds


def choose_columns(origin: str, whole: pl.LazyFrame, columns: Sequence[str], lists: Sequence[str] = ()) -> pl.LazyFrame:
    """Some columns of a frame, categories as text; `origin` is what errors call it. Of those in `lists` a value may be
    a list.

    Raises:
        ValueError: for a column that it lacks, or of which a value is no single text or number.
    """
    types = whole.collect_schema()
    places = find_columns(origin, columns, list(types))
    for name in columns:
        kind = types[name]
        inner = kind.inner if name in lists and isinstance(kind, (pl.List, pl.Array)) else kind
        if not is_plain(inner):  # type: ignore[arg-type]
            raise ValueError(
                f"{origin}: the column {quoted(name)} is of type {one_line(str(types[name]), 60)}; "
                "text, numbers, true and false, dates and times can be read"
                + (", lists of them under lists, " if isinstance(kind, (pl.List, pl.Array)) else ", ")
                + "so convert it first"
            )
    chosen = [pl.nth(place).alias(column(number)) for number, place in enumerate(places)]
    return whole.select(chosen).cast({pl.Categorical: pl.String, pl.Enum: pl.String})


def plain_columns(origin: str, frame: pl.DataFrame, columns: Sequence[str]) -> list[list[Any]]:
    """Some columns of a frame as Python's values; errors as of `choose_columns`."""
    chosen = choose_columns(origin, frame.lazy(), columns).collect()
    return [values.to_list() for values in chosen]


@contextmanager
def reading_parquet(file: str) -> Iterator[None]:
    """Whatever goes wrong in reading is said of the file, in one line."""
    try:
        with without_panic_text():
            yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, UnicodeError) as error:
        reason = one_line(next(iter(str(error).splitlines()), ""), 200)
        raise ValueError(f"{file} cannot be read as Parquet: {reason}") from error


def _read_parquet(file: str, columns: Sequence[str]) -> Records:
    scan = scan_parquet(file, file, columns)
    with reading_parquet(file):
        frame = scan.collect()
    return Records(frame.with_row_index("line", offset=1), [])


def _read_csv(file: str, columns: Sequence[str]) -> Records:
    rows: list[list[str]] = []
    lines: list[int] = []
    rejects: list[RejectRow] = []
    # A byte-order mark is no part of the first name.
    with Path(file).open(encoding="utf-8-sig", errors="backslashreplace", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        header = _read_header(file, reader)
        chosen = find_columns(file, columns, header)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                if reader.line_num > line:  # how many records the open quote has swallowed is unknown
                    raise ValueError(f"{file}, line {line}: a quote that opens here is not closed") from error
                rejects.append((path_text(file), reader.line_num, f"is not CSV: {error}", ""))
                continue
            if len(row) != len(header):
                plural = "" if len(row) == 1 else "s"
                reason = f"{len(row)} field{plural} instead of {len(header)}"
                rejects.append((path_text(file), reader.line_num, reason, ",".join(row)))
                continue
            rows.append([row[place] for place in chosen])
            lines.append(reader.line_num)
    names = [column(place) for place in range(len(columns))]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
    frame = frame.select(_typed(frame[name]) for name in names)
    return Records(frame.with_columns(line=pl.Series(lines, dtype=pl.UInt32)), rejects)


def _read_header(file: str, reader: Iterator[list[str]]) -> list[str]:
    try:
        return next(reader, [])
    except csv.Error as error:
        raise ValueError(f"{file}, line 1: the header is not CSV: {error}") from error


def _typed(values: pl.Series) -> pl.Series:
    """Empty text is missing; integers where every value is written as one."""
    values = values.replace("", None)
    integers = values.cast(pl.Int64, strict=False)
    return integers if integers.cast(pl.String).equals(values) else values
