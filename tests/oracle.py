"""The one formula in plain Python integers and floats, one id at a time: what every gather must equal."""

from __future__ import annotations

import numpy as np

from tablefold.hashing import mix64
from tablefold.partitions import Partition
from tablefold.terms import AddressMap, Term


def vector(address_map: AddressMap, memory: np.ndarray, column: int, x: int) -> np.ndarray:
    """The slots of table `column` for id `x`, from flat `memory`."""
    terms = [term for term in address_map.terms[column] if _reads(term, x)]
    slots: list[float | None] = [None] * max(term.slot + term.out for term in terms)
    for term in terms:
        counted = _wrapped(x - term.first)
        factor = _factor(term, memory, counted)
        row = _projected(term, memory, [float(memory[_address(term, counted, j)]) for j in range(term.width)])
        for offset in range(term.out):
            value = factor * row[offset]
            old = slots[term.slot + offset]
            if old is not None:
                value = old * value if term.combine == "mul" else old + value
            slots[term.slot + offset] = value
    return np.array(slots)


def _reads(term: Term, x: int) -> bool:
    if term.stop is None:
        return x < 0 or x >= term.first
    return term.first <= x < term.stop


def _wrapped(x: int) -> int:
    """In 64 bits."""
    return (x + 2**63) % 2**64 - 2**63


def _projected(term: Term, memory: np.ndarray, row: list[float]) -> list[float]:
    projection = term.projection
    if projection is None:
        return row
    base, out = projection.base, projection.width
    return [sum(row[k] * float(memory[base + k * out + j]) for k in range(term.width)) for j in range(out)]


def _address(term: Term, x: int, offset: int) -> int:
    place = term.stride * _bucket(term.partition, x) + term.width * (x % term.neighbours) + offset
    return term.base + (place % term.wrap if term.wrap else place)


def _factor(term: Term, memory: np.ndarray, x: int) -> float:
    factor = 1.0
    if term.signed and _word(term.partition, x) & 1:
        factor = -1.0
    if term.weight is not None:
        factor *= float(memory[term.weight.base + term.weight.stride * _bucket(term.weight.partition, x)])
    return factor


def _bucket(partition: Partition, x: int) -> int:
    if partition.key is not None:
        number = _word(partition, x) >> 11
    elif partition.lookup is not None:
        number = int(partition.lookup.buckets[x // partition.div])
    elif partition.edges is not None:
        number = sum(int(first) <= x // partition.div for first in partition.edges.firsts)
    else:
        number = x // partition.div
    return number % partition.num_buckets


def _word(partition: Partition, x: int) -> int:
    assert partition.key is not None
    return mix64(((x // partition.div) ^ partition.key) & (2**64 - 1))
