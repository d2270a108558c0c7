"""Every option that takes a number, held to every hostile value: a finite number within bounds, or one short line."""

import argparse
import math

import pytest

from tablefold.cli import VERBS, Parser, _verb
from tablefold.cli.values import LARGEST, LARGEST_SEED, byte_size, integer, number, seed, workers

HOSTILE = (
    *("", " ", "x", "-1", "-0.5", "nan", "-nan", "NaN", "inf", "-inf", "Infinity", "1e400", "1e-400", "-1e400"),
    *("9" * 25, "9" * 400, "9" * 5000, "-" + "9" * 400, "0." + "0" * 400 + "1", "9" * 400 + "GB", "1e18TB", "0x10"),
    *("1,000", "1__0", "_1", "1_", "1e5", "1.5", "٣", "½", "1\n2", "\x1b[31m", "\0", "é" * 300, "y" * 100_000, "1;rm"),
    *("9" * 400 + ",1", "1,,2", ",", "0,1", "-1,2", "1.5.5GB", "-5MB", "5 MB B", "1_000_GB"),
)


def options_with_a_type():
    """(verb, option, its type) of every option that converts its text."""

    def walk(parser, name):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word, inner in action.choices.items():
                    yield from walk(inner, f"{name} {word}")
            elif action.type is not None:
                yield pytest.param(action.type, id=f"{name} {(action.option_strings or [action.dest])[-1]}")

    for name in VERBS:
        parser = Parser(prog=name)
        _verb(name).add_arguments(parser)
        yield from walk(parser, name)


def numbers_in(value):
    if isinstance(value, (tuple, list)):
        return [number for item in value for number in numbers_in(item)]
    return [value] if isinstance(value, (int, float)) else []


def converted(kind, text):
    """(value, error line) of which one is None or empty."""
    try:
        return kind(text), ""
    except argparse.ArgumentTypeError as error:
        return None, str(error)


@pytest.mark.parametrize("kind", list(options_with_a_type()))
def test_a_hostile_value_is_refused_in_a_short_line_or_is_a_number_in_bounds(kind):
    assert kind not in (int, float), "take a type of cli/values.py: it has bounds"
    for text in HOSTILE:
        value, line = converted(kind, text)
        assert all(math.isfinite(item) and abs(item) <= LARGEST_SEED for item in numbers_in(value)), (text, value)
        assert len(line) < 200
        assert line.isprintable()


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (integer(1), "0", "'0' is not an integer of at least 1"),
        (integer(1), "1.5", "'1.5' is not an integer of at least 1"),
        (integer(1), "9" * 5000, "is more than 4,611,686,018,427,387,904"),
        (integer(0, 7), "8", "'8' is more than 7"),
        (integer(0), "-" + "9" * 5000, "is not an integer of at least 0"),
        (seed, str(1 << 63), "is more than 9,223,372,036,854,775,807"),
        (workers, "100000", "100,000 processes are too many for"),
        (number(0, 1), "2", "'2' is not a number of at least 0 and at most 1"),
        (number(0, 1), "nan", "'nan' is not a number of at least 0 and at most 1"),
        (number(0, above=True), "0", "'0' is not a number greater than 0 and at most 1e+18"),
        (byte_size, "9" * 80, "is more than 4,611,686,018,427,387,904 bytes"),
        (byte_size, "9" * 400, "is not a size in bytes"),
        (byte_size, "4QB", "'4QB' is not a size in bytes, such as 64_000, 10MB or 1.5GiB"),
    ],
)
def test_a_refusal_says_the_bound(kind, text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=None) as caught:
        kind(text)
    assert message in str(caught.value)


def test_the_bounds_themselves_are_taken():
    assert integer(0)(str(LARGEST)) == LARGEST
    assert byte_size(f"{LARGEST}") == LARGEST  # exactly: no float on the way
    assert seed(str(LARGEST_SEED)) == LARGEST_SEED
    assert number(0, 1)("1") == 1
