"""Values of options: byte sizes, lists of integers, counts. Each raises what argparse turns into one line."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

from tablefold.tables import show_bytes as show_bytes

_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power


def byte_size(text: str) -> int:
    """Bytes: a number, with a unit if you like; KB is 1000, KiB is 1024.

    >>> byte_size("10MB"), byte_size("64_000"), byte_size("1.5GiB")
    (10000000, 64000, 1610612736)
    """
    match = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise ArgumentTypeError(f"{text!r} is not a size in bytes, such as 64_000, 10MB or 1.5GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def integers(text: str) -> tuple[int, ...]:
    """Positive integers with commas between; empty for none.

    >>> integers("512,256"), integers("")
    ((512, 256), ())
    """
    try:
        values = tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        values = (0,)
    if any(value < 1 for value in values):
        raise ArgumentTypeError(f"{text!r} is not a list of positive integers, such as 512,256")
    return values


def positive(text: str) -> int:
    """An integer from 1 up; underscores are fine: 1_000."""
    return _at_least(text, 1)


def not_negative(text: str) -> int:
    """An integer from 0 up."""
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return value
