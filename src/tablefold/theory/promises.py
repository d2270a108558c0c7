"""Sizes: how few rows a split can take, and the smallest size at which a promise holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from tablefold.method import Method
from tablefold.partitions import largest, mixed_radix_moduli
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap
from tablefold.theory.overlap import log_failure
from tablefold.theory.ranges import table_codes

SomeMethod = TypeVar("SomeMethod", bound=Method)
Promise = Callable[[AddressMap], bool]


def fewest_rows(rows: int, k: int) -> int:
    """Rows of memory of the smallest split into k digits that names every id: about k * rows^(1/k).

    >>> [fewest_rows(1_000_000, k) for k in (1, 2, 3, 6)]
    [1000000, 2000, 300, 60]
    """
    return sum(mixed_radix_moduli(rows, k))


def best_digits(rows: int) -> int:
    """The number of digits whose split takes the fewest rows: near ln(rows), where each digit has about e values.

    >>> best_digits(1_000_000)
    13
    """
    most = max(1, rows.bit_length())
    return min(range(1, most + 1), key=lambda k: fewest_rows(rows, k))


def all_distinct(delta: float) -> Promise:
    """The promise that no two ids of a table read the same addresses, with probability 1 - delta."""

    def holds(address_map: AddressMap) -> bool:
        pairs = 0.0
        for table, terms in zip(address_map.tables, address_map.terms, strict=True):
            codes = table_codes(table, terms, table.vocabulary)
            if codes is None:
                return False
            pairs += codes.pairs()
        return pairs <= delta

    return holds


def little_overlap(eps: float, delta: float) -> Promise:
    """The promise that no two ids share more than a share `eps` of what they read, with probability 1 - delta."""
    return lambda address_map: log_failure(address_map, eps) <= math.log(delta)


def smallest(method: SomeMethod, tables: Sequence[TableSpec], promise: Promise) -> SomeMethod | None:
    """`method` at the smallest size at which `promise` holds; None where it holds at no size.

    A promise that holds at one size is taken to hold at every larger one. A method of one size is tried as it is.

    Raises:
        ValueError: for a method that computes after the gather, of which the address map does not tell all.
    """
    if computes_after_gather(method):
        raise ValueError(f"{method.name} computes after the gather; promises cover methods that only read from memory")
    if not method.size_options:
        return method if promise(method.address_map(tables)) else None
    low, high = method.size_range(tables)
    if not promise(method.sized(high).address_map(tables)):
        return None
    broken = largest(low - 1, high - 1, lambda size: not promise(method.sized(size).address_map(tables)))
    return method.sized(broken + 1)


def computes_after_gather(method: Method) -> bool:
    """Whether `method` computes on what is read from memory, so that its address map does not tell all."""
    return type(method).transform is not Method.transform
