"""The one formula in plain Python integers and floats, one id at a time: what every gather must equal."""

from __future__ import annotations

import numpy as np

from tablefold.hashing import mix64
from tablefold.partitions import Partition
from tablefold.terms import AddressMap, Term


def vector(address_map: AddressMap, memory: np.ndarray, column: int, x: int) -> np.ndarray:
    """The slots of table `column` for id `x`, from flat `memory`."""
    terms = address_map.terms[column]
    slots: list[float | None] = [None] * max(term.slot + term.width for term in terms)
    for term in terms:
        factor = _factor(term, memory, x)
        for offset in range(term.width):
            value = factor * float(memory[_address(term, x, offset)])
            old = slots[term.slot + offset]
            if old is not None:
                value = old * value if term.combine == "mul" else old + value
            slots[term.slot + offset] = value
    return np.array(slots)


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
    else:
        number = x // partition.div
    return number % partition.num_buckets


def _word(partition: Partition, x: int) -> int:
    assert partition.key is not None
    return mix64(((x // partition.div) ^ partition.key) & (2**64 - 1))
