"""The folder that travels with a model and says how raw values become its inputs.

    encoder.json                  the source's name and columns, the kind of ids, digests of the dictionaries
    dictionary/000000.parquet     raw value and count of every id of a table, in the model's order; none for hashed ids
    dictionary/000000.index       from values to ids, as it is mapped into memory (`tablefold.data.value_index`)
    history.npy                   of interactions with histories: what every user took last, by the model's ids

The order of its dictionaries is the model's numbering: there is none beside it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tablefold.data.avazu import Avazu
from tablefold.data.criteo import Criteo
from tablefold.data.dataset import Dataset
from tablefold.data.dictionary_file import read_values, write_dictionary, write_reordered
from tablefold.data.histories import histories, history_column
from tablefold.data.private import SECRET_FILE, Private, fingerprint, read_secret, write_secret
from tablefold.data.schema import (
    IDS,
    INTERACTIONS,
    RESERVED_IDS,
    TableSchema,
    dictionary_file,
    named_dictionary_file,
)
from tablefold.data.source import RawSource
from tablefold.data.table import Columns, Table
from tablefold.data.times import ORDER, YEARS
from tablefold.data.value_index import RepeatedKeyError, ValueIndex, index_bytes
from tablefold.json_files import JsonValue, load_json, write_json
from tablefold.quoting import one_line, quoted
from tablefold.tables import Column

FORMAT = 3
"""Version of the folder's layout; a reader refuses one that it does not know."""
FORMAT_WITHOUT_INDEX = 2
"""The layout before it, which is read: it holds dictionaries alone, and no digests."""
FORMAT_OF_NAMES = 1
"""The layout before that: dictionaries are named after their tables, too."""

RECIPE_FILE = "encoder.json"
INDEX = ".index"
HISTORY = "history.npy"
GIVEN_IDS = "ids"
"""The source of data that came as ids, where a run has them in an order of its own: its values are those ids."""

_DIGEST_BYTES = 16
_SOURCES: dict[str, Callable[[str, Any], RawSource]] = {
    "criteo": lambda file, _: Criteo((file,)),
    "criteo-tb": lambda file, _: Criteo((file,)),
    "synthetic": lambda file, _: Criteo((file,)),  # `tablefold generate` writes the same log as Criteo's lines
    "avazu": lambda file, _: Avazu((file,)),
    "table": lambda file, columns: Table((file,), columns),
    INTERACTIONS: lambda file, columns: Table((file,), columns),
    GIVEN_IDS: lambda file, columns: Table((file,), columns),
}
_CLOSED = (INTERACTIONS, GIVEN_IDS)


