"""Variants of a prepared dataset: other orders of the ids, fewer rows.

Which id is 0 and which are neighbours decides what a modulo or a quotient throws together, so a study that compares
methods names the order, and one study compares the orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tablefold.data import Dataset, Schema
from tablefold.data.dataset import Part
from tablefold.data.permutation import permute_ids
from tablefold.data.schema import PartSchema
from tablefold.data.shards import Examples, shard_name, write_shard
from tablefold.files import new_folder

ID_ORDERS = {
    "prepared": "as the data was prepared",
    "frequency": "by falling count in the training part",
    "permuted": "at random, by the run's seed",
    "first": "by first appearance in the training part",
}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Variant:
    """How the data of a run differs from the dataset given.

    Args:
        id_order: one of `ID_ORDERS`.
        seed: of the permutation; read by "permuted" only.
        train_rows: the first rows of the training part that are used, None for all; the other parts shrink alike.

    Raises:
        ValueError: for an unknown order or no rows.
    """

    id_order: str = "prepared"
    seed: int = 0
    train_rows: int | None = None

    def __post_init__(self) -> None:
        if self.id_order not in ID_ORDERS:
            raise ValueError(f"id_order {self.id_order!r} must be one of {', '.join(ID_ORDERS)}")
        if self.train_rows is not None and self.train_rows < 1:
            raise ValueError(f"train_rows={self.train_rows} must be at least 1")
        if self.id_order != "permuted":
            object.__setattr__(self, "seed", 0)  # equal data, equal variant

    def rows(self, schema: Schema) -> int:
        """Rows of the training part."""
        rows = schema.parts["train"].rows
        return rows if self.train_rows is None else min(rows, self.train_rows)

    def is_given(self, schema: Schema) -> bool:
        """Whether this is the dataset as it was given."""
        return self.id_order == "prepared" and self.rows(schema) == schema.parts["train"].rows

    @property
    def name(self) -> str:
        """Its folder's name."""
        seed = f"-{self.seed}" if self.id_order == "permuted" else ""
        return f"{self.id_order}{seed}-{self.train_rows or 'all'}"


def make_variant(given: Dataset, variant: Variant, out: Path) -> Path:
    """Write the variant of `given` to `out` (kept if it is there), or nothing where it is `given`; gives its folder.

    The order of the rows stays; dictionaries and look-ups are left out, for their ids are those of `given`.
    """
    if variant.is_given(given.schema):
        return given.folder
    if (out / "schema.json").is_file():
        return out
    schema = given.schema
    share = variant.rows(schema) / schema.parts["train"].rows
    kept = {name: round(part.rows * share) for name, part in schema.parts.items()}
    images = _images(given, variant)
    with new_folder(out) as folder:
        parts = {name: _write(given.part(name), rows, images, folder / name) for name, rows in kept.items()}
        # Under another name, so that nobody looks for the dictionaries of `given` here.
        source = {"variant_of": schema.source, "id_order": ID_ORDERS[variant.id_order], "permuted_by": variant.seed}
        replace(schema, parts=parts, source=source, lookups={}).save(folder)
    return out


def _images(given: Dataset, variant: Variant) -> list[NDArray[np.int64] | None]:
    """The new id of every id, per table; None where ids stay (also those of an open vocabulary)."""
    sizes = [table.rows for table in given.schema.tables]
    if variant.id_order == "prepared":
        return [None] * len(sizes)
    if variant.id_order == "permuted":
        return [
            None if rows is None else permute_ids(np.arange(rows), rows, variant.seed, number)
            for number, rows in enumerate(sizes)
        ]
    keys: list[NDArray[np.int64] | None] = [None if rows is None else np.zeros(rows, np.int64) for rows in sizes]
    done, total = 0, variant.rows(given.schema)
    for examples in _chunks(given.part("train"), total):
        ids = examples.ids.astype(np.int64)
        for number, key in enumerate(keys):
            if key is None:
                continue
            if variant.id_order == "frequency":
                key -= np.bincount(ids[:, number], minlength=len(key))
            else:  # the row of the first appearance, counted down from the end so that 0 means never
                found, at = np.unique(ids[:, number], return_index=True)
                key[found] = np.minimum(key[found], done + at - total)
        done += len(examples)
    return [None if key is None else _ranks(key) for key in keys]


def _ranks(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of every id when ids are sorted by their key; ties keep their order."""
    ranks = np.empty(len(keys), np.int64)
    ranks[np.argsort(keys, kind="stable")] = np.arange(len(keys))
    return ranks


def _write(part: Part, rows: int, images: list[NDArray[np.int64] | None], folder: Path) -> PartSchema:
    """The first `rows` rows of a part, with ids replaced by their images."""
    folder.mkdir()
    positives, shards, checksums = 0, [], []
    for number, examples in enumerate(_chunks(part, rows)):
        ids = np.array(examples.ids)
        for column, image in enumerate(images):
            if image is not None:
                ids[:, column] = image[ids[:, column]]
        checksum = write_shard(folder / shard_name(number), Examples(examples.dense, ids, examples.label))
        checksums.append(checksum)
        positives += int(examples.label.sum())
        shards.append(len(examples))
    return PartSchema(rows, positives, tuple(shards), tuple(checksums))


def _chunks(part: Part, rows: int) -> Iterator[Examples]:
    for start in range(0, rows, _CHUNK):
        yield Examples.concatenate(part.examples(start, min(start + _CHUNK, rows)))
