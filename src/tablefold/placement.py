"""Placement: which tables a method gets (the rest stay full), and in how many bits the memory is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tablefold.method import EmbeddingGroup, Method
from tablefold.methods.full import Full
from tablefold.storage import Storage, check_storage, most_floats, stored_bytes
from tablefold.tables import FLOAT_BYTES, TableSpec, check_tables, full_bytes
from tablefold.terms import AddressMap, join


@dataclass(frozen=True)
class Placement:
    """A method for the tables above a threshold; tables with `rows <= threshold` stay full, in the same memory.

    Small tables cost next to nothing and their ids are seen often, so sharing their rows buys few bytes dearly.

    Args:
        method: folds every table with more than `threshold` rows.
        threshold: rows; 0 gives the method every table.
        storage: the format of memory: "fp32", "bf16", "fp16" or "int8" (see `tablefold.storage`). Fewer bits leave
            more floats to the same budget.

    Raises:
        ValueError: for a negative threshold or an unknown storage.

    >>> from tablefold import Hash, Placement, TableSpec
    >>> tables = [TableSpec("country", rows=200, dim=8), TableSpec("user", rows=10_000, dim=8)]
    >>> Placement(Hash(), threshold=200).for_budget(tables, num_bytes=16_000).method
    Hash(collisions=None, max_rows=300, by='modulo')
    """

    method: Method
    threshold: int = 0
    storage: Storage = "fp32"

    def __post_init__(self) -> None:
        check_storage(self.storage)
        if self.threshold < 0:
            raise ValueError(f"threshold={self.threshold} must be 0 or more rows")

    def split(self, tables: Sequence[TableSpec]) -> tuple[list[TableSpec], list[TableSpec]]:
        """(tables that stay full, tables that the method gets)."""
        small = [table for table in tables if table.rows is not None and table.rows <= self.threshold]
        return small, [table for table in tables if table not in small]

    def num_bytes(self, tables: Sequence[TableSpec]) -> int:
        """Bytes that `build(tables)` will hold."""
        small, folded = self.split(tables)
        exact = full_bytes(small) + (self.method.num_bytes(folded) if folded else 0)
        if self.storage == "fp32":
            return exact
        floats = self.address_map(tables).floats
        return exact - FLOAT_BYTES * floats + stored_bytes(floats, self.storage)

    def for_budget(self, tables: Sequence[TableSpec], num_bytes: int) -> Placement:
        """This placement with its method at the largest size for which all tables together stay within `num_bytes`.

        Raises:
            ValueError: if the full tables alone, or with the method at its smallest, are larger.
        """
        if self.storage != "fp32":
            return self._for_stored_budget(tables, num_bytes)
        small, folded = self.split(check_tables(tables))
        kept = full_bytes(small)
        if kept > num_bytes:
            raise ValueError(
                f"a budget of {num_bytes} bytes is below the {kept} bytes of the {len(small)} tables that "
                f"threshold={self.threshold} keeps full: lower the threshold or raise the budget"
            )
        if not folded:
            return self
        if kept and (smallest := kept + self.method.smallest_bytes(folded)) > num_bytes:
            raise ValueError(
                f"a budget of {num_bytes} bytes is below the smallest possible, {smallest} bytes ({kept} of them for "
                "tables kept full): raise the budget, or lower the threshold"
            )
        return replace(self, method=self.method.for_budget(folded, num_bytes - kept))

    def _for_stored_budget(self, tables: Sequence[TableSpec], num_bytes: int) -> Placement:
        """`for_budget` with memory in few bits: sized as if it were float32 in a budget that is larger accordingly."""
        exact = FLOAT_BYTES * most_floats(num_bytes, self.storage)
        while True:
            try:
                fitted = replace(replace(self, storage="fp32").for_budget(tables, exact), storage=self.storage)
            except ValueError as error:
                raise ValueError(f"{num_bytes} bytes of {self.storage} are {exact} of fp32, and {error}") from error
            over = fitted.num_bytes(tables) - num_bytes  # what is not memory (lookups, networks) stays in full bits
            if over <= 0:
                return fitted
            exact -= over

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """The terms of all tables over one memory: the method's region first, then the full tables."""
        small, folded = self.split(tables)
        maps = [self.method.address_map(folded, seed)] if folded else []
        if small:
            maps.append(Full().address_map(small))
        return join(tables, maps)

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
            storage=self.storage,
            spec=str(self.method),
        )
