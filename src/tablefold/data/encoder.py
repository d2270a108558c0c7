"""From raw lines to a model's inputs, long after the log it learned from was prepared.

A folder that travels with the model holds what that takes:

    encoder.json                the source's name and columns, the kind of ids
    dictionary/TABLE.parquet    raw value of every id, in id order, as in the dataset; none for hashed ids

Lines are read by the source that prepared the log, and encoded as it was; values that its dictionary does not hold get
the id of unseen ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tablefold.data.avazu import Avazu
from tablefold.data.criteo import Criteo
from tablefold.data.dataset import Dataset
from tablefold.data.dictionary import create_lookup, encode, encode_hashed, insert
from tablefold.data.rejects import RejectRow
from tablefold.data.schema import RESERVED_IDS, TableSchema
from tablefold.data.source import RawSource, Rows, describe_files
from tablefold.data.table import Columns, Table

FORMAT = 1
"""Version of the folder's layout; a reader refuses another."""

RECIPE_FILE, DICTIONARY = "encoder.json", "dictionary"
_VALUES = 1 << 20
"""Values of a dictionary that are read at a time."""


@dataclass(frozen=True)
class Encoded:
    """A piece of a file.

    Args:
        dense: float32 [rows, dense_columns].
        ids: int32 or int64 [rows, tables].
        fits: bool [lines]: which lines of the piece are its rows; the others are rejects.
        rejects: those others, in order; their line numbers count within the file.
    """

    dense: NDArray[np.float32]
    ids: NDArray[Any]
    fits: NDArray[np.bool_]
    rejects: list[RejectRow]


def save_encoder(dataset: Dataset, folder: Path) -> None:
    """Write the encoder of a dataset as the new folder `folder`; nothing where it was not prepared from raw lines.

    A dictionary never changes, so it is a hard link where the file system allows: it takes no space, and a copy of
    the folder to elsewhere is whole.
    """
    source = dataset.schema.source
    if source.get("name") not in _SOURCES:
        return
    folder.mkdir()
    content = {"format": FORMAT, **{key: source.get(key) for key in ("name", "columns", "ids")}}
    (folder / RECIPE_FILE).write_text(json.dumps(content, indent=1) + "\n")
    if source["ids"] == "hash":
        return
    (folder / DICTIONARY).mkdir()
    for table in dataset.schema.tables:
        name = f"{table.name}.parquet"
        original, copy = dataset.folder / DICTIONARY / name, folder / DICTIONARY / name
        try:
            os.link(original.resolve(), copy)
        except OSError:  # another file system, or one without links
            shutil.copyfile(original, copy)


class Encoder:
    """Reads raw lines as a model's inputs.

    Args:
        folder: what `save_encoder` wrote.
        tables: the model's tables.
        work: an existing folder for look-up tables; they are memory-mapped, so the system decides what is in memory.

    Raises:
        ValueError: for a folder that is missing, damaged, or does not belong to `tables`.
    """

    def __init__(self, folder: Path, tables: list[TableSchema], work: Path) -> None:
        path = folder / RECIPE_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder.parent} cannot read raw lines (no {folder.name}/{RECIPE_FILE}): its data was not prepared "
                f"from {', '.join(_SOURCES)}, or by an earlier version"
            )
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"{path} has format {content['format']}, not {FORMAT}")
            self._name, self._columns, hashed = content["name"], content["columns"], content["ids"] == "hash"
            source = self._source("")
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error!r})") from error
        if list(source.tables) != [table.name for table in tables]:
            raise ValueError(f"{path} does not belong to a model of the tables {[table.name for table in tables]}")
        self._work = work
        self._lookups: list[Path] | None = None
        if not hashed:
            self._lookups = [_create_lookup(source, folder / DICTIONARY, table, work) for table in tables]

    def read(self, file: str) -> Iterator[Encoded]:
        """The lines of a file, plain or gzipped, piece by piece in order; labels are not read and may be missing.

        Raises:
            ValueError: for a file that is missing or empty, or not of the format that the model's data had.
        """
        describe_files([file])
        source = self._source(file).unpack(self._work).unlabelled()
        first = 0
        for shard in source.shards():
            rows = source.read(shard)
            first = first or (2 if shard.header else 1)
            ids = encode_hashed(rows.keys) if self._lookups is None else encode(rows.keys, self._lookups)
            rejects = [
                (file, first + reject.line - 1, reject.reason, reject.text.decode("utf-8", "backslashreplace"))
                for reject in rows.rejects
            ]
            yield Encoded(rows.dense, ids, _fits(rows), rejects)
            first += rows.lines

    def _source(self, file: str) -> RawSource:
        return _SOURCES[self._name](file, self._columns)


def _table(file: str, columns: dict[str, Any]) -> Table:
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in columns.items()}
    return Table((file,), Columns(**lists))


_SOURCES: dict[str, Callable[[str, Any], RawSource]] = {
    "criteo": lambda file, _: Criteo((file,)),
    "criteo-tb": lambda file, _: Criteo((file,)),
    "synthetic": lambda file, _: Criteo((file,)),  # `tablefold generate` writes the same log as Criteo's lines
    "avazu": lambda file, _: Avazu((file,)),
    "table": _table,
}


def _fits(rows: Rows) -> NDArray[np.bool_]:
    fits = np.ones(rows.lines, dtype=np.bool_)
    fits[[reject.line - 1 for reject in rows.rejects]] = False
    return fits


def _create_lookup(source: RawSource, folder: Path, table: TableSchema, work: Path) -> Path:
    """The hash table file of one table, from its dictionary file."""
    path, lookup = folder / f"{table.name}.parquet", work / f"lookup-{list(source.tables).index(table.name):06d}"
    first = RESERVED_IDS
    try:
        with pq.ParquetFile(path) as file:
            slots = create_lookup(lookup, file.metadata.num_rows)
            for batch in file.iter_batches(_VALUES, columns=["value"]):
                keys = source.keys(table.name, batch.column(0).to_pylist())
                insert(slots, keys, np.arange(first, first + len(keys), dtype=np.int64))
                first += len(keys)
    except (FileNotFoundError, KeyError, IndexError, pa.ArrowException, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error})") from error
    if first != table.rows:
        raise ValueError(f"{path} holds values for {first:,} ids, the model has {table.rows}: it is of another dataset")
    return lookup
