"""A schema proposed for a file, from its first rows: what each column may be, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from tablefold.data.records import is_parquet, reading_parquet
from tablefold.data.source import describe_files
from tablefold.data.table import Columns, Table
from tablefold.data.times import parse_times
from tablefold.data.value_texts import is_plain
from tablefold.quoting import one_line, quoted

ROWS = 100_000
"""That are looked at."""
DISTINCT = 0.9
"""Share of distinct values among rows from which on a column tells rows apart, and nothing of new ones."""
FEWEST = 1000
"""Rows below which that cannot be told."""

_LABELS = ("label", "click", "clicked", "is_click", "target", "y", "conversion", "converted")
_WEIGHTS = ("weight", "sample_weight")
_COUNT = re.compile(r"(^|_)(count|counts|num|n|visits|views)(_|$)")
_MOST = 0.99
_BARS = 0.3
"""Share of texts with a bar from which on they are lists."""
_EPOCHS = (10**9, 4 * 10**9)
"""Seconds: 2001 .. 2096."""


@dataclass(frozen=True)
class Proposal:
    """What a file's columns may be.

    Args:
        columns: the schema.
        why: of every column, a reason; those left out too.
    """

    columns: Columns
    why: Mapping[str, str]

    def __str__(self) -> str:
        """The schema file."""
        lines = []
        for name, value in vars(self.columns).items():
            if value and value != Columns.__dataclass_fields__[name].default:
                lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
        width = max(map(len, map(str, self.why)))
        return "\n".join(
            [*lines, *(f"# {one_line(name, 60):{min(width, 60)}}  {why}" for name, why in self.why.items())]
        )


def propose(file: str) -> Proposal:
    """Look at a file's first rows and propose a schema for `tablefold prepare table`.

    Raises:
        ValueError: for a file that cannot be read, or without a column of 0 and 1, or without any to learn from.
    """
    frame = _head(file)
    label = _label(file, frame)
    kinds: dict[str, str] = {label: "label"}
    why = {label: "label: 0 and 1"}
    for name in frame.columns:
        if name != label:
            kind, reason = _kind(name, frame[name])
            kinds[name], why[name] = kind, f"{kind or 'left out'}: {reason}"
    names: dict[str, Any] = {
        kind: tuple(name for name, one in kinds.items() if one == kind)
        for kind in ("categorical", "dense", "counts", "times", "lists")
    }
    weights = [name for name, kind in kinds.items() if kind == "weight"]
    if not names["categorical"]:
        raise ValueError(f"{file} has no column that looks like a category; write a schema that names one")
    columns = Columns(label, weight=weights[0] if weights else "", **names)
    columns.check(file)
    return Proposal(columns, why)


def check_distinct(source: Table, sizes: Mapping[str, int], rows: int) -> None:
    """Refuse categorical columns with nearly as many values as rows, unless they are confirmed.

    Args:
        source: has the columns.
        sizes: values of each table.
        rows: of the training part.

    Raises:
        ValueError: names the first such column, and what to do.
    """
    for name in source.columns.categorical:
        if rows >= FEWEST and sizes[name] >= DISTINCT * rows and name not in source.columns.confirmed:
            raise ValueError(
                f"the column {quoted(name)} has {sizes[name]:,} values in {rows:,} rows: its vectors would tell rows "
                "apart, and nothing of new ones. If it is a time, name it under times; leave it out; or name it under "
                "confirmed, too"
            )


def _head(file: str) -> pl.DataFrame:
    describe_files([file])
    with reading_parquet(file):
        if is_parquet(file):
            return pl.scan_parquet(file, glob=False).head(ROWS).collect()
    try:
        return pl.read_csv(file, n_rows=ROWS, infer_schema_length=ROWS, encoding="utf8-lossy")
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{file} cannot be read as CSV: {one_line(str(error), 200)}") from error


def _label(file: str, frame: pl.DataFrame) -> str:
    binary = [name for name in frame.columns if _is_binary(frame[name])]
    named = [name for name in binary if name.lower() in _LABELS]
    if not named and len(binary) != 1:
        found = (
            f"several columns hold 0 and 1 ({one_line(', '.join(binary), 200)})"
            if binary
            else "no column holds 0 and 1"
        )
        raise ValueError(f"{file}: {found}, so the label is unknown; write a schema that names it")
    return (named or binary)[0]


def _is_binary(values: pl.Series) -> bool:
    if values.dtype == pl.Boolean:
        return True
    return values.dtype.is_numeric() and not values.null_count() and set(values.unique().to_list()) == {0, 1}


def _kind(name: str, values: pl.Series) -> tuple[str, str]:
    """What a column may be, "" for nothing, and why."""
    kind: Any = values.dtype
    if isinstance(kind, (pl.List, pl.Array)):
        inner: Any = kind.inner
        return ("lists", "values of a list") if is_plain(inner) else ("", "lists of lists, or of structs")
    if not is_plain(kind) or kind == pl.Null:
        return "", f"of type {one_line(str(kind), 60)}"
    if name.lower() in _WEIGHTS and kind.is_numeric() and (values.drop_nulls() >= 0).all():
        return "weight", "by its name"
    if _is_time(name, values):
        return "times", "dates or times"
    if kind.is_float() or kind.is_decimal():
        return "dense", "numbers"
    if kind.is_integer() and _COUNT.search(name.lower()) and (values.drop_nulls() >= 0).all():
        return "counts", "whole numbers, a count by its name"
    distinct = values.n_unique()
    if len(values) >= FEWEST and distinct >= DISTINCT * len(values):
        return "", f"{distinct:,} values in {len(values):,} rows; to keep it, name it under categorical and confirmed"
    if kind == pl.String and _share(values.drop_nulls().str.contains("|", literal=True)) > _BARS:
        return "lists", "values with bars between"
    return "categorical", f"{distinct:,} values in {len(values):,} rows"


def _is_time(name: str, values: pl.Series) -> bool:
    if isinstance(values.dtype, (pl.Datetime, pl.Date)):
        return True
    given = values.drop_nulls()
    if values.dtype == pl.String and len(given):
        sample = given.head(FEWEST)
        dashed = sample.str.contains(r"^\s*\d{4}-\d\d-\d\d")
        return min(_share(dashed), _share(parse_times(sample).is_not_null())) > _MOST
    named = re.search(r"time|date|(^|_)(ts|at)$", name.lower()) is not None
    return named and values.dtype.is_integer() and len(given) > 0 and bool(given.is_between(*_EPOCHS).all())


def _share(true: pl.Series) -> float:
    return float(true.sum()) / max(1, len(true))
