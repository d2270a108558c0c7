"""What a prepared dataset holds: `DIR/schema.json` as a frozen dataclass.

A prepared dataset is a folder:

    schema.json                   this page
    train/000000.arrow ...        shards (Arrow IPC, memory-mappable): dense, ids, label; likewise test/, validation/
    dictionary/000000.parquet     raw value and training count of every id of a column, in id order
    history.parquet               optional: the last items that every user took in training
    lookup/000000.parquet         optional: attributes of every id (of the user: gender, age)
    rejects.parquet               the lines that were no examples: file, line, reason, text
    secret                        under which values are hashed, where dictionaries hold hashes

Files are numbered, never named after a column: a column may be called anything. The number is the column's place in
`Schema.columns`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tablefold.files import new_file
from tablefold.json_files import JsonValue, load_json
from tablefold.quoting import quoted
from tablefold.tables import MAX_ROWS, Column, TableSpec, check_columns, plain_columns

SCHEMA_FILE = "schema.json"
FORMAT = 2
"""Version of the layout above; a reader refuses one that it does not know."""
FORMAT_OF_NAMES = 1
"""The layout before it, which is read: dictionaries are named after their columns, shards have no checksums."""
HISTORY_FILE = "history.parquet"
"""Of interactions with histories: the last items that each user took in training, by the users' ids."""

INTERACTIONS_ITEM = 1
"""Of its tables the first are the users, the second the items."""

PARTS = ("train", "test", "validation")
IDS = ("dictionary", "hash")
"""How values become ids: ranked in a dictionary, or by a hash."""

INTERACTIONS = "interactions"
"""The source whose tables are closed catalogues: every value has an id, and no id stands for anything else."""

MISSING_ID = 0
"""Id of a missing value, in every table built from a dictionary of a log."""
UNSEEN_ID = 1
"""Id of a value below `--min-count` or unseen in training."""
RESERVED_IDS = 2
"""Ids of values that own one start here."""

_MOST_SHARD_ROWS = 1 << 40
_CHECKSUM_BITS = 32


def dictionary_file(number: int) -> str:
    """Where the dictionary of column `number` is, within a dataset's folder.

    >>> dictionary_file(3)
    'dictionary/000003.parquet'
    """
    return f"dictionary/{number:06d}.parquet"


def lookup_file(number: int) -> str:
    """Where the attributes of column `number` are, within a dataset's folder."""
    return f"lookup/{number:06d}.parquet"


def named_dictionary_file(column: str) -> str:
    """Where a dictionary is in the layout `FORMAT_OF_NAMES`.

    Raises:
        ValueError: for a name that leads elsewhere.
    """
    if column in ("", ".", "..") or set(column) & set("/\\\0"):
        raise ValueError(f"the column {quoted(column)} cannot name a file; prepare the data again")
    return f"dictionary/{column}.parquet"


@dataclass(frozen=True)
class PartSchema:
    """One part of the split.

    Args:
        rows: examples.
        positives: examples with label 1.
        shards: rows of each shard file, in order.
        checksums: CRC-32 of each shard file; empty where none were recorded.
    """

    rows: int
    positives: int
    shards: tuple[int, ...]
    checksums: tuple[int, ...] = ()

    @property
    def label_rate(self) -> float | None:
        """Share of label 1; None for an empty part."""
        return self.positives / self.rows if self.rows else None


@dataclass(frozen=True)
class TableSchema:
    """One categorical column: its name and how many ids it has (None: open vocabulary, any int64 is an id)."""

    name: str
    rows: int | None


