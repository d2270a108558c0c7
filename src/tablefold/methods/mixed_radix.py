"""Generalised quotient-remainder embeddings: an id's digits in a mixed radix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tablefold.methods.compositional import Compositional, check_parts
from tablefold.methods.sizing import check_size, largest_first_modulus, most_rows
from tablefold.partitions import Partition, ceil_div, identity, mixed_radix, mixed_radix_moduli
from tablefold.spec import SHOWN
from tablefold.starts import CombineOption, InitOption
from tablefold.tables import TableSpec


@dataclass(frozen=True)
class MixedRadix(Compositional):
    """Generalised quotient-remainder embeddings (Shi, Mudigere, Naumov and Yang, KDD 2020, arXiv 1909.02107).

        e(x) = T_1[x mod m_1] (+) T_2[(x // m_1) mod m_2] (+) .. (+) T_k[(x // (m_1 .. m_(k-1))) mod m_k]

    With m_1 * .. * m_k >= rows no two ids share all k rows.

    Args:
        k: parts; 3 unless `moduli` are given. At least 2 (k = 2 is `qr`).
        moduli: m_1 .. m_k for every table, as in `moduli=40x30x30`.
        max_rows: rows of memory per table at most, instead: tables that fit stay full, the others get the largest m_1
            that leaves room for k - 1 near-equal further digits. Set by a budget.
        combine: `mul`, `add`, `concat`, or `features`.
        init: `matched` or `paper`, as for `qr`.

    Without either size: moduli near rows^(1/k), which takes the fewest rows, or the full table where that is smaller.

    When to use it: where `qr` at its smallest, 2 sqrt(rows) rows per table, is still too large.

    >>> from tablefold import MixedRadix, TableSpec
    >>> MixedRadix(k=3).num_parameters([TableSpec("user", rows=1_000_000, dim=16)]) // 16
    300
    """

    name: ClassVar[str] = "mixed_radix"
    summary: ClassVar[str] = "k digits of the id, a row each, composed: every id unique from about k * rows^(1/k) rows"
    size_options: ClassVar[tuple[str, ...]] = ("max_rows", "moduli")

    k: int | None = None
    moduli: tuple[int, ...] | None = None
    max_rows: int | None = None
    combine: CombineOption = field(default="mul", metadata=SHOWN)
    init: InitOption = "matched"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.name, None, self.max_rows)
        check_parts(self.name, self.k, self.moduli, self.max_rows)

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From the split with the fewest rows to full tables."""
        return 1, most_rows(tables)

    def partitions(self, table: TableSpec, column: int, seed: int) -> tuple[Partition, ...]:
        """The k digits."""
        rows = table.vocabulary
        if self.moduli is not None:
            return mixed_radix(rows, moduli=self.moduli)
        k = self.k or 3

        def split(first: int) -> tuple[int, ...]:
            return first, *mixed_radix_moduli(ceil_div(rows, first), k - 1)

        first = largest_first_modulus(
            rows, self.max_rows or 1, mixed_radix_moduli(rows, k)[0], lambda modulus: sum(split(modulus))
        )
        return (identity(rows),) if first == rows else mixed_radix(rows, moduli=split(first))
