"""A dataset read with the ids of a run that may number values otherwise: both dictionaries joined by value, once.

The join leaves a map, int32 for each id of the dataset, in `DATASET/maps`: it is found again by the digests of both
dictionaries and may be removed at any time. Where nobody may write there it lives in memory.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tablefold.data.dataset import Dataset
from tablefold.data.dictionary_file import read_values
from tablefold.data.encoder_folder import EncoderFolder, digest_of, keys_of, value_at
from tablefold.data.numbering import IdMap, Numbering
from tablefold.data.schema import MISSING_ID, UNSEEN_ID
from tablefold.data.value_index import ValueIndex
from tablefold.files import new_file
from tablefold.quoting import quoted

MAPS = "maps"
KEPT = 8
"""Maps of a dataset that are kept: those that were made last."""

_DIGEST_BYTES = 16
_UNKNOWN = -1


def join(dataset: Dataset, run: EncoderFolder) -> Dataset:
    """The dataset with a run's ids: values that the run lacks are unseen ones.

    Args:
        dataset: of tables of the same names.
        run: the run's dictionaries.

    Raises:
        ValueError: for a dataset without dictionaries or of another kind of source, one that shares no value with the
            run, or holds a value twice, or one with a value that a closed catalogue lacks.
    """
    maps = _maps(dataset, run)
    if maps is None:
        return dataset
    for number, found in enumerate(maps):
        if found is not None and run.is_closed and (found < 0).any():
            raise ValueError(_unknown_value(dataset, run, number, int(np.argmax(found < 0))))
    return dataset.translated(maps, run.tables, run.folder)


def join_grown(dataset: Dataset, run: EncoderFolder) -> Dataset:
    """The dataset with a run's ids, and behind them ids for the values that the run lacks, in the dataset's order.

    Raises:
        ValueError: as `join` does, but for values that are new; and where the dataset lacks a value of the run.
    """
    maps, first = _maps(dataset, run), run.first_id
    if maps is None:
        return dataset
    new_ids: list[IdMap | None] = []
    for number, found in enumerate(maps):
        if found is None:
            new_ids.append(None)
            continue
        rows = run.tables[number].rows or 0
        new = (found < first) & (np.arange(len(found)) >= first)
        missing = rows - first - int((found >= first).sum())
        if missing:
            raise ValueError(
                f"{dataset.folder}: table {quoted(run.tables[number].name)} lacks {missing:,} of the {rows - first:,} "
                f"values that {run.folder.parent} knows, and ids never go away: prepare it with --extend, from the "
                "data of that run"
            )
        new_ids.append(np.where(new, rows + np.cumsum(new) - 1, found).astype(np.int32))
    return dataset.numbered(Numbering(tuple(new_ids))) if any(ids is not None for ids in new_ids) else dataset


def _maps(dataset: Dataset, run: EncoderFolder) -> list[IdMap | None] | None:
    """The run's id of every id, `[rows]` per table, None where they are the same; None where ids are hashes."""
    schema = dataset.schema
    if run.ids == "hash" or schema.source.get("ids") == "hash":  # no order to tell: the sizes of tables do, None or not
        return None
    dictionaries = [dataset.dictionary(number) for number in range(len(schema.tables))]
    if schema.first_id != run.first_id or (run.is_given_ids != (dictionaries[0] is None)):
        raise ValueError(
            f"{dataset.folder} was prepared from {_kind(schema.source.get('name'))}, the data of {run.folder.parent} "
            f"from {_kind(run.name)}: their ids are not of the same values"
        )
    if schema.source.get("private") != run.private:
        raise ValueError(
            f"{dataset.folder} and {run.folder.parent} hold no hashes under the same secret, so their values cannot be "
            "told to be the same: prepare the data with the run's secret (--private)"
        )
    pairs = [_digests(dataset, run, number, path) for number, path in enumerate(dictionaries)]
    changed = [number for number, (here, there) in enumerate(pairs) if here != there]
    maps: list[IdMap | None] = [None] * len(pairs)
    if changed:
        rows = [schema.tables[number].rows or 0 for number in changed]
        path = dataset.folder / MAPS / f"{_name(pairs)}.ids"
        found = _read(path, rows)
        if found is None:
            found = _joined(dataset, run, changed)
            _write(path, found)
        for number, each in zip(changed, found, strict=True):
            maps[number] = each
    return maps


def _kind(name: Any) -> str:
    return "ids" if name in (None, "ids") else f"{name!r}"


