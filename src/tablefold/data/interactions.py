"""Interactions: a log of what users took, with negatives drawn for what they did not.

The file lists positives (a user, an item, perhaps a time and attributes of either); for each, some items that the user
never took are drawn as negatives. Users and items are closed catalogues: every one in the file has an id, ranked by
(-training count, value), none is reserved. Positives are held in memory (about 100 bytes each).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.dataset import Dataset
from tablefold.data.dictionary_file import write_dictionary
from tablefold.data.extension import Earlier
from tablefold.data.histories import read_history
from tablefold.data.permutation import permute_ids
from tablefold.data.private import SECRET_FILE, fingerprint, hash_column, write_secret
from tablefold.data.records import column, read_records
from tablefold.data.rejects import MAX_REJECTS, RejectRow, check_share, path_text, write_reject_rows
from tablefold.data.room import free_memory
from tablefold.data.schema import (
    HISTORY_FILE,
    INTERACTIONS,
    PARTS,
    PartSchema,
    Schema,
    TableSchema,
    dictionary_file,
    lookup_file,
)
from tablefold.data.shards import Examples, shard_name, write_shard
from tablefold.data.source import describe_files
from tablefold.data.split import Split
from tablefold.fields import settle_fields
from tablefold.files import check_free, new_folder
from tablefold.json_files import write_json
from tablefold.quoting import one_line, quoted
from tablefold.tables import LONGEST_LIST, LOOKUP_FILES, NOTHING, Column, show_bytes

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Users and items."""

SPLITS = ("random", "leave-last-out", "by-time", "by-user")
HISTORY = "history"
"""The column of the items that a user took before."""
TEST_SHARE = 0.10
VALIDATION_SHARE = 0.05
SHARD_ROWS = 1 << 20
_TRAIN_FIFTHS = 4
_REDRAWS = 20
_ROW_BYTES, _SIDE_BYTES = 80, 16
"""Memory that an example takes while it is made, and an attribute of it that is a table of its own."""

_USER, _ITEM = _OWNERS = (column(0), column(1))
"""What the columns of users and items are called, whatever their names in the file."""


@dataclass(frozen=True)
class Interactions:
    """How to turn a file of positives into a dataset.

    Args:
        file: Parquet, or CSV with a header.
        user: column of the user.
        item: column of the item.
        negatives: items drawn per positive, uniformly among those the user never took.
        split: "random" (10 % of the positives test, 5 % validate), "leave-last-out" (of every user with at least
            three positives, the last tests and the one before validates), "by-user" (of every user, the first four
            fifths train and the rest tests; none validates), or "by-time" (the last seventh, halved).
        time: column to order by; without it, the order of the file counts.
        rating: column of a rating; only rows of at least `min_rating` are positives.
        min_rating: see `rating`.
        user_columns: attributes of the user, kept in `lookup/000000.parquet`.
        item_columns: attributes of the item, kept in `lookup/000001.parquet`.
        side_tables: whether the attributes are tables of their own as well.
        history: items that every example carries of what its user took before, at most; 0 for none. Of an example of
            training those before it in training, in test and validation the last ones of training. A random split
            knows no before: there the user's items of training count in a circle.
        permute: seed of a permutation of the ids; None keeps them ranked.
        seed: of the split, the negatives and the order of the training rows.
        max_rejects: the share of records that may lack a user, an item, or a rating.
    """

    file: str
    user: str
    item: str
    negatives: int = 4
    split: str = "random"
    time: str | None = None
    rating: str | None = None
    min_rating: float | None = None
    user_columns: tuple[str, ...] = ()
    item_columns: tuple[str, ...] = ()
    side_tables: bool = False
    history: int = 0
    permute: int | None = None
    seed: int = 0
    max_rejects: float = MAX_REJECTS

    def __post_init__(self) -> None:
        settle_fields(self)
        if self.split not in SPLITS:
            raise ValueError(f"--split {quoted(self.split)}: choose one of {', '.join(SPLITS)}")
        if not 0 <= self.history <= LONGEST_LIST:
            raise ValueError(f"--history {quoted(self.history)} must be 0 .. {LONGEST_LIST}")
        if self.history and HISTORY in (self.user, self.item, *self.user_columns, *self.item_columns):
            raise ValueError(f"--history makes a column {HISTORY!r}, and the file has one: rename that")
        if self.negatives < 0 or self.seed < 0 or (self.permute is not None and self.permute < 0):
            raise ValueError("--negatives, --seed and --permute-ids must not be negative")
        if self.split == "by-time" and self.time is None:
            raise ValueError("--split by-time needs --time COLUMN")
        if (self.rating is None) != (self.min_rating is None):
            raise ValueError("--rating COLUMN and --min-rating VALUE belong together")
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise ValueError(f"--min-rating {self.min_rating} must be a finite number")
        if len(set(self.columns)) < len(self.columns) or "" in self.columns:
            raise ValueError(f"name every column once, none by the empty text; got {self._list(self.columns)}")

    @property
    def columns(self) -> list[str]:
        """The columns to read: user, item, attributes of the user, of the item, and what orders and chooses."""
        extra = [name for name in (self.time, self.rating) if name is not None]
        return [self.user, self.item, *self.user_columns, *self.item_columns, *extra]

    @property
    def attributes(self) -> tuple[range, range]:
        """The places of the user's and of the item's attributes among `columns`."""
        first, second = len(_OWNERS), len(_OWNERS) + len(self.user_columns)
        return range(first, second), range(second, second + len(self.item_columns))

    def place(self, name: str) -> int:
        """The place of a column among `columns`."""
        return self.columns.index(name)

    @staticmethod
    def _list(names: Sequence[str]) -> str:
        return one_line(", ".join(names), 300)