@dataclass(frozen=True)
class Schema:
    """A prepared dataset's description.

    Args:
        dense: names of the dense columns, in order; may be empty.
        tables: the categorical columns, in order.
        parts: "train", "test", "validation".
        source: how it was prepared: the source's name and options, the input files and their sizes.
        rejected: input lines that are in `rejects.parquet` instead of a part.
        best: of a synthetic log, per part: what the model that drew the labels reaches ("logloss", "auc").
        lookups: tables with a file of attributes, and the attributes in it with their number of ids.
        format: version of the layout that was read; what is written has the present one.
        id_columns: what the matrix of ids holds; an id for every table unless given.
        weighted: whether every row has a weight, by which it counts in training.
        negatives_kept: share of the training part's rows of label 0 that it has; models that learn from it add its
            logarithm to their logits while they do, so that what they predict is of the whole log.

    Raises:
        ValueError: for columns of ids that do not read the tables.
    """

    dense: tuple[str, ...]
    tables: tuple[TableSchema, ...]
    parts: dict[str, PartSchema]
    source: dict[str, Any] = field(default_factory=dict)
    rejected: int = 0
    best: dict[str, dict[str, float]] | None = None
    lookups: dict[str, dict[str, int]] = field(default_factory=dict)
    format: int = FORMAT
    id_columns: tuple[Column, ...] = ()
    weighted: bool = False
    negatives_kept: float = 1.0

    def __post_init__(self) -> None:
        names = [table.name for table in self.tables]
        columns = check_columns(self.id_columns, names) if self.id_columns else self._plain_columns
        object.__setattr__(self, "id_columns", columns)

    @property
    def _plain_columns(self) -> tuple[Column, ...]:
        """A column of single ids for each table; of interactions it is known of whom they tell."""
        columns = plain_columns(table.name for table in self.tables)
        if self.source.get("name") != INTERACTIONS or len(columns) <= INTERACTIONS_ITEM:
            return columns
        items = {INTERACTIONS_ITEM, *(self.columns.index(name) for name in self._of_items)}
        return tuple(
            replace(column, side="item" if number in items else "user") for number, column in enumerate(columns)
        )

    @property
    def _of_items(self) -> list[str]:
        """The items' attributes."""
        names = [table.name for table in self.tables]
        return [name for name in self.lookups.get(names[INTERACTIONS_ITEM], {}) if name in names]

    @property
    def rows(self) -> int:
        """Examples of all parts together."""
        return sum(part.rows for part in self.parts.values())

    @property
    def label_rate(self) -> float:
        """Share of label 1 in all parts together."""
        return sum(part.positives for part in self.parts.values()) / self.rows

    @property
    def columns(self) -> list[str]:
        """The columns that may have a dictionary: the tables, then the attributes that are no tables."""
        attributes = [name for names in self.lookups.values() for name in names]
        return list(dict.fromkeys([*(table.name for table in self.tables), *attributes]))

    @property
    def first_id(self) -> int:
        """The id of a table's first value; those below it stand for no value."""
        return 0 if self.source.get("name") in (None, INTERACTIONS) else RESERVED_IDS

    @property
    def has_dictionaries(self) -> bool:
        """Whether ids are numbers of values in dictionaries: not hashes, nor what came as ids."""
        return self.source.get("name") is not None and self.source.get("ids") != "hash"

    def is_attribute(self, number: int) -> bool:
        """Whether a table's ids are attributes of another table's: its dictionary counts their owners."""
        return any(self.tables[number].name in names for names in self.lookups.values())

    def dictionary_file(self, column: str) -> str:
        """Where the dictionary of a column is, within the dataset's folder.

        Raises:
            ValueError: for a dataset whose files are named after its columns, and a name that leads elsewhere.
        """
        if self.format == FORMAT_OF_NAMES:
            return named_dictionary_file(column)
        return dictionary_file(self.columns.index(column))

    def table_specs(self, dim: int) -> list[TableSpec]:
        """The categorical columns as tables of `dim` floats per id."""
        return [TableSpec(table.name, table.rows, dim) for table in self.tables]

    def save(self, folder: Path) -> None:
        """Write `folder/schema.json`."""
        content = {"rows": self.rows, "label_rate": self.label_rate, **asdict(self), "format": FORMAT}
        if self.id_columns == self._plain_columns:
            del content["id_columns"]
        for name in ("weighted", "negatives_kept"):
            if content[name] == type(self).__dataclass_fields__[name].default:
                del content[name]  # as it was before there were such
        for name, part in self.parts.items():
            content["parts"][name]["label_rate"] = part.label_rate
        with new_file(folder / SCHEMA_FILE) as file:
            file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Schema:
        """Read `folder/schema.json`.

        Raises:
            ValueError: if the folder holds no dataset, one of another format, or a damaged one.
        """
        path = Path(folder) / SCHEMA_FILE
        if not path.is_file():
            raise ValueError(f"{folder} holds no prepared dataset (no {SCHEMA_FILE}); see `tablefold prepare`")
        content = load_json(path)
        written = content["format"]
        if written.integer() not in (FORMAT_OF_NAMES, FORMAT):
            raise ValueError(f"{path} has format {quoted(written.plain)}, not {FORMAT}; prepare the data again")
        content["parts"].refuse_unknown(PARTS)
        tables = tuple(_table(table) for table in content["tables"].items())
        columns = tuple(column.into(Column) for column in content["id_columns"].optional(JsonValue.items, []))
        if columns:
            with content["id_columns"].naming():
                check_columns(columns, [table.name for table in tables])
        schema = cls(
            dense=tuple(name.text() for name in content["dense"].items()),
            tables=tables,
            parts={name: _part(content["parts"][name]) for name in PARTS},
            source=_source(content["source"]),
            rejected=content["rejected"].integer(least=0),
            best=content["best"].optional(read_best, None),
            lookups={owner: _attributes(names) for owner, names in content["lookups"].fields().items()},
            format=written.integer(),
            id_columns=columns,
            weighted=content["weighted"].optional(JsonValue.flag, False),
            negatives_kept=content["negatives_kept"].optional(JsonValue.number, 1.0),
        )
        schema._check(content)
        return schema

    def _check(self, content: JsonValue) -> None:
        """Refuse what fits each field, but not together."""
        names = [table.name for table in self.tables]
        if not names or "" in names or len(set(names)) < len(names):
            content["tables"].refuse("tables with names, none of them twice")
        if not set(self.lookups) <= set(names):
            content["lookups"].refuse("attributes of some of the tables")
        if not self.rows:
            content["parts"].refuse("parts that hold a row")


