"""Quotient-remainder embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tablefold.methods.compositional import Compositional
from tablefold.methods.sizing import check_size, colliding_rows, most_rows, remainder_rows
from tablefold.partitions import Partition, identity, quotient, remainder
from tablefold.spec import SHOWN
from tablefold.starts import CombineOption, InitOption
from tablefold.tables import TableSpec


@dataclass(frozen=True)
class QuotientRemainder(Compositional):
    """Quotient-remainder embeddings (Shi, Mudigere, Naumov and Yang, KDD 2020, arXiv 1909.02107).

        e(x) = R[x mod m] (+) Q[x // m],    m remainder rows and ceil(rows / m) quotient rows for each table

    No two ids share both rows, so every id keeps a vector of its own.

    Args:
        collisions: ids per remainder row: m = ceil(rows / collisions), as in the paper.
        max_rows: rows of memory per table at most, instead: tables that fit stay full, the others get the most
            remainder rows that leave room for their quotients; a table that fits at no split takes the smallest,
            near 2 sqrt(rows). Set by a budget.
        combine: `mul`, `add`, `concat`, or `features` (the two vectors enter the model uncombined).
        init: `matched` starts the composed vector like a full table (how: `tablefold.starts`); `paper` draws both
            parts from U(sqrt(1/rows), 1).

    Without either size: the split with the fewest rows, m = ceil(sqrt(rows)), or the full table where that is smaller.

    When to use it: the method to try first for tables of up to some hundred times too many rows; best (`mul`) over ids
    ordered by frequency.

    >>> from tablefold import QuotientRemainder, TableSpec
    >>> QuotientRemainder(collisions=4).num_parameters([TableSpec("user", rows=1000, dim=16)]) // 16
    254
    """

    name: ClassVar[str] = "qr"
    summary: ClassVar[str] = "quotient and remainder rows composed: every id unique; the first to try up to about 100x"
    size_options: ClassVar[tuple[str, ...]] = ("max_rows", "collisions")

    collisions: float | None = None
    max_rows: int | None = None
    combine: CombineOption = field(default="mul", metadata=SHOWN)
    init: InitOption = "matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.name, self.collisions, self.max_rows)

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From the split with the fewest rows to full tables."""
        return 1, most_rows(tables)

    def partitions(self, table: TableSpec, column: int, seed: int) -> tuple[Partition, ...]:
        """Remainder and quotient by m."""
        rows = table.vocabulary
        if self.collisions is not None:
            modulus = colliding_rows(rows, self.collisions)
        else:
            modulus = remainder_rows(rows, self.max_rows or 1)
        if modulus == rows:
            return (identity(rows),)
        return remainder(modulus), quotient(rows, modulus)