def prepare_interactions(
    source: Interactions, out: str | Path, secret: bytes | None = None, extend: str | Path | None = None
) -> Schema:
    """Write the prepared dataset `out`: training rows in a random order; every test and validation positive
    followed by its negatives, so that ranks can be computed per positive.

    Args:
        source: what to prepare.
        out: the new folder.
        secret: under which values are hashed (`tablefold.data.private`); None keeps the values.
        extend: folder of an earlier dataset, whose users and items keep their ids; new ones come behind. What a user
            took there is no negative here, and is part of her history.

    Raises:
        ValueError: for a missing or malformed file, an `extend` of other data, or an `out` that is taken. Nothing is
            left then.
    """
    description = {"name": INTERACTIONS, "files": describe_files([source.file]), **_options(source)}
    if secret is not None:
        description["private"] = fingerprint(secret)
    earlier = None if extend is None else _Earlier.open(extend, source, description)
    if earlier is not None:
        description["extends"] = earlier.dataset.digest
    check_free(out)
    positives, rejects = _positives(source)
    if secret is not None:
        positives, rejects = _hashed(source, positives, secret), _without_values(rejects)
    check_share(rejects, len(rejects) + len(positives), source.max_rejects, source.file)
    _check_room(source, len(positives))
    with new_folder(out) as folder:
        written = _write(source, description, positives, earlier, folder)
        write_reject_rows(rejects, folder)
        if secret is not None:
            write_secret(secret, folder / SECRET_FILE)
        schema = replace(written, rejected=len(rejects))
        schema.save(folder)
    return schema


def _write(
    source: Interactions,
    description: dict[str, Any],
    positives: pl.DataFrame,
    earlier: _Earlier | None,
    folder: Path,
) -> Schema:
    """Write the parts, dictionaries, attributes and histories; what they are."""
    random = np.random.default_rng(source.seed)
    part = _split(source, positives, random)
    catalogues = [
        _Catalogue.build(positives, name, part, number, source.permute, earlier.values[number] if earlier else ())
        for number, name in enumerate((source.user, source.item))
    ]
    user, item = (catalogue.ranks for catalogue in catalogues)
    side = _write_lookups(source, positives, catalogues, folder)
    pairs = [(user, item), *([earlier.taken] if earlier else [])]
    taken = np.unique(np.concatenate([users * catalogues[1].rows + items for users, items in pairs]))
    history = _history(source, catalogues, part, earlier.history if earlier else None) if source.history else None
    parts = {}
    for number, name in enumerate(PARTS):
        chosen = np.flatnonzero(part == number)
        ranks, label = _with_negatives(source, user[chosen], item[chosen], catalogues, taken, random)
        ids = np.stack([catalogue.ids[ranks[:, n]] for n, catalogue in enumerate(catalogues)], axis=1)
        order = random.permutation(len(label)) if name == "train" else np.arange(len(label))
        columns = [ids, *(table[ids[:, [owner]]] for owner, _, table in side if source.side_tables)]
        columns += [np.repeat(history.before[chosen], 1 + source.negatives, axis=0)] if history else []
        parts[name] = _write_part(folder / name, np.hstack(columns), label, order)
    tables = [TableSchema(catalogue.name, catalogue.rows) for catalogue in catalogues]
    tables += [TableSchema(name, int(table.max()) + 1) for _, name, table in side if source.side_tables]
    lookups: dict[str, dict[str, int]] = {}
    for owner, name, table in side:
        lookups.setdefault(catalogues[owner].name, {})[name] = int(table.max()) + 1
    schema = Schema((), tuple(tables), parts, description, lookups=lookups)
    if history is None:
        return schema
    history.write(folder)
    items = Column(HISTORY, source.item, length=source.history, side="user")
    return replace(schema, id_columns=(*schema.id_columns, items))