@dataclass(frozen=True)
class EncoderFolder:
    """What the folder of a model says.

    Args:
        folder: where it is.
        name: of the source.
        columns: of a source that is a table.
        ids: "dictionary" or "hash".
        tables: the model's.
        format: of the folder.
        digests: of each dictionary and its index; empty in older folders.
        private: tells the secret under which values are hashed; None where dictionaries hold values.
        history: the column of ids that holds what a user took, which raw values do not carry; None without one.
        history_digest: of the file that holds it for every user.
    """

    folder: Path
    name: str
    columns: Columns | None
    ids: str
    tables: tuple[TableSchema, ...]
    format: int
    digests: tuple[tuple[str, str], ...]
    private: str | None = None
    history: Column | None = None
    history_digest: str = ""

    @classmethod
    def read(cls, folder: Path, dense: Sequence[str], tables: Sequence[Any]) -> EncoderFolder:
        """Read `encoder.json`.

        Args:
            folder: what `save_encoder` wrote.
            dense: names of the model's dense columns.
            tables: the model's tables, of which each has a `name` and `rows`.

        Raises:
            ValueError: for a folder that is missing, damaged, or does not belong to `dense` and `tables`.
        """
        path, schemas = folder / RECIPE_FILE, tuple(TableSchema(table.name, table.rows) for table in tables)
        if not path.is_file():
            raise ValueError(
                f"{folder.parent} cannot read raw lines (no {folder.name}/{RECIPE_FILE}): its data was not prepared "
                f"from {', '.join(name for name in _SOURCES if name != GIVEN_IDS)}, or by an earlier version"
            )
        content = load_json(path)
        written = content["format"].integer()
        if written not in (FORMAT_OF_NAMES, FORMAT_WITHOUT_INDEX, FORMAT):
            raise ValueError(f"{path} has format {written}, not {FORMAT}")
        name, columns = content["name"].choice(_SOURCES), content["columns"].optional(Columns.of_json, None)
        if name == "table" and columns is None:
            content["columns"].refuse("the columns of a table")
        columns = _columns(name, columns, dense, schemas)
        ids = content["ids"].choice(IDS)
        digests: tuple[tuple[str, str], ...] = ()
        if written == FORMAT and ids == IDS[0]:
            digests = tuple(_digests(each) for each in content["dictionaries"].items())
            if len(digests) != len(schemas):
                content["dictionaries"].refuse(f"a list of {len(schemas)}, one for each table")
        private = content["private"].optional(JsonValue.text, None)
        history = content["history"].optional(lambda value: value["column"].into(Column), None)
        digest = "" if history is None else content["history"]["digest"].text()
        read = cls(folder, name, columns, ids, schemas, written, digests, private, history, digest)
        read._check_columns(tuple(dense))
        return read

    @property
    def is_closed(self) -> bool:
        """Whether the tables are closed catalogues: every id stands for a value, and a row with another has no id."""
        return self.name in _CLOSED

    @property
    def is_given_ids(self) -> bool:
        """Whether its values are the ids that the data came with."""
        return self.name == GIVEN_IDS

    @property
    def first_id(self) -> int:
        """The id of a table's first value."""
        return 0 if self.is_closed else RESERVED_IDS

    def source(self, file: str = "") -> RawSource:
        """What reads a raw file; without one, values in memory.

        Raises:
            ValueError: where values are hashed under a secret that is not there.
        """
        source = self._plain_source(file)
        if not file and isinstance(source, Table):
            source = source.unlabelled()  # others look at a file for that
        return source if self.private is None else Private(source, self._secret())

    def _plain_source(self, file: str) -> RawSource:
        return _SOURCES[self.name](file, self.columns)

    def _secret(self) -> bytes:
        path = self.folder / SECRET_FILE
        if not path.is_file():
            raise ValueError(f"{path} is missing, and raw values are hashed under the secret in it; restore it")
        secret = read_secret(path)
        if fingerprint(secret) != self.private:
            raise ValueError(f"{path} is not the secret under which the values of {self.folder} are hashed; restore it")
        return secret

    @property
    def false_match(self) -> float:
        """The odds that a value which training has not shown is taken for one that it has, of the largest table."""
        is_hashed = self.private is not None or isinstance(self._plain_source(""), Table)
        return max(table.rows or 0 for table in self.tables) / 2.0**64 if is_hashed and self.ids == IDS[0] else 0.0

    def dictionary(self, number: int) -> Path:
        """The dictionary of a table.

        Raises:
            ValueError: where there is none.
        """
        name = self.tables[number].name
        if self.ids != IDS[0]:
            raise ValueError(
                f"{self.folder.parent}: the raw values of {quoted(name)} are not known: its ids are hashes of them; "
                "prepare the data with --ids dictionary to have them"
            )
        is_named = self.format == FORMAT_OF_NAMES
        return self.folder / (named_dictionary_file(name) if is_named else dictionary_file(number))

    def digest(self, number: int) -> str:
        """Of a table's dictionary."""
        return self.digests[number][0] if self.digests else digest_of(self.dictionary(number))

    def index(self, number: int, work: Path | None = None, *, checked: bool = False) -> ValueIndex:
        """From the values of a table to their ids.

        Args:
            number: of the table.
            work: an existing folder for the indexes of an older folder; None keeps them in memory.
            checked: another process has checked the file, or left it in `work`.

        Raises:
            ValueError: where the dictionary or its index are missing or damaged, or of another dataset.
        """
        path, table = self.dictionary(number), self.tables[number]
        values = (table.rows or 0) - self.first_id
        if table.rows is None or values < 0:
            raise ValueError(f"{path} is of another dataset: the model's table {quoted(table.name)} has no dictionary")
        if self.format == FORMAT:
            file = path.with_suffix(INDEX)
            if not checked and digest_of(file) != self.digests[number][1]:
                raise ValueError(f"{file} is damaged (its digest is not that of {RECIPE_FILE}); restore it")
            return ValueIndex.open(file, values)
        if work is None:
            return build_index(self.source(), path, table, self.first_id)
        left = work / f"{number:06d}{INDEX}"
        if not checked:
            build_index(self.source(), path, table, self.first_id).save(left)
        return ValueIndex.open(left, values)

    def histories(self, *, checked: bool = False) -> NDArray[np.int32] | None:
        """What every user took last, ids of items `[users, history]`, mapped into memory; None where nobody asks.

        Args:
            checked: another process has checked the file.

        Raises:
            ValueError: where the file is missing or damaged.
        """
        if self.history is None:
            return None
        path, shape = self.folder / HISTORY, (self.tables[0].rows, self.history.length)
        if not checked and digest_of(path) != self.history_digest:
            raise ValueError(f"{path} is damaged (its digest is not that of {RECIPE_FILE}); restore it")
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is missing or damaged ({one_line(str(error), 200)}); restore it") from error
        if found.dtype != np.int32 or found.shape != shape:
            raise ValueError(f"{path} is {found.dtype} {list(found.shape)}, it must be int32 {list(shape)}")
        return np.asarray(found)

    def ways_of_numbers(self, dense: Sequence[str]) -> list[str]:
        """How raw values become each of a model's dense columns: `log1p`, of what is no less than 0; `identity`; or,
        of times, `years since 2020`.

        Missing ones are 0.
        """
        counts = dense if self.columns is None else self.columns.counts
        times = {name + ORDER for name in self.columns.times} if self.columns else set()
        return ["log1p" if name in counts else YEARS if name in times else "identity" for name in dense]

    def _check_columns(self, dense: tuple[str, ...]) -> None:
        path, source = self.folder / RECIPE_FILE, self._plain_source("")
        tables = tuple(table.name for table in self.tables)
        if tuple(source.tables) != tables:
            raise ValueError(f"{path} does not belong to a model of the tables {one_line(', '.join(tables), 200)}")
        if tuple(source.dense) != dense:
            names = [one_line(", ".join(each), 200) or "none" for each in (source.dense, dense)]
            raise ValueError(
                f"{path} does not belong to this model: it reads the dense columns {names[0]} for {names[1]}"
            )


