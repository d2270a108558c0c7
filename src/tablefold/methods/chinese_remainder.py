"""Chinese remainder embeddings: an id's remainders by coprime moduli."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tablefold.methods.compositional import Compositional, check_parts
from tablefold.methods.sizing import check_size, largest_first_modulus, most_rows
from tablefold.partitions import Partition, ceil_div, chinese_remainder, coprime_moduli, identity
from tablefold.spec import SHOWN
from tablefold.starts import CombineOption, InitOption
from tablefold.tables import TableSpec


@dataclass(frozen=True)
class ChineseRemainder(Compositional):
    """Chinese remainder embeddings (Shi, Mudigere, Naumov and Yang, KDD 2020, arXiv 1909.02107).

        e(x) = T_1[x mod m_1] (+) .. (+) T_k[x mod m_k],    m_j pairwise coprime, m_1 * .. * m_k >= rows

    By the Chinese remainder theorem no two ids share all k rows; unlike with quotients, ids that are neighbours share
    none at all, whatever order they are numbered in.

    Args:
        k: parts; 3 unless `moduli` are given. At least 2.
        moduli: m_1 .. m_k for every table, as in `moduli=41x40x39`.
        max_rows: rows of memory per table at most, instead: tables that fit stay full, the others get the largest m_1
            that leaves room for k - 1 near-equal coprime ones. Set by a budget.
        combine: `mul`, `add`, `concat`, or `features`.
        init: `matched` or `paper`, as for `qr`.

    Without either size: coprime moduli near rows^(1/k), close to the fewest rows, or the full table if that is
    smaller.

    When to use it: as `mixed_radix`, where neighbouring ids have nothing in common.

    >>> from tablefold import ChineseRemainder, TableSpec
    >>> ChineseRemainder(k=2).num_parameters([TableSpec("user", rows=1_000_000, dim=16)]) // 16
    2001
    """

    name: ClassVar[str] = "chinese_remainder"
    summary: ClassVar[str] = "remainders by k coprime moduli composed: every id unique, neighbours share nothing"
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
        """From the moduli with the fewest rows to full tables."""
        return 1, most_rows(tables)

    def partitions(self, table: TableSpec, column: int, seed: int) -> tuple[Partition, ...]:
        """The k remainders."""
        rows = table.vocabulary
        if self.moduli is not None:
            return chinese_remainder(rows, moduli=self.moduli)
        smallest = coprime_moduli(rows, self.k or 3)

        def rest(first: int) -> tuple[int, ...]:
            return coprime_moduli(ceil_div(rows, first), len(smallest) - 1)

        def fits(first: int) -> bool:
            behind = rest(first)  # a smaller first modulus may have more behind it
            fitting = first + sum(behind) <= (self.max_rows or 1)
            return fitting and all(math.gcd(first, modulus) == 1 for modulus in behind)

        first = largest_first_modulus(
            rows, self.max_rows or 1, smallest[0], lambda modulus: modulus + sum(rest(modulus))
        )
        if first == rows:
            return (identity(rows),)
        while first > smallest[0] and not fits(first):
            first -= 1
        moduli = (first, *rest(first)) if first > smallest[0] else smallest
        return chinese_remainder(rows, moduli=moduli)
