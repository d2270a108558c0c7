"""Whole Parquet and CSV files as columns, with what could not be read as rejects."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tablefold.data.rejects import RejectRow
from tablefold.data.source import describe_files

_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Records:
    """Columns of a file: `frame` has the columns asked for and `line`; `rejects` is what is not in it."""

    frame: pl.DataFrame
    rejects: list[RejectRow]


def read_records(file: str, columns: list[str]) -> Records:
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


def check_columns(file: str, columns: list[str], present: list[str]) -> None:
    """Refuse columns that a file does not have."""
    for column in columns:
        if column not in present:
            raise ValueError(f"{file} has no column {column!r}; it has {', '.join(present)}")


def _read_parquet(file: str, columns: list[str]) -> Records:
    try:
        check_columns(file, columns, list(pl.read_parquet_schema(file)))
        frame = pl.read_parquet(file, columns=columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    return Records(frame.with_row_index("line", offset=1), [])


def _read_csv(file: str, columns: list[str]) -> Records:
    rows: list[list[str]] = []
    lines: list[int] = []
    rejects: list[RejectRow] = []
    with Path(file).open(encoding="utf-8", errors="backslashreplace", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        header = next(reader, [])
        check_columns(file, columns, header)
        chosen = [header.index(column) for column in columns]
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                if reader.line_num > line:  # how many records the open quote has swallowed is unknown
                    raise ValueError(f"{file}, line {line}: a quote that opens here is not closed") from error
                rejects.append((file, reader.line_num, f"is not CSV: {error}", ""))
                continue
            if len(row) != len(header):
                plural = "" if len(row) == 1 else "s"
                reason = f"{len(row)} field{plural} instead of {len(header)}"
                rejects.append((file, reader.line_num, reason, ",".join(row)))
                continue
            rows.append([row[column] for column in chosen])
            lines.append(reader.line_num)
    frame = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    frame = frame.select(_typed(frame[column]) for column in columns)
    return Records(frame.with_columns(line=pl.Series(lines, dtype=pl.UInt32)), rejects)


def _typed(column: pl.Series) -> pl.Series:
    """Empty text is missing; integers where every value is written as one."""
    column = column.replace("", None)
    integers = column.cast(pl.Int64, strict=False)
    return integers if integers.cast(pl.String).equals(column) else column
