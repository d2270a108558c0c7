"""Compositional embeddings over partitions of the user's own: metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tablefold import spec
from tablefold.extras import require
from tablefold.json_files import load_json
from tablefold.methods.compositional import Compositional
from tablefold.methods.sizing import check_size, most_rows, remainder_rows
from tablefold.panics import without_panic_text
from tablefold.partitions import Partition, ceil_div, identity, lookup, quotient, remainder
from tablefold.quoting import one_line
from tablefold.spec import SHOWN
from tablefold.starts import CombineOption, InitOption
from tablefold.tables import FLOAT_BYTES, LOOKUP_FILES, TableSpec


@dataclass(frozen=True)
class Custom(Compositional):
    """Compositional embeddings over metadata (Shi, Mudigere, Naumov and Yang, KDD 2020, arXiv 1909.02107, section 3).

        e(x) = T_1[a_1[x]] (+) .. (+) T_j[a_j[x]] (+) R[rank(x) mod m] (+) Q[rank(x) // m]

    a_1 .. a_j are what is known of the id, such as a user's gender, age and occupation; rank(x) counts the ids before x
    that share all of it, and tells them apart. The arrays are part of the model: their bytes count.

    Args:
        lookup: a folder with a Parquet file for each table that has metadata: one row per id, in order of ids, one
            integer column per partition, values 0, 1, 2 ... It is called `<table>.parquet`, unless the folder has a
            `tables.json` that names the file of each table, as those that `prepare` writes do. Tables without a file
            are split as by `qr`.
        ties: what to do where ids share all metadata: `remainder` adds the ranks, `refuse` raises, naming two such ids.
        max_rows: rows of memory per table at most: tables that fit stay full, the others spend what their metadata
            leave on the ranks, from the smallest split upwards. Set by a budget.
        combine: `mul`, `add`, `concat`, or `features`.
        init: `matched` or `paper`, as for `qr`.

    Raises:
        ValueError: at build, for a file of another length than its table, a column that holds no buckets, or a tie.

    When to use it: where ids of one kind come with metadata that say much about them, and few examples each.

    >>> from tablefold import Custom, TableSpec
    >>> Custom().num_parameters([TableSpec("user", rows=10_000, dim=16)]) // 16
    200
    """

    name: ClassVar[str] = "custom"
    summary: ClassVar[str] = "a row for each value of the ids' metadata, composed; ties are told apart by their rank"
    size_options: ClassVar[tuple[str, ...]] = ("max_rows",)

    lookup: str | None = None
    ties: Literal["remainder", "refuse"] = "remainder"
    max_rows: int | None = None
    combine: CombineOption = field(default="mul", metadata=SHOWN)
    init: InitOption = "matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.name, None, self.max_rows)
        spec.check_choice(self.name, "ties", self.ties, ("remainder", "refuse"))
        if self.lookup is not None and "," in self.lookup:
            raise ValueError(f"custom: lookup={self.lookup} must not hold a comma, which separates options")

    @property
    def names_ids(self) -> bool:
        """Yes: look-ups are in the order of the ids."""
        return self.lookup is not None

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From the smallest split of the ranks to full tables."""
        return 1, most_rows(tables)

    def partitions(self, table: TableSpec, column: int, seed: int) -> tuple[Partition, ...]:
        """A lookup partition per metadata column, then the ranks where ids tie."""
        rows = table.vocabulary
        size = self.max_rows or 1
        if rows <= size:
            return (identity(rows),)
        arrays = self._arrays(table)
        if not arrays:
            modulus = remainder_rows(rows, size)
            return (identity(rows),) if modulus == rows else (remainder(modulus), quotient(rows, modulus))
        metadata = [_named(table, name, array) for name, array in arrays.items()]
        ranks = ranks_within_classes(list(arrays.values()))
        if not ranks.any():
            return tuple(metadata)
        if self.ties == "refuse":
            self._refuse(table, list(arrays.values()), ranks)
        most = int(ranks.max()) + 1
        modulus = remainder_rows(most, size - sum(part.num_buckets for part in metadata))
        saved_rows = most - modulus - ceil_div(most, modulus)
        if saved_rows * table.dim * FLOAT_BYTES <= rows:  # a second array of ranks takes a byte or more per id
            return *metadata, lookup(ranks)
        return *metadata, lookup(ranks % modulus), lookup(ranks // modulus)

    def _arrays(self, table: TableSpec) -> dict[str, NDArray[np.int64]]:
        if self.lookup is None:
            return {}
        path = lookup_path(Path(self.lookup), table.name)
        if path is None:
            return {}
        require("look-up files need", "data", "polars")
        import polars as pl

        try:
            with without_panic_text():
                frame = pl.read_parquet(path, glob=False)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise ValueError(f"{path} is missing or damaged ({one_line(str(error), 200)})") from error
        if frame.height != table.vocabulary:
            raise ValueError(
                f"{path} has {frame.height} rows; table {table.name!r} needs one for each of its {table.vocabulary} ids"
            )
        return {name: frame[name].to_numpy() for name in frame.columns}

    def _refuse(self, table: TableSpec, arrays: list[NDArray[np.int64]], ranks: NDArray[np.int64]) -> None:
        later = int(np.flatnonzero(ranks)[0])
        same = np.all([array == array[later] for array in arrays], axis=0)
        raise ValueError(
            f"table {table.name!r}: ids {int(np.flatnonzero(same)[0])} and {later} share all their metadata; "
            "take ties=remainder to tell them apart"
        )


def lookup_path(folder: Path, table: str) -> Path | None:
    """The Parquet file of a table's metadata in a folder; None where the table has none.

    Raises:
        ValueError: where the folder is none, or its list of files is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"custom: lookup={one_line(str(folder))} is no folder")
    listed = folder / LOOKUP_FILES
    if not listed.exists():
        file = f"{table}.parquet"
        return folder / file if _is_name(file) and (folder / file).exists() else None
    files = load_json(listed).fields()
    if table not in files:
        return None
    if not _is_name(files[table].text()):
        files[table].refuse("the name of a file in this folder")
    return folder / files[table].text()


def _is_name(file: str) -> bool:
    """Whether it names a file in a folder, and nothing elsewhere; of so many bytes as a file system takes."""
    if file in ("", "..") or "\0" in file or Path(file).name != file:
        return False
    return len(os.fsencode(file)) <= 255


def ranks_within_classes(arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """For each id, how many ids before it have the same values in all `arrays`, `[rows]`.

    >>> ranks_within_classes([np.array([0, 1, 0, 0]), np.array([5, 5, 5, 6])]).tolist()
    [0, 0, 1, 0]
    """
    _, classes = np.unique(np.stack(arrays), axis=1, return_inverse=True)
    order = np.argsort(classes, kind="stable")
    sorted_classes = classes[order]
    starts = np.flatnonzero(np.r_[True, sorted_classes[1:] != sorted_classes[:-1]])
    sizes = np.diff(np.r_[starts, len(order)])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return ranks


def _named(table: TableSpec, name: str, array: NDArray[np.int64]) -> Partition:
    try:
        return lookup(array)
    except ValueError as error:
        raise ValueError(f"metadata {name!r} of table {table.name!r}: {error}") from None
