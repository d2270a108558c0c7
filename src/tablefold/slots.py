"""Slots: how many weights of the full tables share each float of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Term

MOST_IDS = 1 << 22
"""Ids of a table that are counted one by one; of more, so many evenly spaced ones stand for all."""


def slot_counts(address_map: AddressMap, most_ids: int = MOST_IDS) -> NDArray[np.float64]:
    """How many weights of the tables read each float of memory, `[floats]`.

    A float that id x reads in two terms, or that two ids read, counts twice. Exact for tables of up to `most_ids` rows,
    an unbiased estimate above.

    Raises:
        ValueError: for an open vocabulary, whose ids cannot be counted.

    >>> from tablefold import Hash, TableSpec
    >>> slot_counts(Hash(max_rows=4).address_map([TableSpec("user", rows=10, dim=1)])).tolist()
    [3.0, 3.0, 2.0, 2.0]
    """
    # The number of reads that begin at a float, less those that have ended: summed up, the reads that cover it.
    change = np.zeros(address_map.floats + 1)
    for table, terms in zip(address_map.tables, address_map.terms, strict=True):
        ids, each = _ids(table, most_ids)
        for term in terms:
            _add_reads(change, term, ids, each)
    return np.asarray(np.cumsum(change)[:-1])


def _ids(table: TableSpec, most_ids: int) -> tuple[NDArray[np.int64], float]:
    """(ids to count, how many ids each stands for)."""
    rows = table.vocabulary
    if rows <= most_ids:
        return np.arange(rows, dtype=np.int64), 1.0
    return np.linspace(0, rows - 1, most_ids).astype(np.int64), rows / most_ids


def _add_reads(change: NDArray[np.float64], term: Term, ids: NDArray[np.int64], each: float) -> None:
    begin = term.address(ids)
    end = begin + term.width
    if term.wrap:
        over = end > term.base + term.wrap
        change[term.base] += each * np.count_nonzero(over)
        change[term.base + term.wrap] -= each * np.count_nonzero(over)
        end[over] -= term.wrap
    change += each * np.bincount(begin, minlength=len(change))
    change -= each * np.bincount(end, minlength=len(change))
    if term.weight is not None:
        place = term.weight.base + term.weight.stride * term.weight.partition(ids)
        change += each * np.bincount(place, minlength=len(change))
        change -= each * np.bincount(place + 1, minlength=len(change))


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, memory: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(share)
        return memory.view_as(memory)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (share,) = ctx.saved_tensors
        (gradient,) = gradients
        if not gradient.is_sparse:
            return gradient * share, None
        gradient = gradient.coalesce()
        values = gradient.values() * share[gradient.indices()[0]]
        rows = torch.sparse_coo_tensor(
            gradient.indices(), values, gradient.shape, check_invariants=False, is_coalesced=True
        )
        return rows, None


def average_gradient(memory: Tensor, share: Tensor) -> Tensor:
    """`memory` itself; its gradient is multiplied by `share` (one over the slot's count), of the same shape."""
    averaged: Tensor = _Average.apply(memory, share)  # type: ignore[no-untyped-call]
    return averaged
