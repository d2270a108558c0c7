"""From raw lines to a model's inputs, long after the log it learned from was prepared.

A folder that travels with the model holds what that takes:

    encoder.json                  the source's name and columns, the kind of ids
    dictionary/000000.parquet     raw value of every id of a table, in id order, as in the dataset; none for hashed ids

Lines are read by the source that prepared the log, and encoded as it was; values that its dictionary does not hold get
the id of unseen ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.avazu import Avazu
from tablefold.data.criteo import Criteo
from tablefold.data.dataset import Dataset
from tablefold.data.dictionary import create_lookup, encode, encode_hashed, insert, open_lookup
from tablefold.data.dictionary_file import read_values, write_reordered
from tablefold.data.rejects import RejectRow, path_text
from tablefold.data.schema import IDS, RESERVED_IDS, TableSchema, dictionary_file, named_dictionary_file
from tablefold.data.source import RawSource, Rows, describe_files
from tablefold.data.table import PARQUET_ROWS, Columns, Table
from tablefold.json_files import load_json
from tablefold.quoting import one_line, quoted

FORMAT = 2
"""Version of the folder's layout; a reader refuses one that it does not know."""
FORMAT_OF_NAMES = 1
"""The layout before it, which is read: dictionaries are named after their tables."""

RECIPE_FILE = "encoder.json"


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


def check_encoder(dataset: Dataset) -> None:
    """Refuse a dataset that lacks what `save_encoder` takes from it: better before a training than after it.

    Raises:
        ValueError: names the dictionary that is missing.
    """
    for path in _dictionaries(dataset):
        if not path.is_file():
            raise ValueError(f"{path} is missing, and raw lines cannot be scored without: prepare the data again")


def _dictionaries(dataset: Dataset) -> list[Path]:
    """The dictionary of each table; none where ids are hashes, or where nothing was prepared from raw lines."""
    schema = dataset.schema
    if schema.source.get("name") not in _SOURCES or schema.source.get("ids") == "hash":
        return []
    return [dataset.folder / schema.dictionary_file(table.name) for table in schema.tables]


def dictionary_bytes(dataset: Dataset) -> int:
    """Bytes of the dictionaries that scoring raw values takes; 0 where ids are hashes, or came as ids."""
    return sum(path.stat().st_size for path in _dictionaries(dataset) if path.is_file())


def save_encoder(dataset: Dataset, folder: Path) -> None:
    """Write the encoder of a dataset as the new folder `folder`; nothing where it was not prepared from raw lines.

    Its dictionaries are in the dataset's order. One in the order of the folder is a hard link where the file system
    allows, for it never changes: it takes no space, and a copy of the folder to elsewhere is whole.
    """
    source, orders = dataset.schema.source, dataset.numbering.old_ids if dataset.numbering else ()
    if source.get("name") not in _SOURCES:
        return
    folder.mkdir()
    content = {"format": FORMAT, **{key: source.get(key) for key in ("name", "columns", "ids")}}
    (folder / RECIPE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for number, original in enumerate(_dictionaries(dataset)):
        copy = folder / dictionary_file(number)
        copy.parent.mkdir(exist_ok=True)
        order = orders[number] if orders else None
        if order is None:
            _link(original, copy)
        else:
            write_reordered(copy, original, order[RESERVED_IDS:] - RESERVED_IDS)


def _link(original: Path, copy: Path) -> None:
    try:
        os.link(original.resolve(), copy)
    except OSError:  # another file system, or one without links
        shutil.copyfile(original, copy)


class Encoder:
    """Reads raw lines as a model's inputs.

    Args:
        folder: what `save_encoder` wrote.
        dense: names of the model's dense columns.
        tables: the model's tables.
        work: an existing folder for look-up tables; they are memory-mapped, so the system decides what is in memory.
            None keeps them in memory, and writes no file.
        built: another encoder of `folder` has made the look-up tables in `work`; they are opened as they are.

    Attributes:
        dense: names of the dense columns, in order.
        tables: names of the columns that have a table, in order.

    Raises:
        ValueError: for a folder that is missing, damaged, or does not belong to `dense` and `tables`.
    """

    def __init__(
        self,
        folder: Path,
        dense: Sequence[str],
        tables: list[TableSchema],
        work: Path | None = None,
        *,
        built: bool = False,
    ) -> None:
        path = folder / RECIPE_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder.parent} cannot read raw lines (no {folder.name}/{RECIPE_FILE}): its data was not prepared "
                f"from {', '.join(_SOURCES)}, or by an earlier version"
            )
        content = load_json(path)
        written = content["format"].integer()
        if written not in (FORMAT_OF_NAMES, FORMAT):
            raise ValueError(f"{path} has format {written}, not {FORMAT}")
        self._name = content["name"].choice(_SOURCES)
        self._columns = content["columns"].optional(Columns.of_json, None)
        if self._name == "table" and self._columns is None:
            content["columns"].refuse("the columns of a table")
        source = self._source("")
        self.dense, self.tables = tuple(dense), tuple(table.name for table in tables)
        _check_columns(path, source, self.dense, self.tables)
        self._work = work
        self._live = source.unlabelled() if isinstance(source, Table) else source  # others look at a file for that
        self._lookups: list[NDArray[np.int64]] | None = None
        if content["ids"].choice(IDS) == "dictionary":
            named = written == FORMAT_OF_NAMES
            self._lookups = []
            for number, table in enumerate(tables):
                file = folder / (named_dictionary_file(table.name) if named else dictionary_file(number))
                lookup = work and work / f"lookup-{number:06d}"
                slots = open_lookup(lookup) if built and lookup else _create_lookup(source, file, table, lookup)
                self._lookups.append(slots)

    @property
    def lookup_bytes(self) -> int:
        """Bytes of the look-up tables."""
        return sum(lookup.nbytes for lookup in self._lookups or [])

    def read(self, file: str) -> Iterator[Encoded]:
        """The lines of a file, plain or gzipped, piece by piece in order; labels are not read and may be missing.

        Raises:
            ValueError: for a file that is missing or empty, or not of the format that the model's data had.
        """
        describe_files([file])
        with TemporaryDirectory(prefix="tablefold-") if self._work is None else nullcontext(self._work) as work:
            source = self._source(file).unpack(Path(work)).unlabelled()
            first = 0
            for shard in source.shards():
                rows = source.read(shard)
                first = first or (2 if shard.header else 1)
                yield self._encode(rows, path_text(file), first)
                first += rows.lines

    def read_frame(self, frame: pl.DataFrame, origin: str) -> Iterator[Encoded]:
        """The rows of a frame in memory, which errors call `origin`, piece by piece in order.

        Raises:
            ValueError: for a frame without rows or without a column of the model's.
        """
        if not len(frame):
            raise ValueError(f"{origin} has no rows")
        source = self._live
        for start in range(0, len(frame), PARQUET_ROWS):
            yield self._encode(source.read_frame(frame[start : start + PARQUET_ROWS], origin), origin, start + 1)

    def read_values(self, columns: Sequence[Sequence[Any]], origin: str) -> Encoded:
        """The rows of Python values, a column each for `dense` and `tables`, equally long.

        Raises:
            ValueError: for a value that is no text, number, truth, date or time.
        """
        return self._encode(self._live.read_values(columns), origin, 1)

    def _encode(self, rows: Rows, origin: str, first: int) -> Encoded:
        """The rows as ids; they are the lines (or rows) of `origin` from number `first` on."""
        ids = encode_hashed(rows.keys) if self._lookups is None else encode(rows.keys, self._lookups)
        rejects = [(origin, first + reject.line - 1, reject.reason, reject.shown_text) for reject in rows.rejects]
        return Encoded(rows.dense, ids, _fits(rows), rejects)

    def _source(self, file: str) -> RawSource:
        return _SOURCES[self._name](file, self._columns)