def _hashed(source: Interactions, positives: pl.DataFrame, secret: bytes) -> pl.DataFrame:
    """The positives, hashes in the place of users, items and attributes."""
    places = [*range(len(_OWNERS)), *(place for side in source.attributes for place in side)]
    return positives.with_columns(hash_column(positives[column(place)], secret) for place in places)


def _without_values(rejects: list[RejectRow]) -> list[RejectRow]:
    return [(file, line, reason.partition(":")[0], "") for file, line, reason, _ in rejects]


def _history(
    source: Interactions, catalogues: list[_Catalogue], part: NDArray[np.int64], earlier: Pairs | None
) -> _History:
    """What users took in training, before every positive and in all.

    Args:
        source: what is prepared.
        catalogues: of users and items.
        part: of every positive.
        earlier: what they took before all of these.
    """
    users, items = earlier or (np.empty(0, np.int64), np.empty(0, np.int64))
    user, item = np.append(users, catalogues[0].ranks), np.append(items, catalogues[1].ranks)
    part = np.append(np.zeros_like(users), part)
    train = np.flatnonzero(part == 0)
    train = train[np.argsort(user[train], kind="stable")]  # by user, in the order of time
    firsts = np.searchsorted(user[train], np.arange(catalogues[0].rows + 1))
    size = np.diff(firsts)
    place = size[user]  # of the first item that is not before: in training the example itself
    place[train] = np.arange(len(train)) - firsts[user[train]]
    taken = catalogues[1].ids[item[train]]
    own = (part == 0) & (source.split == "random")
    before = np.stack([_back(place, size[user], back, own) for back in range(source.history)], axis=1)
    at_end = np.stack(
        [_back(size, size, back, np.zeros_like(size, np.bool_)) for back in range(source.history)], axis=1
    )
    of_users = _items(taken, firsts[:-1], at_end)[np.argsort(catalogues[0].ids)]
    return _History(_items(taken, firsts[user], before)[len(users) :], of_users)


