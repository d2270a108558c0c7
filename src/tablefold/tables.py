"""What a table is, and the letters our shapes are written in.

Shapes in annotations and docstrings use these axes:

| axis       | meaning                                                                                  |
|------------|------------------------------------------------------------------------------------------|
| `batch`    | examples                                                                                 |
| `tables`   | categorical columns, in the order the tables were given                                  |
| `features` | vectors that a group hands to the model; more than `tables` where a table gives several  |
| `dim`      | floats of one vector                                                                     |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tablefold.fields import settle_fields
from tablefold.quoting import quoted

FLOAT_BYTES = 4
"""Bytes of one float32."""

LOOKUP_FILES = "tables.json"
"""In a folder of metadata: the file of each table, by the table's name."""

MAX_ROWS = 1 << 62
"""No table has more rows: addresses are computed in signed 64-bit integers and must not overflow."""


@dataclass(frozen=True)
class TableSpec:
    """One table: the embeddings of one categorical column.

    Args:
        name: the column's name; unique within a group.
        rows: how many ids the column has; valid ids are 0 .. rows - 1. `None` declares an open vocabulary: any
            int64 is an id, which only methods that hash can serve.
        dim: floats of one embedding.

    Raises:
        ValueError: for an empty name, `rows` outside 1 .. 2^62, `dim` below 1, or one of them that is no integer.

    >>> TableSpec("user", rows=29_858, dim=16).num_bytes
    1910912
    """

    name: str
    rows: int | None
    dim: int

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a table needs a name; got an empty one")
        settle_fields(self, f"table {self.name!r}: ")
        if self.rows is not None and not 1 <= self.rows <= MAX_ROWS:
            raise ValueError(f"table {self.name!r}: rows={self.rows} must lie in 1 .. {MAX_ROWS}")
        if self.dim < 1:
            raise ValueError(f"table {self.name!r}: dim={self.dim} must be at least 1")

    @property
    def vocabulary(self) -> int:
        """`rows`, for callers that need a closed vocabulary; raises `ValueError` where it is open."""
        if self.rows is None:
            raise ValueError(
                f"table {self.name!r} has an open vocabulary (rows=None); declare its rows or use a hashing method"
            )
        return self.rows

    @property
    def num_bytes(self) -> int:
        """Bytes of the full table in float32: rows * dim * 4."""
        return self.vocabulary * self.dim * FLOAT_BYTES


NOTHING = -1
"""In the columns of a list: no id. A list that is shorter than its columns ends in such."""


@dataclass(frozen=True)
class Column:
    """A column of raw data as a model reads it: an id for each row, or a list of ids, whose vectors are pooled.

    The matrix of ids `[batch, ids]` has the columns of single ids first, then `length` columns for every list.

    Args:
        name: of the column.
        table: whose ids it has. A list has a table of its own name, or reads that of a column of single ids.
        length: of a list, how many ids it has at most. None for a single id.
        pool: how the vectors of a list become one.
        side: whether it says something of the user or of the item, where that is known.

    Raises:
        ValueError: for a length below 1.

    >>> Column("history", "item", length=20).width
    20
    """

    name: str
    table: str
    length: int | None = None
    pool: Literal["mean", "sum"] = "mean"
    side: Literal["", "user", "item"] = ""

    def __post_init__(self) -> None:
        if self.length is not None and not 1 <= self.length <= LONGEST_LIST:
            raise ValueError(
                f"the list {quoted(self.name)}: its length {quoted(self.length)} must be 1 .. {LONGEST_LIST}"
            )
        if self.pool not in ("mean", "sum"):
            raise ValueError(f"the list {quoted(self.name)}: pool {quoted(self.pool)} must be mean or sum")

    @property
    def width(self) -> int:
        """Columns that it has in the matrix of ids."""
        return 1 if self.length is None else self.length


def plain_columns(names: Iterable[str]) -> tuple[Column, ...]:
    """For each table, by its name, a column of single ids."""
    return tuple(Column(name, name) for name in names)


def check_columns(columns: Sequence[Column], tables: Sequence[str]) -> tuple[Column, ...]:
    """Columns of a matrix of ids as a tuple; `ValueError` where they do not read the tables as `Column` says."""
    lists = [column.length is not None for column in columns]
    singles = [column.table for column in columns if column.length is None]
    own = [column.table for column in columns if column.length is not None and column.table not in singles]
    if (
        sorted(lists) != lists
        or singles + own != list(dict.fromkeys([*singles, *own]))
        or set(singles + own) != set(tables)
        or singles != [name for name in tables if name in singles]
    ):
        raise ValueError("columns must read every table once, single ids in the order of the tables, lists behind them")
    return tuple(columns)


LONGEST_LIST = 10_000
"""More than that is no list for a row to carry."""


def full_bytes(tables: Iterable[TableSpec]) -> int:
    """Bytes of all full tables together, in float32.

    >>> full_bytes([TableSpec("a", rows=10, dim=4), TableSpec("b", rows=5, dim=4)])
    240
    """
    return sum(table.num_bytes for table in tables)


def show_bytes(size: float) -> str:
    """Bytes for people, in units of 1000.

    >>> show_bytes(2_160_804_928), show_bytes(640), show_bytes(999_960)
    ('2.16 GB', '640 B', '1 MB')
    """
    for unit, power in (("TB", 4), ("GB", 3), ("MB", 2), ("kB", 1)):
        if size >= 0.9995 * 1000**power:  # which three digits round to 1
            return f"{size / 1000**power:.3g} {unit}"
    return f"{size:.0f} B"


_UNITS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power


def parse_bytes(text: str) -> int:
    """Bytes that people write: a number, with a unit if they like; KB is 1000, KiB is 1024.

    Raises:
        ValueError: for text that is none.

    >>> parse_bytes("10MB"), parse_bytes("64_000"), parse_bytes("1.5GiB")
    (10000000, 64000, 1610612736)
    """
    match = re.fullmatch(r"([0-9][0-9_]{0,99}(?:\.[0-9]{1,99})?)\s*([A-Za-z]*)", text.strip(), flags=re.ASCII)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError(f"{quoted(text)} is not a size in bytes, such as 64_000, 10MB or 1.5GiB")
    return int(Fraction(match[1].replace("_", "")) * _UNITS[match[2].upper()])


def check_tables(tables: Sequence[TableSpec]) -> tuple[TableSpec, ...]:
    """The tables of one group as a tuple: at least one, names unique; else `ValueError`."""
    if not tables:
        raise ValueError("a group needs at least one table; got none")
    names = [table.name for table in tables]
    if len(set(names)) < len(names):
        name = next(name for number, name in enumerate(names) if name in names[:number])
        raise ValueError(f"two tables are named {name!r}; give every table of a group its own name")
    return tuple(tables)


def common_dim(tables: Sequence[TableSpec], what: str) -> int:
    """The dim of all tables.

    Raises:
        ValueError: where they differ, which `what` cannot do.
    """
    dims = sorted({table.dim for table in tables})
    if len(dims) > 1:
        raise ValueError(f"{what} needs tables of one dim; got {', '.join(map(str, dims))}")
    return dims[0]
