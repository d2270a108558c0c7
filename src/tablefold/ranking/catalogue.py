"""The users and items of a dataset of interactions: their columns of ids, and what each user took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data import Dataset
from tablefold.data.histories import histories
from tablefold.data.schema import INTERACTIONS, lookup_file
from tablefold.data.shards import Examples
from tablefold.tables import NOTHING

_ROWS = 1 << 18


@dataclass(frozen=True)
class Catalogue:
    """What is known of every user and every item of a dataset.

    Args:
        dataset: of interactions, with the ids that the model knows.

    Raises:
        ValueError: for another dataset.
    """

    dataset: Dataset

    def __post_init__(self) -> None:
        if self.dataset.schema.source.get("name") != INTERACTIONS:
            raise ValueError(
                f"{self.dataset.folder} has no users and items to rank: prepare it by `tablefold prepare interactions`"
            )

    @property
    def users(self) -> int:
        """How many there are."""
        return self.dataset.schema.tables[0].rows or 0

    @property
    def items(self) -> int:
        """How many there are."""
        return self.dataset.schema.tables[1].rows or 0

    def rows(self, side: str) -> NDArray[np.int64]:
        """Rows of the matrix of ids, one for every user (or item); the other side's columns hold id 0, or nothing."""
        schema, owner = self.dataset.schema, 0 if side == "user" else 1
        parts = []
        for column in schema.id_columns:
            if column.side != side:
                fill = 0 if column.length is None else NOTHING
                parts.append(np.full((len(self._owners[owner]), column.width), fill, dtype=np.int64))
            elif column.length is not None:
                parts.append(histories(self.dataset))
            elif column.table == schema.tables[owner].name:
                parts.append(self._owners[owner][:, None])
            else:
                parts.append(self._attribute(owner, column.table)[:, None])
        return np.hstack(parts)

    def taken(self, *parts: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What each user took in some parts: where her items begin, int64 `[users + 1]`, and items, by user."""
        pairs = [self._positives(part) for part in parts]
        user, item = (np.concatenate([pair[:, place] for pair in pairs]) for place in (0, 1))
        order = np.argsort(user, kind="stable")
        return np.searchsorted(user[order], np.arange(self.users + 1)), item[order]

    @cached_property
    def _owners(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.arange(self.users), np.arange(self.items)

    def _positives(self, part: str) -> NDArray[np.int64]:
        """User and item of every positive."""
        chosen = [each.ids[each.label == 1, :2] for each in self._examples(part)]
        return np.concatenate([np.empty((0, 2), dtype=np.int64), *chosen]).astype(np.int64)

    def _attribute(self, owner: int, table: str) -> NDArray[np.int64]:
        """The id of an attribute, for every user or item."""
        number = [each.name for each in self.dataset.schema.tables].index(table)
        values = pl.read_parquet(self.dataset.folder / lookup_file(owner), columns=[table])[table].to_numpy()
        found = np.zeros((self.users, self.items)[owner], dtype=np.int64)
        found[self.dataset.new_ids(owner)] = self.dataset.new_ids(number)[values]
        return found

    def _examples(self, part: str) -> Iterator[Examples]:
        opened = self.dataset.part(part)
        for start in range(0, opened.rows, _ROWS):
            yield from opened.examples(start, start + _ROWS)