_SOURCES: dict[str, Callable[[str, Any], RawSource]] = {
    "criteo": lambda file, _: Criteo((file,)),
    "criteo-tb": lambda file, _: Criteo((file,)),
    "synthetic": lambda file, _: Criteo((file,)),  # `tablefold generate` writes the same log as Criteo's lines
    "avazu": lambda file, _: Avazu((file,)),
    "table": lambda file, columns: Table((file,), columns),
}


def _check_columns(path: Path, source: RawSource, dense: tuple[str, ...], tables: tuple[str, ...]) -> None:
    if tuple(source.tables) != tables:
        raise ValueError(f"{path} does not belong to a model of the tables {one_line(', '.join(tables), 200)}")
    if tuple(source.dense) != dense:
        columns = f"{one_line(', '.join(source.dense), 200) or 'none'} for {one_line(', '.join(dense), 200) or 'none'}"
        raise ValueError(f"{path} does not belong to this model: it reads the dense columns {columns}")


def ways_of_numbers(folder: Path, dense: Sequence[str]) -> list[str]:
    """How raw numbers become each of a model's dense columns, by what `save_encoder` wrote: `log1p`, of what is no less
    than 0; or `identity`. Missing ones are 0."""
    content = load_json(folder / RECIPE_FILE)
    columns = content["columns"].optional(Columns.of_json, None)
    counts = dense if columns is None else columns.counts
    return ["log1p" if name in counts else "identity" for name in dense]


def find_dictionary(folder: Path, tables: Sequence[str], name: str) -> Path:
    """The dictionary of table `name`, one of a model's, in what `save_encoder` wrote.

    Raises:
        ValueError: where there is none.
    """
    content = load_json(folder / RECIPE_FILE)
    if content["ids"].choice(IDS) != "dictionary":
        raise ValueError(
            f"{folder.parent}: the raw values of {quoted(name)} are not known: its ids are hashes of them; "
            "prepare the data with --ids dictionary to have them"
        )
    is_named = content["format"].integer() == FORMAT_OF_NAMES
    return folder / (named_dictionary_file(name) if is_named else dictionary_file(list(tables).index(name)))


def _fits(rows: Rows) -> NDArray[np.bool_]:
    fits = np.ones(rows.lines, dtype=np.bool_)
    if rows.rejects:
        fits[[reject.line - 1 for reject in rows.rejects]] = False
    return fits


def _create_lookup(source: RawSource, path: Path, table: TableSchema, lookup: Path | None) -> NDArray[np.int64]:
    """The hash table of one table, from its dictionary file: in the file `lookup`, or in memory."""
    if table.rows is None or table.rows < RESERVED_IDS:
        raise ValueError(f"{path} is of another dataset: the model's table {quoted(table.name)} has no dictionary")
    first = RESERVED_IDS
    slots = None
    for values in read_values(path, table.rows - RESERVED_IDS):
        if slots is None:  # not before the file is known to hold so many values
            slots = create_lookup(lookup, table.rows - RESERVED_IDS)
        try:
            keys = source.keys(table.name, values)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: a value of it {error}") from error
        insert(slots, keys, np.arange(first, first + len(keys), dtype=np.int64))
        first += len(keys)
    if slots is None:
        slots = create_lookup(lookup, 0)
    if lookup is not None:
        return open_lookup(lookup)
    slots.flags.writeable = False  # as of what is mapped: one type for the compiler
    return slots
