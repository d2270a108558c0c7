"""The best items of users that they have not taken yet, as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from tablefold.data import Dataset
from tablefold.data.dictionary_file import read_values
from tablefold.data.records import column, read_records
from tablefold.files import new_file
from tablefold.quoting import one_line, quoted
from tablefold.ranking.all_items import AllItems
from tablefold.ranking.catalogue import Catalogue
from tablefold.train.run import load_run

_BATCH = 256
_SHOWN = 3
"""Unknown users that an error names."""


def recommend_file(
    run: str | Path,
    out: str | Path,
    users: str | Path | None = None,
    *,
    depth: int = 20,
    device: str = "auto",
    data: str | None = None,
    tell: Callable[[int, int], None] = lambda done, users: None,
) -> int:
    """Write the best items of users to the Parquet file `out`, whole or not at all; gives how many users it has.

    Its columns: the user and the item by their raw values, called as in the file that the data was prepared from;
    `rank`, from 1; `score`, the predicted probability. Items that a user took in the data, in whatever part, are left
    out: who took nearly all gets fewer. Memory holds the vectors of all users and items, and the scores of a few users.

    Args:
        run: a folder written by `tablefold train`, of interactions.
        out: the file to write.
        users: Parquet or CSV with the users' column; all users where it is None.
        depth: items for each user.
        device: "auto", "cpu" or "cuda".
        data: a dataset of the same catalogues; by default that of the run.
        tell: called with the users done, and all.

    Raises:
        ValueError: for a run that does not rank, a file without the column, or a user that training has not seen.
        OSError: when `out` cannot be written.
    """
    loaded = load_run(run)
    catalogue = Catalogue(loaded.dataset(data))
    if not 1 <= depth <= catalogue.items:
        raise ValueError(f"--k {quoted(depth)} must be 1 .. {catalogue.items:,}, the items that there are")
    schema, names = _schema(catalogue.dataset), [_names(catalogue.dataset, number) for number in (0, 1)]
    chosen = np.arange(catalogue.users) if users is None else _read_users(users, schema.names[0], names[0])
    scorer, done = AllItems(loaded, catalogue, device), 0
    begins, taken = catalogue.taken("train", "validation", "test")
    with new_file(Path(out)) as target, target.open("wb") as stream, pq.ParquetWriter(stream, schema) as writer:
        for some, scores in scorer.by_users(torch.from_numpy(chosen), _BATCH):
            for row, one in enumerate(some.tolist()):
                scores[row, torch.from_numpy(taken[begins[one] : begins[one + 1]])] = -torch.inf
            writer.write_table(pa.table(_columns(some.numpy(), scores, depth, names), schema=schema))
            done += len(some)
            tell(done, len(chosen))
    return len(chosen)


def _schema(dataset: Dataset) -> pa.Schema:
    """The columns of what is written."""
    user, item = (table.name for table in dataset.schema.tables[:2])
    fields = [(user, pa.string()), (item, pa.string()), ("rank", pa.int32()), ("score", pa.float32())]
    if len({name for name, _ in fields}) < len(fields):
        raise ValueError("users and items cannot be called rank or score here: rename that column of the data")
    return pa.schema(fields)


def _columns(
    users: NDArray[np.int64], scores: torch.Tensor, depth: int, names: list[NDArray[np.object_]]
) -> list[pa.Array]:
    """The rows of some users, given the scores of all items; -inf for those to be left out."""
    best, items = _best(scores, depth)
    fits = np.isfinite(best)
    ranks = np.broadcast_to(np.arange(1, depth + 1, dtype=np.int32), fits.shape)
    rows = np.repeat(users, fits.sum(axis=1))
    return [names[0][rows], names[1][items[fits]], ranks[fits], 1 / (1 + np.exp(-best[fits]))]


def _best(scores: torch.Tensor, depth: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The highest scores of each row and their items, ties by id."""
    best, items = torch.topk(scores, depth, dim=1)
    tied = (scores >= best[:, -1:]).sum(dim=1) > depth
    tied |= (best[:, 1:] == best[:, :-1]).any(dim=1)
    ordered = torch.sort(scores[tied], dim=1, descending=True, stable=True)  # which takes much longer
    best[tied], items[tied] = ordered.values[:, :depth], ordered.indices[:, :depth]
    return best.numpy(), items.numpy()


def _names(dataset: Dataset, number: int) -> NDArray[np.object_]:
    """The raw value of every id of a table."""
    path, table = dataset.dictionary(number), dataset.schema.tables[number]
    if path is None:
        raise ValueError(f"{dataset.folder} has no dictionary of {quoted(table.name)}: prepare it again")
    into = dataset.new_ids(number)
    values = np.array([value for piece in read_values(path, len(into)) for value in piece], dtype=object)
    names = np.full(table.rows or 0, None, dtype=object)
    names[into] = values
    return names


def _read_users(file: str | Path, name: str, names: NDArray[np.object_]) -> NDArray[np.int64]:
    """The ids of the users that a file lists, each once, in its order."""
    records = read_records(str(file), [name])
    listed = records.frame[column(0)].cast(pl.String).drop_nulls().unique(maintain_order=True).to_list()
    if not listed:
        raise ValueError(f"{file} lists no user")
    known = {value: number for number, value in enumerate(names.tolist())}
    unknown = [value for value in listed if value not in known]
    if unknown:
        shown = ", ".join(quoted(value) for value in unknown[:_SHOWN])
        raise ValueError(
            f"{file}: {len(unknown):,} of {len(listed):,} users are unknown to the run, such as "
            f"{one_line(shown, 120)}: leave them out, it has not seen them in training"
        )
    return np.array([known[value] for value in listed], dtype=np.int64)
