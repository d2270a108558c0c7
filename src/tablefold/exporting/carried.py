"""Which input of a model carries the ids of which tables: what a signature says, and what a check may draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tablefold.exporting.capture import Inputs
from tablefold.group import EmbeddingGroup, TablesView
from tablefold.tables import TableSpec

Columns = list[TableSpec | None]
"""The table that each column of an input has the ids of: one entry for an input of one column, or of any shape."""


def tables_of(model: nn.Module, inputs: Inputs) -> dict[str, Columns]:
    """The tables whose ids the inputs carry, by the inputs' names; seen in one call.

    Inputs that reach a table as they were given, or by their columns, are found; those that are computed with are not.
    """
    found: dict[str, Columns] = {}
    with torch.no_grad(), _watched(model) as calls:
        model(*inputs.values())
    for name, given in inputs.items():
        for ids, tables in calls:
            _note(found, name, given, ids, tables)
    return found


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[tuple[Tensor, Sequence[TableSpec]]]]:
    """Within the block, ids and the tables that they were given to."""
    calls: list[tuple[Tensor, Sequence[TableSpec]]] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls.append((args[0], module.tables))  # type: ignore[arg-type]

    kinds = (EmbeddingGroup, TablesView)
    hooks = [each.register_forward_pre_hook(note) for each in model.modules() if isinstance(each, kinds)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _note(found: dict[str, Columns], name: str, given: Tensor, ids: Tensor, tables: Sequence[TableSpec]) -> None:
    if given.untyped_storage().data_ptr() != ids.untyped_storage().data_ptr() or not given.numel():
        return
    if ids.numel() == given.numel() and len(tables) == 1:
        found[name] = [tables[0]]
    elif given.ndim == 2 and len(ids) == len(given) and ids.numel() == len(given) * len(tables):
        columns = found.setdefault(name, [None] * given.shape[1])
        first = ids.storage_offset() - given.storage_offset()
        if first + len(tables) <= len(columns):
            columns[first : first + len(tables)] = tables


def random_ids(like: Tensor, columns: Columns, rows: int, generator: torch.Generator) -> Tensor:
    """Ids `[rows, ...]` of the type and form of an input, each in its table; those of other columns as they were."""
    again = torch.arange(rows) % len(like)
    drawn = like[again].clone()
    for number, table in enumerate(columns):
        if table is None:
            continue
        whole = len(columns) == 1
        part = drawn if whole else drawn[:, number]
        most = torch.iinfo(like.dtype).max if table.rows is None else table.rows
        part.copy_(torch.randint(0, most, part.shape, generator=generator))
        part[:1], part[1:2] = 0, most - 1  # the ends, which are wrong first
    return drawn
