"""Variants of a prepared dataset: other orders of the ids, fewer rows.

Which id is 0 and which are neighbours decides what a modulo or a quotient throws together, so a study that compares
methods names the order, and one study compares the orders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tablefold.data import Dataset, Schema
from tablefold.data.numbering import Numbering

ID_ORDERS = {
    "prepared": "as the data was prepared",
    "frequency": "by falling count in the training part",
    "permuted": "at random, by the run's seed",
    "first": "by first appearance in the training part",
}


@dataclass(frozen=True)
class Variant:
    """How the data of a run differs from the dataset given.

    Args:
        id_order: one of `ID_ORDERS`.
        seed: of the permutation; read by "permuted" only.
        train_rows: the first rows of the training part that are used, None for all; the other parts shrink alike.

    Raises:
        ValueError: for an unknown order or no rows.
    """

    id_order: str = "prepared"
    seed: int = 0
    train_rows: int | None = None

    def __post_init__(self) -> None:
        if self.id_order not in ID_ORDERS:
            raise ValueError(f"id_order {self.id_order!r} must be one of {', '.join(ID_ORDERS)}")
        if self.train_rows is not None and self.train_rows < 1:
            raise ValueError(f"train_rows={self.train_rows} must be at least 1")
        if self.id_order != "permuted":
            object.__setattr__(self, "seed", 0)  # equal data, equal variant

    def rows(self, schema: Schema) -> int:
        """Rows of the training part."""
        rows = schema.parts["train"].rows
        return rows if self.train_rows is None else min(rows, self.train_rows)

    def of(self, given: Dataset) -> Dataset:
        """The variant of a dataset: a view of it, or itself. The order of the rows stays."""
        view = given
        if self.rows(given.schema) < given.schema.parts["train"].rows:
            view = view.head(self.rows(given.schema))
        if self.id_order != "prepared":
            view = view.numbered(self._numbering(view))
        return view

    def _numbering(self, view: Dataset) -> Numbering:
        if self.id_order == "permuted":
            return Numbering.permuted(view.schema, self.seed)
        key = _rows_left if self.id_order == "frequency" else _first_row
        return Numbering.of_keys(
            [
                None if table.rows is None else key(view, number, table.rows)
                for number, table in enumerate(view.schema.tables)
            ],
            view.schema,
        )


def _rows_left(view: Dataset, table: int, size: int) -> NDArray[np.int64]:
    """The rows of the training part that do not show each id."""
    train = view.part("train")
    shown = [np.bincount(examples.ids[:, table], minlength=size) for examples in train.examples(0, train.rows)]
    left: NDArray[np.int64] = train.rows - np.stack(shown).sum(axis=0)
    return left


def _first_row(view: Dataset, table: int, size: int) -> NDArray[np.int64]:
    """The first row of the training part that shows each id, their number for an id that none shows."""
    train, done = view.part("train"), 0
    first = np.full(size, train.rows, dtype=np.int64)
    for examples in train.examples(0, train.rows):
        found, at = np.unique(examples.ids[:, table], return_index=True)
        first[found] = np.minimum(first[found], done + at)
        done += len(examples)
    return first
