"""What users took last: kept with a dataset of interactions, and with the runs that read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.dataset import Dataset
from tablefold.data.schema import HISTORY_FILE
from tablefold.tables import NOTHING, Column


def read_history(folder: Path) -> NDArray[np.int64] | None:
    """What each user took last in training, ids of items `[users, history]`, the last first; None without histories."""
    path = folder / HISTORY_FILE
    if not path.is_file():
        return None
    items = pl.read_parquet(path)["items"]
    return items.explode().to_numpy().astype(np.int64).reshape(len(items), -1)


def history_column(dataset: Dataset) -> Column | None:
    """The column of ids that holds what a user took; None without one."""
    columns = [column for column in dataset.schema.id_columns if column.length is not None and column.side == "user"]
    return columns[0] if columns else None


def histories(dataset: Dataset) -> NDArray[np.int64]:
    """What each user took last, by the ids that are read, `[users, history]`; `NOTHING` where it was less.

    Raises:
        ValueError: for a dataset without histories.
    """
    items = read_history(dataset.folder)
    if items is None:
        raise ValueError(f"{dataset.folder} is damaged (no {HISTORY_FILE}); prepare the data again")
    found = np.full((dataset.schema.tables[0].rows or 0, items.shape[1]), NOTHING, dtype=np.int64)
    found[dataset.new_ids(0)] = np.where(items == NOTHING, NOTHING, dataset.new_ids(1)[items])
    return found
