"""Lines of delimited text to columns of integers, in one pass over the bytes.

Every field of a line has a kind. Values come out as int64, `MISSING` where a field is empty; a line that does not fit
is no row, but a `Reject` that says why. Any bytes are accepted: the parser knows newlines (with or without a carriage
return), the separator, digits, and everything else is a reason to reject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tablefold.compilation import compiled
from tablefold.data.value_texts import as_texts, whole_numbers
from tablefold.quoting import quoted

MISSING = -(1 << 63)
"""Key of an empty field."""

LABEL, INTEGER, HEX, SKIP = range(4)
"""Kinds of fields: 0 or 1; a decimal integer; up to 8 hex digits; anything, not read."""

MAX_DIGITS = 18
"""Decimal digits that always fit a signed 64-bit integer."""
HEX_DIGITS = 8

_OK, _FIELDS, _NOT_LABEL, _NOT_INTEGER, _TOO_LARGE, _NOT_HEX = range(6)
_ERROR_OF_KIND = np.array([_NOT_LABEL, _NOT_INTEGER, _NOT_HEX, _OK])
_REASONS = {
    _NOT_LABEL: "is not 0 or 1",
    _NOT_INTEGER: "is not an integer",
    _TOO_LARGE: f"has more than {MAX_DIGITS} digits",
    _NOT_HEX: f"is not a hex number of at most {HEX_DIGITS} digits",
}

_NEWLINE, _RETURN, _MINUS, _ZERO = 10, 13, 45, 48
_HEX_VALUE = np.full(256, 255, dtype=np.uint8)
"""Value of every byte as a hex digit; 255 for those that are none."""
for _digit, _pair in enumerate(("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "aA", "bB", "cC", "dD", "eE", "fF")):
    _HEX_VALUE[list(_pair.encode())] = _digit


@dataclass(frozen=True)
class Field:
    """One field of a line: its name in messages, and its kind."""

    name: str
    kind: int


@dataclass(frozen=True)
class Reject:
    """One line that is no example: `line` counts from 1 within its shard; `text` without the newline."""

    line: int
    reason: str
    text: bytes

    @property
    def shown_text(self) -> str:
        r"""The text; bytes that are no UTF-8 as `\xNN`."""
        return self.text.decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Lines:
    """Parsed lines: `values` int64 [fields, rows]; `lines` read, rows and rejects together."""

    values: NDArray[np.int64]
    lines: int
    rejects: list[Reject]


def parse_lines(data: NDArray[np.uint8], separator: str, fields: Sequence[Field]) -> Lines:
    """Parse whole lines (the last newline may be missing).

    Args:
        data: the bytes of the lines.
        separator: one ASCII character.
        fields: what a line consists of.
    """
    if data.size and data[-1] != _NEWLINE:
        data = np.append(data, np.uint8(_NEWLINE))
    capacity = int(np.count_nonzero(data == _NEWLINE))
    values = np.empty((len(fields), capacity), dtype=np.int64)
    errors = np.empty((capacity, 5), dtype=np.int64)
    kinds = np.array([field.kind for field in fields], dtype=np.int64)
    lines, rows, bad = _parse(data, ord(separator), kinds, values, errors)
    rejects = [_reject(data, separator, fields, error) for error in errors[:bad].tolist()]
    return Lines(values[:, :rows], lines, rejects)


def field_texts(columns: Sequence[Sequence[Any]], fields: Sequence[Field]) -> list[list[str | None]]:
    """The text of every value, a column for each field."""
    return [
        as_texts(field.name, whole_numbers(values) if field.kind == INTEGER else values)
        for field, values in zip(fields, columns, strict=True)
    ]


def parse_columns(columns: Sequence[Sequence[str | None]], separator: str, fields: Sequence[Field]) -> Lines:
    """Parse texts, a column for each field, as if they stood in lines; None is an empty field."""
    rows = [[value or "" for value in row] for row in zip(*columns, strict=True)]
    text = "\n".join(map(separator.join, rows))
    whole = text.count(separator) == len(rows) * (len(fields) - 1) and text.count("\n") == len(rows) - 1
    if not whole or "\r" in text:  # what would end a field or a line is no digit either
        ends = str.maketrans(dict.fromkeys((separator, "\n", "\r"), "?"))
        text = "\n".join(separator.join(value.translate(ends) for value in row) for row in rows)
    return parse_lines(np.frombuffer(f"{text}\n".encode(), dtype=np.uint8), separator, fields)


def format_lines(values: NDArray[np.int64], separator: str, fields: Sequence[Field]) -> bytes:
    """The text that `parse_lines` reads as `values` (int64 [fields, rows])."""
    kinds = np.array([field.kind for field in fields], dtype=np.int64)
    text = np.empty(values.shape[1] * len(fields) * (MAX_DIGITS + 2), dtype=np.uint8)
    return text[: _format(values, ord(separator), kinds, text)].tobytes()


def parse_values(values: Sequence[str], field: Field) -> NDArray[np.int64]:
    """Keys of single values of one kind.

    Raises:
        ValueError: for a value that is not of this kind.
    """
    parsed = parse_lines(np.frombuffer("\n".join(values).encode(), dtype=np.uint8), "\t", [field])
    if parsed.rejects:
        raise ValueError(parsed.rejects[0].reason)
    if parsed.lines != len(values):
        raise ValueError("is empty or has more than one line")
    keys: NDArray[np.int64] = parsed.values[0]
    return keys


def hex_text(keys: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """The hex digits that keys of kind `HEX` stand for.

    A key holds the digits left-aligned in 32 bits and, below them, how many there are, so that keys sort as their
    texts do and "ab" is not "0ab".

    >>> hex_text(np.array([0x68FD1E64 << 4 | 8, 0xAB000000 << 4 | 2]))
    array([b'68fd1e64', b'ab'], dtype='|S8')
    """
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    text = np.empty((len(keys), HEX_DIGITS), dtype=np.uint8)
    length = keys & 15
    for place in range(HEX_DIGITS):
        digit = digits[(keys >> (4 * (HEX_DIGITS - place))) & 15]
        text[:, place] = np.where(place < length, digit, 0)
    return text.reshape(-1).view(f"S{HEX_DIGITS}")


def _reject(data: NDArray[np.uint8], separator: str, fields: Sequence[Field], error: list[int]) -> Reject:
    line, code, field, begin, end = error
    text = data[begin:end].tobytes().removesuffix(b"\r")
    if code == _FIELDS:
        plural = "" if field == 1 else "s"
        return Reject(line, f"{field} field{plural} instead of {len(fields)}", text)
    value = text.split(separator.encode())[field].decode("utf-8", "backslashreplace")
    return Reject(line, f"field {fields[field].name} {_REASONS[code]}: {quoted(value)}", text)


@compiled
def _parse(
    data: NDArray[np.uint8],
    separator: int,
    kinds: NDArray[np.int64],
    values: NDArray[np.int64],
    errors: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Fill `values` and `errors` (line, code, field, begin, end); return how many lines, rows and errors.

    The data ends with a newline, so no look at the next byte needs a bound.
    """
    size, fields = data.size, kinds.size
    lines, rows, bad, position = 0, 0, 0, 0
    while position < size:
        begin, field, code, at = position, 0, _OK, 0
        while True:
            if code == _OK and field < fields:
                code, value, position = _field(data, position, kinds[field])
                if data[position] == _RETURN and data[position + 1] == _NEWLINE:
                    position += 1
                if code == _OK and data[position] != separator and data[position] != _NEWLINE:
                    code = _ERROR_OF_KIND[kinds[field]]
                values[field, rows] = value
                at = field
            while data[position] != separator and data[position] != _NEWLINE:
                position += 1
            field += 1
            position += 1
            if data[position - 1] == _NEWLINE:
                break
        lines += 1
        if field != fields:
            code, at = _FIELDS, field
        if code == _OK:
            rows += 1
        else:
            errors[bad] = (lines, code, at, begin, position - 1)
            bad += 1
    return lines, rows, bad