def check_encoder(dataset: Dataset) -> None:
    """Refuse a dataset that lacks what `save_encoder` takes from it: better before a training than after it.

    Raises:
        ValueError: names the dictionary that is missing.
    """
    schema = dataset.schema
    if schema.source.get("private") is not None and not (dataset.folder / SECRET_FILE).is_file():
        raise ValueError(f"{dataset.folder / SECRET_FILE} is missing, and raw values are hashed under the secret in it")
    if dataset.encoder is not None and not dataset.encoder.is_dir():
        raise ValueError(f"{dataset.encoder} is missing, and its are the ids of the data here")
    for number, table in enumerate(schema.tables if _has_values(dataset) else ()):
        if dataset.dictionary(number) is None:
            path = dataset.folder / schema.dictionary_file(table.name)
            raise ValueError(f"{path} is missing, and raw lines cannot be scored without: prepare the data again")


def dictionary_bytes(dataset: Dataset) -> int:
    """Bytes of the indexes that scoring raw values takes; 0 where ids are hashes, or came as ids."""
    tables = dataset.schema.tables if _has_values(dataset) else ()
    return sum(index_bytes((table.rows or 0) - dataset.schema.first_id) for table in tables)


def save_encoder(dataset: Dataset, folder: Path) -> None:
    """Write the new folder `folder`, its dictionaries in the dataset's order; nothing where ids came as ids, and stay.

    A dictionary in the order of the dataset's folder is a hard link where the file system allows, for it never changes:
    it takes no space, and a copy of the folder to elsewhere is whole.

    Raises:
        ValueError: for a dictionary that is damaged, or holds a value twice.
    """
    if dataset.encoder is not None:  # the ids are those of another run
        shutil.copytree(dataset.encoder, folder, copy_function=_link)
        return
    source, schema = dataset.schema.source, dataset.schema
    name = source["name"] if source.get("name") in _SOURCES else GIVEN_IDS
    if name == GIVEN_IDS and dataset.numbering is None:
        return
    folder.mkdir()
    content = {"format": FORMAT, "name": name, "columns": source.get("columns"), "ids": source.get("ids", IDS[0])}
    raw = _SOURCES[name]("", _columns(name, _of_plain(source.get("columns")), schema.dense, schema.tables))
    if source.get("private") is not None:
        content["private"] = source["private"]
        raw = Private(raw, read_secret(dataset.folder / SECRET_FILE))
        write_secret(raw.secret, folder / SECRET_FILE)
    digests, orders = [], dataset.numbering.old_ids if dataset.numbering else ()
    for number, table in enumerate(schema.tables if content["ids"] == IDS[0] else ()):
        path = folder / dictionary_file(number)
        path.parent.mkdir(exist_ok=True)
        _write_dictionary(dataset, number, path, orders[number] if orders else None)
        index = path.with_suffix(INDEX)
        build_index(raw, path, table, schema.first_id).save(index)
        digests.append({"values": digest_of(path), "index": digest_of(index)})
    if (column := history_column(dataset)) is not None:
        np.save(folder / HISTORY, histories(dataset).astype(np.int32))
        content["history"] = {"column": asdict(column), "digest": digest_of(folder / HISTORY)}
    write_json(folder / RECIPE_FILE, {**content, "dictionaries": digests})


