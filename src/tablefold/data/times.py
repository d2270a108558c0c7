"""Times as models take them: the hour, the weekday, and their order as a number."""

from __future__ import annotations

import polars as pl

HOUR, WEEKDAY, ORDER = " hour", " weekday", " order"
"""After a column's name: the tables and the dense column that it becomes."""

YEARS = "years since 2020"
"""What the order of a time is measured in: a pure function of the value, so that later logs go on from it."""

_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_ZONE = r"( ?UTC| ?Z|[+-]\d\d:?\d\d)$"
_YEAR_MICROSECONDS = 365.25 * 86_400e6
_START = 50
"""From 1970, where epochs begin."""


def parse_times(texts: pl.Series) -> pl.Series:
    """Times without zones, in microseconds; null where a text is none.

    ISO 8601, with a space or a T, or a date alone; or seconds, milliseconds or microseconds since 1970, by their size.
    A zone at the end is left out: hours are those of the clock that was written down.

    >>> parse_times(pl.Series(["2024-02-29T23:59:00Z", "2024-02-29", "1709251140", "later"])).to_list()[3] is None
    True
    """
    plain = texts.str.strip_chars().str.replace("T", " ", literal=True).str.replace(_ZONE, "")
    number = plain.cast(pl.Int64, strict=False)
    size = number.abs()
    scale = pl.select(
        pl.when(size < 10**11).then(10**6).when(size < 10**14).then(10**3).otherwise(1).alias("scale")
    ).to_series()
    found = (number * scale).cast(pl.Datetime("us"))
    for form in _FORMATS:
        found = found.zip_with(found.is_not_null(), plain.str.to_datetime(form, strict=False, time_unit="us"))
    return found


def hours(times: pl.Series) -> pl.Series:
    """0 .. 23, as text."""
    return times.dt.hour().cast(pl.String)


def weekdays(times: pl.Series) -> pl.Series:
    """1 (Monday) .. 7, as text."""
    return times.dt.weekday().cast(pl.String)


def orders(times: pl.Series) -> pl.Series:
    """`YEARS`; a missing time counts as 0."""
    return (times.dt.epoch("us") / _YEAR_MICROSECONDS - _START).fill_null(0.0)