def _back(place: NDArray[np.int64], size: NDArray[np.int64], back: int, circle: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The place of the item that lies `back` before the one before `place`, or `NOTHING`; in a circle where asked."""
    at = place - 1 - back
    turned = np.where(back + 1 < size, at % np.maximum(size, 1), NOTHING)  # not as far as the example itself
    return np.where(circle, turned, np.maximum(at, NOTHING))


def _items(taken: NDArray[np.int64], first: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The items at some places of each row's own, which begin at `first`."""
    at = np.where(places == NOTHING, len(taken), first[:, None] + places)
    return np.append(taken, NOTHING)[at]


@dataclass(frozen=True)
class _Earlier:
    """What an earlier dataset knows: the users and items that have ids, in their order; what was taken; and the last
    items that its users took, in the order of time."""

    dataset: Earlier
    values: tuple[list[str], list[str]]
    taken: Pairs
    history: Pairs | None

    @classmethod
    def open(cls, folder: str | Path, source: Interactions, description: Mapping[str, Any]) -> _Earlier:
        """Of a dataset that the file goes with; `ValueError` where it does not."""
        earlier = Earlier.open(folder)
        attributes = bool(source.user_columns or source.item_columns)
        earlier.check_interactions((source.user, source.item), attributes, source.permute)
        earlier.check_secret(description.get("private"))
        dataset = Dataset(folder)
        ids = [
            examples.ids[examples.label == 1, : len(_OWNERS)].astype(np.int64)
            for name in PARTS
            for examples in dataset.part(name).examples(0, dataset.schema.parts[name].rows)
        ]
        user, item = np.concatenate([np.empty((0, 2), dtype=np.int64), *ids]).T
        history = read_history(earlier.folder)
        last = None if history is None else _in_time(history)
        return cls(earlier, (earlier.values(0), earlier.values(1)), (user, item), last)


def _in_time(history: NDArray[np.int64]) -> Pairs:
    """(users, items) of what each user took last, `[users, history]` with the last first: the first first."""
    user, place = np.nonzero(history[:, ::-1] != NOTHING)
    return user.astype(np.int64), history[:, ::-1][user, place]


@dataclass(frozen=True)
class _History:
    """Ids of items, the last first: before each positive `[positives, history]`; at the end, of users by their ids."""

    before: NDArray[np.int64]
    of_users: NDArray[np.int64]

    def write(self, folder: Path) -> None:
        """Keep what users took in all."""
        items = pl.Series("items", self.of_users.astype(np.int32), dtype=pl.Array(pl.Int32, self.of_users.shape[1]))
        items.to_frame().write_parquet(folder / HISTORY_FILE)


def _check_room(source: Interactions, positives: int) -> None:
    """Refuse more negatives than memory holds."""
    side = len(source.user_columns + source.item_columns) if source.side_tables else 0
    per_row, free = _ROW_BYTES + (side + source.history) * _SIDE_BYTES, free_memory()
    needed = positives * (1 + source.negatives) * per_row
    if needed > free:
        most = free // (positives * per_row) - 1
        way_out = f"draw at most {most:,}" if most >= 0 else "prepare a part of the file"
        raise ValueError(
            f"--negatives {quoted(source.negatives)} for {positives:,} positives would take about {show_bytes(needed)} "
            f"of memory, and {show_bytes(free)} are free: {way_out}"
        )


def _options(source: Interactions) -> dict[str, Any]:
    return {name: value for name, value in vars(source).items() if name != "file"}


def _positives(source: Interactions) -> tuple[pl.DataFrame, list[RejectRow]]:
    """The distinct positives in the order of time (or of the file), and the records that are none."""
    records = read_records(source.file, source.columns)
    file, rejects = path_text(source.file), [*records.rejects]

    def reject(rows: pl.DataFrame, name: str, reason: str) -> None:
        at = column(source.place(name))
        for row in rows.iter_rows(named=True):
            text = str({key: row[column(place)] for place, key in enumerate(source.columns)})
            value = "" if row[at] is None else f": {quoted(row[at])}"
            rejects.append((file, row["line"], f"field {one_line(name, 60)} {reason}{value}", text))

    frame = records.frame
    needed = [name for name in (source.user, source.item, source.time, source.rating) if name is not None]
    for name in needed:
        reject(frame.filter(frame[column(source.place(name))].is_null()), name, "is missing")
    frame = frame.drop_nulls([column(source.place(name)) for name in needed])
    if source.rating is not None:
        rating = _numbers(frame[column(source.place(source.rating))])
        reject(frame.filter(rating.is_null()), source.rating, "is not a number")
        frame = frame.filter((rating >= source.min_rating).fill_null(False))
    if source.time is not None:
        frame = frame.sort(column(source.place(source.time)), maintain_order=True)
    first = {row[1]: row for row in reversed(rejects)}  # one reason per record
    rejects = sorted(first.values(), key=lambda row: row[1])
    return frame.unique(list(_OWNERS), keep="first", maintain_order=True), rejects


def _numbers(values: pl.Series) -> pl.Series:
    """Numbers, or text that is written as one; null where it is none."""
    values = values if values.dtype.is_numeric() else values.cast(pl.String)
    return values.cast(pl.Float64, strict=False).fill_nan(None)


def _split(source: Interactions, positives: pl.DataFrame, random: np.random.Generator) -> NDArray[np.int64]:
    """The part of every positive: 0 train, 1 test, 2 validation."""
    size = len(positives)
    part = np.zeros(size, dtype=np.int64)
    if source.split == "random":
        order = random.permutation(size)
        test, validation = round(size * TEST_SHARE), round(size * VALIDATION_SHARE)
        part[order[:test]] = 1
        part[order[test : test + validation]] = 2
    elif source.split == "by-time":
        for number, (_, piece) in enumerate(Split.by_order(size).pieces(0, size)):
            part[piece] = number
    elif source.split == "by-user":
        place = positives.select(number=pl.int_range(pl.len()).over(_USER), count=pl.len().over(_USER))
        part[(place["number"] >= place["count"] * _TRAIN_FIFTHS // 5).to_numpy()] = 1
    else:
        place = positives.select(last=pl.int_range(pl.len()).reverse().over(_USER), count=pl.len().over(_USER))
        enough = (place["count"] >= len(PARTS)).to_numpy()
        last = place["last"].to_numpy()
        part[enough & (last == 0)] = 1
        part[enough & (last == 1)] = 2
    return part


@dataclass(frozen=True)
class _Catalogue:
    """The users, or the items.

    Args:
        name: of the table.
        rows: how many there are.
        ranks: rank of every positive's user (or item) by (-training count, value).
        ids: id of every rank: the rank itself, or its image under a permutation.
        values: "value" and "count" of every id, in id order.
    """

    name: str
    rows: int
    ranks: NDArray[np.int64]
    ids: NDArray[np.int64]
    values: pl.DataFrame

    @classmethod
    def build(
        cls,
        positives: pl.DataFrame,
        name: str,
        part: NDArray[np.int64],
        number: int,
        seed: int | None,
        earlier: Sequence[str] = (),
    ) -> _Catalogue:
        """Of the positives; values that come first and as they stand have a rank already."""
        frame = positives.select(value=pl.col(_OWNERS[number]), train=pl.Series(part == 0))
        known = pl.Series(earlier, dtype=pl.String).cast(frame["value"].dtype, strict=False)
        if known.null_count():  # text there, numbers here
            known, frame = pl.Series(earlier, dtype=pl.String), frame.with_columns(pl.col("value").cast(pl.String))
        values = frame.group_by("value").agg(count=pl.col("train").sum().cast(pl.Int64))
        values = values.sort(["count", "value"], descending=[True, False])
        if earlier:
            kept = pl.DataFrame({"value": known})
            first = kept.join(values, on="value", how="left", maintain_order="left")
            first = first.with_columns(pl.col("count").fill_null(0))
            values = pl.concat([first, values.join(kept, on="value", how="anti", maintain_order="left")])
        rows = len(values)
        values = values.with_row_index("rank")
        ranks = frame.join(values, on="value", how="left", maintain_order="left")["rank"].to_numpy()
        ids = np.arange(rows, dtype=np.int64)
        if seed is not None:
            ids = permute_ids(ids, rows, seed, number)
        return cls(name, rows, ranks.astype(np.int64), ids, values[np.argsort(ids)])


def _write_lookups(
    source: Interactions, positives: pl.DataFrame, catalogues: list[_Catalogue], folder: Path
) -> list[tuple[int, str, NDArray[np.int64]]]:
    """Write dictionaries and look-ups; returns (0 for the user's, 1 for the item's; name; attribute of every id)."""
    side: list[tuple[int, str, NDArray[np.int64]]] = []
    files: dict[str, str] = {}
    for number, (catalogue, places) in enumerate(zip(catalogues, source.attributes, strict=True)):
        _write_dictionary(catalogue.values, number, folder)
        if not places:
            continue
        attributes = _attributes(positives, source, number, catalogue)
        lookup = {}
        for place in places:
            codes, values = _encode_attribute(attributes[column(place)])
            lookup[source.columns[place]] = codes
            side.append((number, source.columns[place], codes.to_numpy().astype(np.int64)))
            _write_dictionary(values, place, folder)
        (folder / "lookup").mkdir(exist_ok=True)
        pl.DataFrame(lookup).write_parquet(folder / lookup_file(number))
        files[catalogue.name] = Path(lookup_file(number)).name
    if files:
        write_json(folder / "lookup" / LOOKUP_FILES, files)
    return side


def _encode_attribute(owned: pl.Series) -> tuple[pl.Series, pl.DataFrame]:
    """The id of every owner's value of an attribute, and "value" and "count" of every id."""
    owners = pl.DataFrame({"value": owned})
    values = owners.group_by("value").agg(count=pl.len().cast(pl.Int64))
    values = values.sort(["count", "value"], descending=[True, False], nulls_last=True).with_row_index("id")
    codes = owners.join(values, on="value", how="left", maintain_order="left", nulls_equal=True)
    return codes["id"].cast(pl.Int32), values


def _attributes(positives: pl.DataFrame, source: Interactions, number: int, catalogue: _Catalogue) -> pl.DataFrame:
    """The attributes of every user (or item), in the order of its ids; an error where two records disagree."""
    owner, places = _OWNERS[number], source.attributes[number]
    names = [column(place) for place in places]
    frame = positives.group_by(owner, maintain_order=True).agg(pl.col(names).drop_nulls().unique())
    for name, place in zip(names, places, strict=True):
        conflicts = frame.filter(pl.col(name).list.len() > 1)
        if len(conflicts):
            first = conflicts.row(0, named=True)
            values = " and ".join(quoted(value) for value in sorted(first[name])[:2])
            raise ValueError(
                f"{one_line(catalogue.name, 60)} {quoted(first[owner])} has the values {values} in column "
                f"{one_line(source.columns[place], 60)}; an attribute has one value"
            )
    frame = frame.with_columns(pl.col(names).list.first())
    owners = catalogue.values.select(pl.col("value").alias(owner))
    return owners.join(frame, on=owner, how="left", maintain_order="left")


def _write_dictionary(values: pl.DataFrame, number: int, folder: Path) -> None:
    text = values["value"].cast(pl.String).to_arrow()
    write_dictionary(folder / dictionary_file(number), [(text, values["count"].to_numpy())])


def _with_negatives(
    source: Interactions,
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    catalogues: list[_Catalogue],
    taken: NDArray[np.int64],
    random: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Ranks of user and item [rows, 2] and labels: every positive followed by its negatives.

    Drawn over ranks, so that a permutation of the ids leaves the examples as they are.
    """
    items = catalogues[1].rows
    users = np.repeat(user, source.negatives)
    drawn = random.integers(0, items, len(users))
    open_rows = np.arange(len(users))
    for _ in range(_REDRAWS):
        code = users[open_rows] * items + drawn[open_rows]
        found = np.searchsorted(taken, code)
        hit = taken[np.minimum(found, len(taken) - 1)] == code
        open_rows = open_rows[hit]
        if not len(open_rows):
            break
        drawn[open_rows] = random.integers(0, items, len(open_rows))
    for row in open_rows:  # users who took nearly everything: draw from what is left
        drawn[row] = _draw_rest(catalogues[0], int(users[row]), items, taken, random)
    pairs = np.empty((len(user), 1 + source.negatives, 2), dtype=np.int64)
    pairs[:, :, 0] = user[:, np.newaxis]
    pairs[:, 0, 1] = item
    pairs[:, 1:, 1] = drawn.reshape(len(user), source.negatives)
    label = np.zeros(pairs.shape[:2], dtype=np.uint8)
    label[:, 0] = 1
    return pairs.reshape(-1, 2), label.reshape(-1)


def _draw_rest(users: _Catalogue, user: int, items: int, taken: NDArray[np.int64], random: np.random.Generator) -> int:
    first, last = np.searchsorted(taken, [user * items, (user + 1) * items])
    rest = np.setdiff1d(np.arange(items), taken[first:last] - user * items)
    if not len(rest):
        value = users.values["value"][int(users.ids[user])]
        who = f"{one_line(users.name, 60)} {quoted(value)}"
        raise ValueError(f"{who} took every item, so no negative can be drawn; use --negatives 0")
    return int(random.choice(rest))


def _write_part(folder: Path, ids: NDArray[np.int64], label: NDArray[np.uint8], order: NDArray[np.int64]) -> PartSchema:
    folder.mkdir()
    shards, checksums = [], []
    for number, rows in enumerate(_pieces(order)):
        checksum = write_shard(
            folder / shard_name(number),
            Examples(np.empty((len(rows), 0), dtype=np.float32), ids[rows].astype(np.int32), label[rows]),
        )
        shards.append(len(rows))
        checksums.append(checksum)
    return PartSchema(len(label), int(label.sum()), tuple(shards), tuple(checksums))


def _pieces(order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(order), SHARD_ROWS):
        yield order[start : start + SHARD_ROWS]
