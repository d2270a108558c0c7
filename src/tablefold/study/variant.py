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
from tablefold.data.order import BLOCK_ROWS
from tablefold.tables import NOTHING

ID_ORDERS = {
    "prepared": "as the data was prepared",
    "frequency": "by falling count in the training part, of positives where negatives are drawn",
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
        if self.id_order == "first":
            return Numbering.of_keys(_first_rows(view), view.schema)
        tables = view.schema.tables
        return Numbering.of_keys(
            [None if table.rows is None else -view.counts(table.name) for table in tables], view.schema
        )


def _first_rows(view: Dataset) -> list[NDArray[np.int64] | None]:
    """For each table the first row of the training part that shows each id, the rows' number for what none shows."""
    train, places = view.part("train"), view.id_tables
    firsts = [None if table.rows is None else np.full(table.rows, train.rows) for table in view.schema.tables]
    done = 0
    for start in range(0, train.rows, BLOCK_ROWS):
        for examples in train.examples(start, start + BLOCK_ROWS):
            for place, table in enumerate(places):
                first, ids = firsts[table], examples.ids[:, place]
                if first is not None:
                    shown = ids != NOTHING
                    np.minimum.at(first, ids[shown], done + np.flatnonzero(shown))
            done += len(examples)
    return firsts