def read_best(content: JsonValue) -> dict[str, dict[str, float]]:
    """The best reachable figures of every part, as `Schema.best` has them."""
    best = {}
    for part, figures in content.fields().items():
        if part not in PARTS:
            figures.refuse(f"the figures of one of {', '.join(PARTS)}")
        figures.refuse_unknown(("logloss", "auc"))
        best[part] = {name: figure.number(least=0) for name, figure in figures.fields().items()}
        figures["logloss"].number()
    return best


def _table(content: JsonValue) -> TableSchema:
    rows = content["rows"]
    return TableSchema(content["name"].text(), None if rows.plain is None else rows.integer(1, MAX_ROWS))


def _attributes(content: JsonValue) -> dict[str, int]:
    return {name: rows.integer(1, MAX_ROWS) for name, rows in content.fields().items()}


def _source(content: JsonValue) -> dict[str, Any]:
    """How the data was prepared; the fields that decide how it is read are checked, others are for the reader."""
    fields = content.fields()
    if "name" in fields:
        fields["name"].text()
    if "private" in fields:
        fields["private"].text()
    if "ids" in fields:
        fields["ids"].choice(IDS)
    return {name: value.plain for name, value in fields.items()}


def _part(content: JsonValue) -> PartSchema:
    rows = content["rows"].integer(least=0)
    shards = tuple(shard.integer(0, _MOST_SHARD_ROWS) for shard in content["shards"].items())
    if sum(shards) != rows:
        content["shards"].refuse(f"the rows of shards that hold the part's {rows:,} rows")
    checksums = tuple(
        checksum.integer(0, (1 << _CHECKSUM_BITS) - 1)
        for checksum in content["checksums"].optional(JsonValue.items, [])
    )
    if checksums and len(checksums) != len(shards):
        content["checksums"].refuse(f"a checksum for each of {len(shards)} shards")
    return PartSchema(rows, content["positives"].integer(0, rows), shards, checksums)