@compiled
def _field(data: NDArray[np.uint8], position: int, kind: int) -> tuple[int, int, int]:
    """Error code, value and end of what can be read of one field; whether the field ends there is for the caller."""
    if kind == HEX:
        return _hex(data, position)
    if kind == INTEGER:
        return _integer(data, position)
    if kind == LABEL:
        value = int(data[position]) - _ZERO
        return (_OK, value, position + 1) if 0 <= value <= 1 else (_NOT_LABEL, 0, position)
    return _OK, MISSING, position


@compiled
def _hex(data: NDArray[np.uint8], start: int) -> tuple[int, int, int]:
    value, position = 0, start
    while True:
        digit = int(_HEX_VALUE[data[position]])
        if digit > 15:
            break
        value = value << 4 | digit  # may wrap where there are too many digits: refused below
        position += 1
    length = position - start
    if length == 0:
        return _OK, MISSING, position
    if length > HEX_DIGITS:
        return _NOT_HEX, 0, position
    return _OK, (value << (4 * (HEX_DIGITS - length))) << 4 | length, position


@compiled
def _integer(data: NDArray[np.uint8], start: int) -> tuple[int, int, int]:
    negative = data[start] == _MINUS
    first = start + 1 if negative else start
    value, position = 0, first
    while True:
        digit = int(data[position]) - _ZERO
        if digit < 0 or digit > 9:
            break
        value = value * 10 + digit  # may wrap where there are too many digits: refused below
        position += 1
    if position == first:
        return (_NOT_INTEGER, 0, position) if negative else (_OK, MISSING, position)
    if position - first > MAX_DIGITS:
        return _TOO_LARGE, 0, position
    return _OK, -value if negative else value, position


@compiled
def _format(values: NDArray[np.int64], separator: int, kinds: NDArray[np.int64], text: NDArray[np.uint8]) -> int:
    """Write all rows; returns how many bytes."""
    at = 0
    for row in range(values.shape[1]):
        for field in range(len(kinds)):
            value = values[field, row]
            if value != MISSING:
                at = _format_hex(value, text, at) if kinds[field] == HEX else _format_integer(value, text, at)
            text[at] = separator
            at += 1
        text[at - 1] = _NEWLINE
    return at


@compiled
def _format_hex(key: int, text: NDArray[np.uint8], at: int) -> int:
    length = key & 15
    for place in range(length):
        digit = (key >> (4 * (HEX_DIGITS - place))) & 15
        text[at + place] = digit + (_ZERO if digit < 10 else 87)
    return at + length


@compiled
def _format_integer(value: int, text: NDArray[np.uint8], at: int) -> int:
    if value < 0:
        text[at] = _MINUS
        at += 1
        value = -value
    digits = 1
    while value >= 10**digits:
        digits += 1
    for place in range(digits - 1, -1, -1):
        text[at + place] = _ZERO + value % 10
        value //= 10
    return at + digits
