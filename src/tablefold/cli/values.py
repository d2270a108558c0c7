"""Values of options: byte sizes, counts, rates. Each raises what argparse turns into one line.

An option takes one of these types, never Python's `int` or `float`: those let `inf`, `nan` and numbers of 400 digits
through to whoever computes with them.
"""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable

from tablefold.quoting import quoted
from tablefold.tables import parse_bytes
from tablefold.tables import show_bytes as show_bytes

LARGEST = 1 << 62
"""No count and no number of bytes is larger: it is a mistake, and computing with it would overflow."""

LARGEST_SEED = (1 << 63) - 1


def byte_size(text: str) -> int:
    """Bytes: a number, with a unit if you like; KB is 1000, KiB is 1024.

    >>> byte_size("10MB"), byte_size("64_000"), byte_size("1.5GiB")
    (10000000, 64000, 1610612736)
    """
    try:
        size = parse_bytes(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    if size > LARGEST:
        raise ArgumentTypeError(f"{quoted(text)} is more than {LARGEST:,} bytes")
    return size


def integers(text: str) -> tuple[int, ...]:
    """Positive integers with commas between; empty for none.

    >>> integers("512,256"), integers("")
    ((512, 256), ())
    """
    try:
        return tuple(positive(part) for part in text.split(",")) if text.strip() else ()
    except ArgumentTypeError:
        raise ArgumentTypeError(f"{quoted(text)} is not a list of positive integers, such as 512,256") from None


def positive(text: str) -> int:
    """An integer from 1 up; underscores are fine: 1_000."""
    return integer(1)(text)


def not_negative(text: str) -> int:
    """An integer from 0 up."""
    return integer(0)(text)


def seed(text: str) -> int:
    """The seed of something random."""
    return integer(0, LARGEST_SEED)(text)


def workers(text: str) -> int:
    """How many processes to start: many times the cores of the machine would only take its memory.

    >>> workers("2")
    2
    """
    most = max(16, 4 * (os.cpu_count() or 1))
    count = positive(text)
    if count > most:
        raise ArgumentTypeError(f"{count:,} processes are too many for {os.cpu_count()} cores: take at most {most}")
    return count


def integer(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """The type of an option that takes an integer from `least` to `most`.

    >>> integer(1, 65_536)("16")
    16
    """

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # no integer, or one of more digits than Python reads
            digits = text.strip().removeprefix("+").replace("_", "").isdecimal()
            value = most + 1 if digits else least - 1
        if value < least:
            raise ArgumentTypeError(f"{quoted(text)} is not an integer of at least {least}")
        if value > most:
            raise ArgumentTypeError(f"{quoted(text)} is more than {most:,}")
        return value

    return convert


def number(least: float, most: float = 1e18, *, above: bool = False) -> Callable[[str], float]:
    """The type of an option that takes a finite number from `least` to `most`; `above` leaves `least` itself out.

    >>> number(0, 1)("0.25")
    0.25
    """

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or not value <= most:
            bound = f"greater than {least:g}" if above else f"of at least {least:g}"
            raise ArgumentTypeError(f"{quoted(text)} is not a number {bound} and at most {most:g}")
        return value

    return convert
