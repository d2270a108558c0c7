"""Tomorrow's log: values keep the ids that an earlier dataset gave them, and new values come behind.

The earlier dataset is read and never changed: runs were trained on it, and a job that was killed half way through
another's dictionaries would leave ids that nobody can tell. What comes out is a dataset like any other, of the new rows
alone, whose dictionaries hold the old values first; their counts are those of the new rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.dictionary_file import read_values
from tablefold.data.encoder_folder import digest_of, keys_of
from tablefold.data.schema import IDS, INTERACTIONS, Schema
from tablefold.data.source import RawSource, id_columns_of
from tablefold.data.table import Columns
from tablefold.json_files import JsonValue
from tablefold.quoting import one_line, quoted

_SAME_VALUES = {"criteo-tb": "criteo", "synthetic": "criteo"}
"""Sources whose values are those of another."""


@dataclass(frozen=True)
class Earlier:
    """The dictionaries of a dataset that another goes on from.

    Args:
        folder: of the dataset.
        schema: what it holds.
    """

    folder: Path
    schema: Schema

    @classmethod
    def open(cls, folder: str | Path) -> Earlier:
        """Of a dataset.

        Raises:
            ValueError: for a folder without one, or one without dictionaries.
        """
        schema = Schema.load(folder)
        if not schema.has_dictionaries:
            kept = "hashes" if schema.source.get("ids") == "hash" else "given"
            raise ValueError(
                f"{folder} has no dictionaries to extend, its ids are {kept}: prepare the new log without --extend, "
                "its values have the same ids"
            )
        return cls(Path(folder), schema)

    @cached_property
    def digest(self) -> str:
        """Of all dictionaries: what is made from them depends on nothing else of the dataset."""
        found = hashlib.blake2b(digest_size=16)
        for number in range(len(self.schema.tables)):
            found.update(digest_of(self._path(number)).encode())
        return found.hexdigest()

    def size(self, number: int) -> int:
        """How many values a table has."""
        return (self.schema.tables[number].rows or 0) - self.schema.first_id

    def values(self, number: int) -> list[str]:
        """The values of a table, in the order of their ids."""
        return [value for piece in read_values(self._path(number), self.size(number)) for value in piece]

    def keys(self, number: int, source: RawSource) -> NDArray[np.int64]:
        """The keys of these values."""
        path, name = self._path(number), self.schema.tables[number].name
        pieces = [keys_of(source, path, name, values) for values in read_values(path, self.size(number))]
        return np.concatenate([np.empty(0, dtype=np.int64), *pieces])

    def texts(self, number: int, source: RawSource) -> pl.DataFrame:
        """Columns "key" and "value" of these values."""
        values = pl.Series(self.values(number), dtype=pl.String)
        return pl.DataFrame({"key": self.keys(number, source), "value": values})

    def check_log(self, source: RawSource, ids: str, permute: int | None) -> None:
        """Refuse a log that this dataset cannot be extended by.

        Raises:
            ValueError: for data of another kind, other columns or another secret, hashed ids, or a permutation.
        """
        if ids != IDS[0]:
            raise ValueError(f"--extend keeps the ids of dictionaries, and --ids {ids} has none: leave out one of them")
        if permute is not None:
            raise ValueError(f"--extend keeps the ids of {self.folder}: leave out --permute-ids")
        described = source.describe()
        self._check_kind(described["name"])
        self._check_columns(described.get("columns"))
        there = [tuple(table.name for table in self.schema.tables), self.schema.dense, self.schema.id_columns]
        for what, old, new in zip(
            ("tables", "dense columns", "lists"),
            there,
            [source.tables, source.dense, id_columns_of(source)],
            strict=True,
        ):
            if old != new:
                raise ValueError(
                    f"{self.folder} has other {what} than this log: extend it by a log of the same columns"
                )
        self.check_secret(described.get("private"))

    def check_interactions(self, names: tuple[str, str], attributes: bool, permute: int | None) -> None:
        """As `check_log`, for a file of users and items."""
        self._check_kind(INTERACTIONS)
        tables = tuple(table.name for table in self.schema.tables)
        if attributes or len(tables) > len(names) or self.schema.lookups:
            raise ValueError(
                "--extend goes with users and items alone: leave out --user-columns and --item-columns, or prepare all "
                "files anew"
            )
        if tables != names:
            raise ValueError(
                f"{self.folder} has the columns {', '.join(map(quoted, tables))}: give these, with --extend"
            )
        if permute is not None:
            raise ValueError(f"--extend keeps the ids of {self.folder}: leave out --permute-ids")

    def check_secret(self, private: str | None) -> None:
        """Refuse values that are hashed under another secret, or under none.

        Raises:
            ValueError: says what to do.
        """
        if self.schema.source.get("private") != private:
            raise ValueError(
                f"{self.folder} and this log hold no hashes under the same secret: give the secret of {self.folder} by "
                "--private"
            )

    def _check_kind(self, name: str) -> None:
        own = self.schema.source["name"]
        if _SAME_VALUES.get(own, own) != _SAME_VALUES.get(name, name):
            raise ValueError(
                f"{self.folder} was prepared from {own!r}, this log is {name!r}: extend a dataset by a log of its kind"
            )

    def _check_columns(self, columns: Mapping[str, Any] | None) -> None:
        """Refuse a table whose columns are read otherwise; where it is split may change."""
        if columns is None:
            return
        old, new = (asdict(_without_split(each)) for each in (self.columns, _columns(columns)))
        for name, value in old.items():
            if new[name] != value:
                raise ValueError(
                    f"{self.folder} was prepared with {name} = {_shown(value)}, this schema says {_shown(new[name])}: "
                    "leave out --schema to take that of the dataset"
                )

    @property
    def columns(self) -> Columns:
        """Of a dataset of a table: what its schema file said; `ValueError` of another kind."""
        self._check_kind("table")
        return _columns(self.schema.source["columns"])

    def _path(self, number: int) -> Path:
        return self.folder / self.schema.dictionary_file(self.schema.tables[number].name)


class Known:
    """Keys that have a place already, to be found again among many.

    >>> Known(np.array([7, 3, 9])).places(np.array([3, 4, 9]))
    array([ 1, -1,  2])
    """

    def __init__(self, keys: NDArray[np.int64]) -> None:
        self.keys = keys
        self._order = np.argsort(keys)
        self._sorted = keys[self._order]

    def places(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each key; -1 where it has none."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self.keys) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1)


def _columns(content: Mapping[str, Any]) -> Columns:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}
    return Columns.of_json(JsonValue(plain, "schema.json", "source.columns"))


def _without_split(columns: Columns) -> Columns:
    return replace(columns, split="order", time="", test_from="", confirmed=())


def _shown(value: Any) -> str:
    return one_line(", ".join(value) if isinstance(value, tuple) else str(value), 100) or "none"
