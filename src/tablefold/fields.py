"""The fields of a dataclass, held to their annotations: what a caller gave is refused where it is of another type."""

from __future__ import annotations

import dataclasses
import operator
import types
from functools import cache
from numbers import Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from tablefold.quoting import quoted

LARGEST_INTEGER = (1 << 63) - 1
"""Numbers end up in signed 64-bit integers."""


def settle_fields(instance: Any, name: str = "", largest: int | None = LARGEST_INTEGER) -> None:
    """Check the fields of a frozen dataclass that are annotated as integers, numbers, text or dicts.

    Integers become Python's own, whatever library they are of; a float is none, nor is a truth value.

    Args:
        instance: the dataclass.
        name: what errors call it, such as "robe: "; empty where the fields speak for themselves.
        largest: integer; None where the dataclass has bounds of its own.

    Raises:
        ValueError: names the field, its value, and what must stand there.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Size:
    ...     rows: int | None = None
    >>> settle_fields(Size(2.5), "table: ")
    Traceback (most recent call last):
    ValueError: table: rows=2.5 must be an integer
    """
    kind: Any = type(instance)
    for field, (kinds, optional) in _checked_fields(kind).items():
        value = getattr(instance, field)
        if value is None and optional:
            continue
        settled = _settled(value, kinds, f"{name}{field}", largest)
        if settled is not value:
            object.__setattr__(instance, field, settled)


@cache
def _checked_fields(kind: Any) -> dict[str, tuple[tuple[Any, ...], bool]]:
    """By field the types that it may have, as far as we check them, and whether it may be None."""
    hints, found = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        both = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        kinds = tuple(get_origin(one) or one for one in both if one is not type(None))
        if set(kinds) <= {int, float, str, dict} or hint in (tuple[int, ...], tuple[int, ...] | None):
            found[field.name] = kinds, len(kinds) < len(both)
    return found


def _settled(value: Any, kinds: tuple[Any, ...], what: str, largest: int | None) -> Any:
    if kinds == (int,):
        return whole_number(value, what, largest)
    if kinds == (tuple,):
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{what}={quoted(value)} must be a list of integers")
        return tuple(whole_number(item, what, largest) for item in value)
    fits = {float: isinstance(value, Real) and not isinstance(value, bool), str: isinstance(value, str)}
    fits |= {int: fits[float], dict: isinstance(value, dict)}
    if not any(fits[kind] for kind in kinds):
        words = {float: "a number", int: "an integer", str: "text", dict: "a dict"}
        raise ValueError(f"{what}={quoted(value)} must be {' or '.join(words[kind] for kind in kinds)}")
    return value


def whole_number(value: Any, what: str, largest: int | None = LARGEST_INTEGER) -> int:
    """`value` as Python's int; `ValueError` where it is none, or larger than what fits into 64 bits.

    >>> import numpy as np
    >>> whole_number(np.uint8(3), "dim")
    3
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{what}={quoted(value)} must be an integer")
    if largest is not None and abs(number) > largest:
        raise ValueError(f"{what}={quoted(number)} must fit into 64 bits: take at most {largest}")
    return number