def files_to_score(folder: Path) -> list[Path]:
    """The files of an encoder's folder that scoring raw values reads: dictionaries only where they have no index."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if path.suffix == INDEX or path.with_suffix(INDEX) not in files]


def build_index(source: RawSource, path: Path, table: TableSchema, first: int) -> ValueIndex:
    """The index of a table's dictionary.

    Raises:
        ValueError: for a dictionary that is damaged or does not belong to the table, or holds a value twice.
    """
    size = (table.rows or 0) - first
    pieces = (keys_of(source, path, table.name, values) for values in read_values(path, size, nulls=first == 0))
    try:
        return ValueIndex.build(pieces, size, first)
    except RepeatedKeyError as error:
        one, other = (quoted(value_at(path, size, place)) for place in error.places)
        words = f"the value {one} twice" if one == other else f"{one} and {other}, which have one hash"
        raise ValueError(f"{path} holds {words}: an id is for one value; prepare the data again") from error


def keys_of(source: RawSource, path: Path, table: str, values: Sequence[Any]) -> NDArray[np.int64]:
    """The keys of some values of a dictionary.

    Raises:
        ValueError: for a value that the source cannot have.
    """
    try:
        return source.keys(table, values)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: a value of it {error}") from error


def value_at(path: Path, size: int, place: int) -> str | None:
    """One value of a dictionary."""
    values: Iterator[str | None] = (value for piece in read_values(path, size, nulls=True) for value in piece)
    return next(value for number, value in enumerate(values) if number == place)


def digest_of(path: Path) -> str:
    """Of a file's bytes.

    Raises:
        ValueError: for a file that is missing.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)).hexdigest()
    except OSError as error:
        raise ValueError(f"{path} is missing or damaged ({error.strerror or error}); restore it") from error


def _has_values(dataset: Dataset) -> bool:
    """Whether the dataset's ids stand for raw values, by dictionaries."""
    source = dataset.schema.source
    return source.get("name") in _SOURCES and source.get("ids") != "hash"


def _columns(name: str, columns: Columns | None, dense: Sequence[str], tables: Sequence[TableSchema]) -> Columns | None:
    """The columns of a table; of closed catalogues the model's own."""
    return Columns("", tuple(table.name for table in tables), tuple(dense)) if name in _CLOSED else columns


def _of_plain(columns: Any) -> Columns | None:
    return None if columns is None else Columns.of_json(JsonValue(columns, "schema.json", "source.columns"))


def _digests(content: JsonValue) -> tuple[str, str]:
    return content["values"].text(), content["index"].text()


def _write_dictionary(dataset: Dataset, number: int, path: Path, order: NDArray[np.int32] | None) -> None:
    """The dictionary of a table with its old ids in a new order; where its ids came as ids these are its values."""
    original, first = dataset.dictionary(number), dataset.schema.first_id
    if original is None:
        table = dataset.schema.tables[number]
        ids = np.arange(table.rows or 0) if order is None else order
        write_dictionary(path, [(ids.astype(np.str_), dataset.counts(table.name))])
    elif order is None:
        _link(original, path)
    else:
        write_reordered(path, original, order[first:] - first)


def _link(original: str | Path, copy: str | Path) -> None:
    try:
        os.link(Path(original).resolve(), copy)
    except OSError:  # another file system, or one without links
        shutil.copyfile(original, copy)
