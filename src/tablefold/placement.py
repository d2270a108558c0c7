"""Placement: which tables a method gets (the rest stay full), and in how many bits the memory is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tablefold.formats import FP32, find_format
from tablefold.method import EmbeddingGroup, Method
from tablefold.methods.full import Full
from tablefold.partitions import largest
from tablefold.tables import TableSpec, check_tables
from tablefold.terms import AddressMap, join


@dataclass(frozen=True)
class Placement:
    """A method for the tables above a threshold; tables with `rows <= threshold` stay full, in the same memory.

    Small tables cost next to nothing and their ids are seen often, so sharing their rows buys few bytes dearly.

    Args:
        method: folds every table with more than `threshold` rows.
        threshold: rows; 0 gives the method every table.
        storage: the format of memory: one of `tablefold.formats.FORMATS`. Fewer bits leave more floats to the same
            budget.

    Raises:
        ValueError: for a negative threshold or an unknown storage.

    >>> from tablefold import Hash, Placement, TableSpec
    >>> tables = [TableSpec("country", rows=200, dim=8), TableSpec("user", rows=10_000, dim=8)]
    >>> Placement(Hash(), threshold=200).for_budget(tables, num_bytes=16_000).method
    Hash(collisions=None, max_rows=300, by='modulo')
    """

    method: Method
    threshold: int = 0
    storage: str = FP32.name

    def __post_init__(self) -> None:
        find_format(self.storage)
        if self.threshold < 0:
            raise ValueError(f"threshold={self.threshold} must be 0 or more rows")

    def split(self, tables: Sequence[TableSpec]) -> tuple[list[TableSpec], list[TableSpec]]:
        """(tables that stay full, tables that the method gets)."""
        small = [table for table in tables if table.rows is not None and table.rows <= self.threshold]
        return small, [table for table in tables if table not in small]

    def num_bytes(self, tables: Sequence[TableSpec]) -> int:
        """Bytes that `build(tables)` will hold."""
        _, folded = self.split(tables)
        method_bytes = self.method.num_bytes(folded) - self.method.address_map(folded).num_bytes if folded else 0
        return self.address_map(tables).num_bytes + method_bytes

    def for_budget(self, tables: Sequence[TableSpec], num_bytes: int) -> Placement:
        """This placement with its method at the largest size for which all tables together stay within `num_bytes`.

        Raises:
            ValueError: if the full tables alone, or with the method at its smallest, are larger.
        """
        small, folded = self.split(check_tables(tables))
        kept = replace(self, method=Full()).num_bytes(small) if small else 0
        if kept > num_bytes:
            raise ValueError(
                f"a budget of {num_bytes} bytes is below the {kept} bytes of the {len(small)} tables that "
                f"threshold={self.threshold} keeps full: lower the threshold or raise the budget"
            )
        if not (least := self.smallest_bytes(tables)) <= num_bytes:  # what is no number is no budget
            of_full = f" ({kept} of them for tables kept full)" if kept else ""
            advice = "lower the threshold" if kept else "choose another method"
            raise ValueError(
                f"a budget of {num_bytes} bytes is below the smallest possible for {self.method.name}, {least} bytes"
                f"{of_full}: raise the budget, or {advice}"
            )
        if not folded or not self.method.size_options:
            return self
        low, high = self.method.size_range(folded)
        return self._sized(largest(low, high, lambda size: self._sized(size).num_bytes(tables) <= num_bytes))

    def smallest_bytes(self, tables: Sequence[TableSpec]) -> int:
        """Bytes for `tables` with the method at its smallest size: no budget below it can be met."""
        _, folded = self.split(tables)
        if not folded or not self.method.size_options:
            return self.num_bytes(tables)
        return self._sized(self.method.size_range(folded)[0]).num_bytes(tables)

    def _sized(self, size: int) -> Placement:
        return replace(self, method=self.method.sized(size))

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """The terms of all tables over one memory: the method's region first, then the full tables."""
        small, folded = self.split(tables)
        maps = [self.method.address_map(folded, seed)] if folded else []
        if small:
            maps.append(Full().address_map(small))
        return join(tables, maps).in_format(find_format(self.storage))

    def build(
        self,
        tables: Sequence[TableSpec],
        seed: int = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> EmbeddingGroup:
        """The group for `tables`; arguments and errors as `Method.build`."""
        tables = check_tables(tables)
        _, folded = self.split(tables)
        columns = [column for column, table in enumerate(tables) if table in folded]
        transform = self.method.transform(folded, columns, seed) if folded else None
        return EmbeddingGroup(
            self.address_map(tables, seed),
            seed=seed,
            device=device,
            dtype=dtype,
            transform=transform,
            spec=str(self.method),
        )
