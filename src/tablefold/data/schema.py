"""What a prepared dataset holds: `DIR/schema.json` as a frozen dataclass.

A prepared dataset is a folder:

    schema.json                 this page
    train/00000.arrow ...       shards (Arrow IPC, memory-mappable): dense, ids, label; likewise test/, validation/
    dictionary/TABLE.parquet    raw value and training count of every id, in id order
    lookup/TABLE.parquet        optional: attributes of every id (`user` -> gender, age)
    rejects.parquet             the lines that were no examples: file, line, reason, text
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tablefold.files import new_file
from tablefold.tables import TableSpec

SCHEMA_FILE = "schema.json"
FORMAT = 1
"""Version of the layout above; a reader refuses another."""

PARTS = ("train", "test", "validation")

MISSING_ID = 0
"""Id of a missing value, in every table built from a dictionary of a log."""
UNSEEN_ID = 1
"""Id of a value below `--min-count` or unseen in training."""
RESERVED_IDS = 2
"""Ids of values that own one start here."""


@dataclass(frozen=True)
class PartSchema:
    """One part of the split.

    Args:
        rows: examples.
        positives: examples with label 1.
        shards: rows of each shard file, in order.
    """

    rows: int
    positives: int
    shards: tuple[int, ...]

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
        lookups: tables with a `lookup/TABLE.parquet`, and the attributes in it with their number of ids.
    """

    dense: tuple[str, ...]
    tables: tuple[TableSchema, ...]
    parts: dict[str, PartSchema]
    source: dict[str, Any] = field(default_factory=dict)
    rejected: int = 0
    best: dict[str, dict[str, float]] | None = None
    lookups: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Examples of all parts together."""
        return sum(part.rows for part in self.parts.values())

    @property
    def label_rate(self) -> float:
        """Share of label 1 in all parts together."""
        return sum(part.positives for part in self.parts.values()) / self.rows

    def table_specs(self, dim: int) -> list[TableSpec]:
        """The categorical columns as tables of `dim` floats per id."""
        return [TableSpec(table.name, table.rows, dim) for table in self.tables]

    def save(self, folder: Path) -> None:
        """Write `folder/schema.json`."""
        content = {"format": FORMAT, "rows": self.rows, "label_rate": self.label_rate, **asdict(self)}
        for name, part in self.parts.items():
            content["parts"][name]["label_rate"] = part.label_rate
        with new_file(folder / SCHEMA_FILE) as file:
            file.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Schema:
        """Read `folder/schema.json`.

        Raises:
            ValueError: if the folder holds no dataset, or one of another format.
        """
        path = Path(folder) / SCHEMA_FILE
        if not path.is_file():
            raise ValueError(f"{folder} holds no prepared dataset (no {SCHEMA_FILE}); see `tablefold prepare`")
        try:
            content = json.loads(path.read_text())
            if content.get("format") != FORMAT:
                raise ValueError(f"{path} has format {content.get('format')}, not {FORMAT}; prepare the data again")
            return cls(
                dense=tuple(content["dense"]),
                tables=tuple(TableSchema(**table) for table in content["tables"]),
                parts={name: _part(part) for name, part in content["parts"].items()},
                source=content["source"],
                rejected=content["rejected"],
                best=content["best"],
                lookups=content["lookups"],
            )
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}); prepare the data again") from error


def _part(content: dict[str, Any]) -> PartSchema:
    return PartSchema(content["rows"], content["positives"], tuple(content["shards"]))
