"""Another order for the ids of a dataset's tables: by learned cluster, by first appearance, at random.

    numbering = Numbering.of_orders([np.lexsort((cluster, width)), None])    # per table, old ids in their new order
    dataset = Dataset("criteo").numbered(numbering)                          # batches and counts in the new order

No shard is rewritten: the reader maps ids as it reads. Whoever keeps a model of such ids keeps dictionaries in that
order (`tablefold.data.encoder_folder.save_encoder`), and needs no permutation beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tablefold.data.permutation import permute_ids
from tablefold.data.schema import Schema, TableSchema
from tablefold.quoting import quoted

IdMap = NDArray[np.int32]
"""The new id of every id of a table, [rows]."""


@dataclass(frozen=True, eq=False)
class Numbering:
    """A bijection of the ids of each table. Ids that stand for no value keep their place.

    Args:
        new_ids: per table, the new id of every id, int32 `[rows]`; None where ids stay, as in an open vocabulary.

    Raises:
        ValueError: for an array that is no permutation of integers.

    >>> Numbering((np.array([0, 1, 4, 2, 3]), None)).old_ids
    (array([0, 1, 3, 4, 2], dtype=int32), None)
    """

    new_ids: tuple[IdMap | None, ...]

    def __post_init__(self) -> None:
        checked = tuple(None if ids is None else _permutation(ids, number) for number, ids in enumerate(self.new_ids))
        object.__setattr__(self, "new_ids", checked)

    @classmethod
    def of_orders(cls, old_ids: Sequence[NDArray[Any] | None]) -> Numbering:
        """The numbering in which the ids of each table come in the order `old_ids`, int `[rows]`; None: they stay.

        >>> Numbering.of_orders([np.array([0, 1, 3, 4, 2])]).new_ids
        (array([0, 1, 4, 2, 3], dtype=int32),)
        """
        return cls(cls(tuple(old_ids)).old_ids)

    @classmethod
    def of_keys(cls, keys: Sequence[NDArray[Any] | None], schema: Schema) -> Numbering:
        """Values in the ascending order of a key for each id, `[rows]`; ties keep their order.

        >>> schema = Schema((), (TableSchema("ad", 4),), {})
        >>> Numbering.of_keys([np.array([5, 0, 5, 2])], schema).new_ids
        (array([2, 0, 3, 1], dtype=int32),)
        """
        first = schema.first_id
        return cls.of_orders(
            [
                None if key is None else np.append(np.arange(first), first + np.argsort(key[first:], kind="stable"))
                for key in keys
            ]
        )

    @classmethod
    def permuted(cls, schema: Schema, seed: int) -> Numbering:
        """Values in a random order."""
        first = schema.first_id
        keys = [None if table.rows is None else np.arange(table.rows) for table in schema.tables]
        images = [None if ids is None else permute_ids(ids, len(ids), seed, n, first) for n, ids in enumerate(keys)]
        return cls(tuple(None if ids is None else ids.astype(np.int32) for ids in images))

    @property
    def old_ids(self) -> tuple[IdMap | None, ...]:
        """Per table, the old id of every new id."""
        return tuple(None if ids is None else _inverse(ids) for ids in self.new_ids)

    def check(self, tables: Sequence[TableSchema], first_id: int) -> None:
        """Refuse tables of other sizes, and a table in which an id below `first_id`, which stands for no value, moves.

        Raises:
            ValueError: names the table.
        """
        if len(self.new_ids) != len(tables):
            raise ValueError(f"the numbering is of {len(self.new_ids)} tables, the data has {len(tables)}")
        for ids, table in zip(self.new_ids, tables, strict=True):
            if ids is None:
                continue
            if table.rows != len(ids):
                has = "hashed ids, which have no order" if table.rows is None else f"{table.rows:,}"
                raise ValueError(f"the numbering has {len(ids):,} ids for table {quoted(table.name)}, the data {has}")
            if not np.array_equal(ids[:first_id], np.arange(first_id)):
                raise ValueError(
                    f"the numbering moves an id of table {quoted(table.name)} that stands for missing or unseen "
                    f"values: ids below {first_id} keep their place"
                )


def digest_of_maps(maps: Sequence[IdMap | None]) -> str:
    """Of what each id is read as; equal maps have the same."""
    found = hashlib.blake2b(digest_size=16)
    for ids in maps:
        found.update(b"stay" if ids is None else np.ascontiguousarray(ids).data)
    return found.hexdigest()


def _permutation(ids: NDArray[Any], number: int) -> IdMap:
    """`ids` as int32, if they are a permutation."""
    ids = np.asarray(ids)
    name = f"the numbering of table {number}"
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} is {ids.dtype} {list(ids.shape)}; it must be integers [rows]")
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(ids):
        raise ValueError(f"{name} holds {int(ids.min()):,} to {int(ids.max()):,}; its ids are 0 to {len(ids) - 1:,}")
    taken = np.zeros(len(ids), dtype=np.bool_)
    taken[ids] = True
    if not taken.all():
        raise ValueError(f"{name} gives an id twice, and none the id {int(np.argmin(taken)):,}")
    return ids.astype(np.int32, copy=False)


def _inverse(ids: IdMap) -> IdMap:
    inverse = np.empty_like(ids)
    inverse[ids] = np.arange(len(ids), dtype=np.int32)
    return inverse
