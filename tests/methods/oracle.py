"""The one formula in plain Python integers and floats, one id at a time: what every gather must equal."""

from __future__ import annotations

import numpy as np

from tablefold.hashing import mix64
from tablefold.terms import AddressMap, Term


def vector(address_map: AddressMap, memory: np.ndarray, column: int, x: int) -> np.ndarray:
    """The slots of table `column` for id `x`, from flat `memory`."""
    terms = address_map.terms[column]
    slots: list[float | None] = [None] * max(term.slot + term.width for term in terms)
    for term in terms:
        start, sign = _read(term, x)
        for offset in range(term.width):
            value = sign * float(memory[start + offset])
            old = slots[term.slot + offset]
            if old is not None:
                value = old * value if term.combine == "mul" else old + value
            slots[term.slot + offset] = value
    return np.array(slots)


def _read(term: Term, x: int) -> tuple[int, int]:
    """(first float, sign) that the term reads for id x."""
    partition, sign = term.partition, 1
    if partition.key is not None:
        word = mix64((x ^ partition.key) & (2**64 - 1))
        number = word >> 11
        if term.signed:
            sign = -1 if word & 1 else 1
    elif partition.lookup is not None:
        number = int(partition.lookup.buckets[x])
    else:
        number = x
    return term.base + term.stride * ((number // partition.div) % partition.num_buckets), sign
