"""Values as Python has them, and the text that each would be in a file: what ids are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from tablefold.quoting import quoted

_NONE = type(None)
_PLAIN_TYPES = (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Date, pl.Datetime, pl.Time, pl.Null)
"""What reads as one text, beside numbers."""


def is_plain(kind: pl.DataType) -> bool:
    """Whether a value of this type reads as one text."""
    return kind.is_numeric() or kind.base_type() in _PLAIN_TYPES


def as_texts(name: str, values: Sequence[Any]) -> list[str | None]:
    """The text of each value of the column `name`, as polars writes a column of its type; None stays None.

    Raises:
        ValueError: for a value that is no text, number, truth, date or time.

    >>> as_texts("age", ["7", 7, 7.0, True, None])
    ['7', '7', '7.0', 'true', None]
    """
    kinds = set(map(type, values))
    if kinds <= {str, _NONE}:
        return list(values)
    if kinds <= {int, str, _NONE}:
        return [value if value is None or type(value) is str else str(value) for value in values]
    if len(kinds - {_NONE}) == 1 and kinds & {float, bool}:
        texts: list[str | None] = pl.Series(values).cast(pl.String).to_list()
        return texts
    return [_as_text(name, value) for value in values]


def whole_numbers(values: Sequence[Any]) -> Sequence[Any]:
    """The values, floats that are whole numbers as integers: a column of integers with gaps comes as floats."""
    if float not in set(map(type, values)):
        return values
    return [int(value) if type(value) is float and value.is_integer() else value for value in values]


def _as_text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return str.__str__(value)
    if type(value) is int:
        return str(value)
    try:
        column = pl.Series([value])
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise _refusal(name, value) from error
    if not is_plain(column.dtype):
        raise _refusal(name, value)
    text: str | None = column.cast(pl.String).item()
    return text


def _refusal(name: str, value: Any) -> ValueError:
    what = f"{quoted(value)}" if isinstance(value, (list, tuple, dict)) else f"of type {type(value).__name__}"
    return ValueError(
        f"the column {quoted(name)} has a value that is {what}; "
        "text, numbers, true and false, dates and times can be read, so convert it first"
    )