def _digests(dataset: Dataset, run: EncoderFolder, number: int, path: Path | None) -> tuple[str, str]:
    """What tells a table's dictionary in the dataset from that of the run."""
    if path is None:
        return f"{dataset.schema.tables[number].rows} ids", run.digest(number)
    with suppress(OSError):
        if path.samefile(run.dictionary(number)):
            return "same", "same"
    return digest_of(path), run.digest(number)


def _joined(dataset: Dataset, run: EncoderFolder, changed: list[int]) -> list[IdMap]:
    """The maps of the tables whose dictionaries differ."""
    maps, shared = [], len(run.tables) - len(changed)
    for number in changed:
        index = run.index(number)
        found = _join_table(dataset, run, number, index)
        shared += int((found[run.first_id :] != UNSEEN_ID).any()) or run.is_closed
        maps.append(found)
    if not shared:
        raise ValueError(
            f"{dataset.folder} shares no value of any table with {run.folder.parent}: the run is of other data"
        )
    return maps


def _join_table(dataset: Dataset, run: EncoderFolder, number: int, index: ValueIndex) -> IdMap:
    """The run's id of every id of a table."""
    table, first, path = dataset.schema.tables[number], run.first_id, dataset.dictionary(number)
    rows, source = table.rows or 0, run.source()
    found = np.empty(rows, dtype=np.int32)
    found[:first] = (MISSING_ID, UNSEEN_ID)[:first]
    at, unseen, missing = first, _UNKNOWN if run.is_closed else UNSEEN_ID, None if run.is_closed else MISSING_ID
    pieces = [np.arange(rows).astype(np.str_).tolist()] if path is None else read_values(path, rows - first, nulls=True)
    for values in pieces:
        keys = keys_of(source, path or dataset.folder, table.name, values)
        found[at : at + len(keys)] = index.look_up(keys, unseen, missing)
        at += len(keys)
    _check_distinct(found[first:], path or dataset.folder, first, run.tables[number].rows or 0)
    return found


def _unknown_value(dataset: Dataset, run: EncoderFolder, number: int, place: int) -> str:
    """What is said of an id of the dataset whose value a closed catalogue lacks."""
    table, path = dataset.schema.tables[number], dataset.dictionary(number)
    value = place if path is None else value_at(path, (table.rows or 0) - run.first_id, place)
    return (
        f"{dataset.folder}: table {quoted(table.name)} has the value {quoted(value)}, which {run.folder.parent} "
        "does not know: its tables are closed catalogues, so a value of its own has no id there"
    )


def _check_distinct(found: IdMap, path: Path, first: int, rows: int) -> None:
    """Refuse two values with one id of the run."""
    known = found[found >= first]
    taken = np.zeros(rows, dtype=np.bool_)
    taken[known] = True
    if taken.sum() < len(known):
        ids, counts = np.unique(known, return_counts=True)
        place = int(np.flatnonzero(found == ids[counts > 1][0])[1])
        value = value_at(path, len(found), place)
        raise ValueError(
            f"{path} holds the value {quoted(value)} twice: an id is for one value; prepare the data again"
        )


def _name(pairs: list[tuple[str, str]]) -> str:
    text = " ".join(f"{here} {there}" for here, there in pairs)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _read(path: Path, rows: list[int]) -> list[IdMap] | None:
    """The maps in a file that `_write` wrote, mapped into memory; None where there is none, or it is damaged."""
    try:
        content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r")).view(np.ndarray)
    except (OSError, ValueError):
        return None
    digest, maps = content[:_DIGEST_BYTES].tobytes(), content[_DIGEST_BYTES:]
    if digest != hashlib.blake2b(maps.data, digest_size=_DIGEST_BYTES).digest() or len(maps) != 4 * sum(rows):
        return None
    return np.split(maps.view(np.int32), np.cumsum(rows)[:-1])


def _write(path: Path, maps: list[IdMap]) -> None:
    """Keep maps for the next time, if the folder can be written; and no more than `KEPT`."""
    content = np.concatenate(maps)
    with suppress(OSError), new_file(path) as file:
        file.write_bytes(hashlib.blake2b(content.data, digest_size=_DIGEST_BYTES).digest() + content.tobytes())
    with suppress(OSError):
        kept = sorted(path.parent.glob("*.ids"), key=lambda each: each.stat().st_mtime_ns)
        for old in kept[:-KEPT]:
            old.unlink()
