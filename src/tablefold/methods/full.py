"""The full table: every id owns a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tablefold.formats import INT2, INT4, INT8, Format
from tablefold.formats.fitting import fitted
from tablefold.method import Keeper, Kept, Method, Rung, Trained
from tablefold.partitions import identity
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term


@dataclass(frozen=True)
class Full(Method):
    """The full table: `e(x) = memory[x]`, rows * dim floats for each table.

    Weights start uniform with standard deviation 0.02. `tablefold.starts` says why, and how all methods match it.

    When to use it: to measure others against, and for small tables beside folded ones.

    >>> from tablefold import Full, TableSpec
    >>> Full().num_bytes([TableSpec("user", rows=29_858, dim=16)])
    1910912
    """

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "every id owns a row; what others are measured against"

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """One term per table: the identity."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            base = builder.add_region(table.vocabulary, table.dim, FULL_START)
            builder.add_term(column, Term(identity(table.vocabulary), base, stride=table.dim, width=table.dim))
        return builder.finish()

    def ladder(self, trained: Trained, most: int, seed: int = 0) -> Iterator[Rung]:
        """In 8, 4 and 2 bits."""
        for kept in (INT8, INT4, INT2):
            num_bytes = kept.num_bytes(trained.table.vocabulary * trained.table.dim)
            if num_bytes <= most:
                yield Rung(
                    self, kept, num_bytes, trained.error(trained.values - kept.read(self._master(trained, kept)))
                )

    def keep(self, trained: Trained, kept: Format, seed: int = 0) -> Kept:
        """The rows, moved such that their scales are those of the least error."""
        return Kept((self._master(trained, kept),))

    def keeper(self, sample: Trained, kept: Format, seed: int = 0) -> Keeper:
        """Every row for itself."""
        return Keeper((), lambda rows: fitted(rows, kept))

    def _master(self, trained: Trained, kept: Format) -> Tensor:
        return fitted(trained.values, kept, torch.from_numpy(trained.weights).float())
