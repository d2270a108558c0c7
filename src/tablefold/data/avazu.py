"""Avazu's click log: CSV with a header; every column but the label and the ad's id is categorical.

`hour` (YYMMDDHH) becomes the hour of the day: hours of later days would all be unseen.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.lines import (
    HEX,
    INTEGER,
    LABEL,
    MISSING,
    SKIP,
    Field,
    Lines,
    field_texts,
    hex_text,
    parse_columns,
    parse_lines,
    parse_values,
)
from tablefold.data.records import plain_columns
from tablefold.data.source import (
    Rows,
    Shard,
    byte_shards,
    describe_files,
    read_bytes,
    read_header,
    unpack_files,
)
from tablefold.data.split import Split

_HEX_COLUMNS = (
    *("site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model"),
)
FIELDS = (
    Field("id", SKIP),
    Field("click", LABEL),
    *(Field(name, INTEGER) for name in ("hour", "C1", "banner_pos")),
    *(Field(name, HEX) for name in _HEX_COLUMNS),
    *(Field(name, INTEGER) for name in ("device_type", "device_conn_type")),
    *(Field(f"C{column}", INTEGER) for column in range(14, 22)),
)
TABLES = tuple(field.name for field in FIELDS[2:])


@dataclass(frozen=True)
class Avazu:
    """Avazu's `train` files, plain or gzipped, in the order of the log; `paths` is where their bytes are."""

    files: tuple[str, ...]
    paths: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    tables: tuple[str, ...] = TABLES
    text: bool = False
    fields: tuple[Field, ...] = FIELDS

    def check_room(self, out: Path) -> None:
        """How much a log takes is known when it is read."""

    def describe(self) -> dict[str, Any]:
        """The source's name and input."""
        return {"name": "avazu", "files": describe_files(self.files)}

    def split(self, shards: list[Shard], rows: list[int]) -> Split:
        """By order."""
        return Split.by_order(sum(rows))

    def unpack(self, folder: Path) -> Avazu:
        """Unpack gzipped files."""
        return replace(self, paths=unpack_files(self.files, folder))

    def shards(self) -> list[Shard]:
        """Pieces of every file, after its header."""
        shards = []
        for file, path in zip(self.files, self.paths or self.files, strict=True):
            header = read_header(path)
            expected = ",".join(field.name for field in self.fields)
            if header.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n") != expected.encode():
                raise ValueError(f"{file}, line 1: the header is not Avazu's ({expected})")
            shards += byte_shards(file, path, len(header))
        if not shards:
            raise ValueError(f"{', '.join(self.files)}: no example in it")
        return shards

    def read(self, shard: Shard) -> Rows:
        """The rows of one piece of a file."""
        return self._rows(parse_lines(read_bytes(shard), ",", self.fields))

    def read_values(self, columns: Sequence[Sequence[Any]]) -> Rows:
        """The rows of Python values, a column each for `tables`."""
        fields = FIELDS[2:]
        return replace(self, fields=fields)._rows(parse_columns(field_texts(columns, fields), ",", fields))

    def read_frame(self, frame: pl.DataFrame, origin: str) -> Rows:
        """The rows of a frame in memory, which errors call `origin`."""
        return self.read_values(plain_columns(origin, frame, TABLES))

    def _rows(self, parsed: Lines) -> Rows:
        keys = parsed.values[-len(TABLES) :]
        label = np.zeros(keys.shape[1], dtype=np.uint8)
        if len(self.fields) > len(TABLES) and self.fields[1].kind == LABEL:
            label = parsed.values[1].astype(np.uint8)
        keys[0] = np.where(keys[0] == MISSING, MISSING, keys[0] % 100)
        dense = np.empty((len(label), 0), dtype=np.float32)
        return Rows(label, dense, keys, parsed.lines, parsed.rejects)

    def unlabelled(self) -> Avazu:
        """Without the column `click` where the header has none, as in Avazu's `test`."""
        has_label = read_header((self.paths or self.files)[0]).split(b",")[1:2] == [b"click"]
        fields = [FIELDS[0], *([Field("click", SKIP)] if has_label else []), *FIELDS[2:]]
        return replace(self, fields=tuple(fields))

    def best(self) -> None:
        """Unknown: the log is real."""

    def raw_values(self, table: str, keys: NDArray[np.int64]) -> NDArray[Any]:
        """Hex digits or decimal ones."""
        return hex_text(keys) if table in _HEX_COLUMNS else keys.astype(np.str_)

    def keys(self, table: str, values: Sequence[str]) -> NDArray[np.int64]:
        """Of hex digits or decimal ones."""
        return parse_values(values, Field(table, HEX if table in _HEX_COLUMNS else INTEGER))
