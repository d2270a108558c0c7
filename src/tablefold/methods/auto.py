"""Auto: whatever loses least at the size that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tablefold.method import Method
from tablefold.methods.clusters import Clusters
from tablefold.methods.full import Full
from tablefold.methods.graded import Graded
from tablefold.methods.qr import QuotientRemainder
from tablefold.methods.robe import Robe
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap


@dataclass(frozen=True)
class Auto(Method):
    """Whatever loses least at the size that is asked for: a request, which a plan turns into methods.

    Up to 14x that is full tables in few bits. Beyond, training folds full tables that it trains first, tries `graded`
    codes, `qr` and `clusters` of those tables, and keeps what is best on the validation part. Without data it is
    `graded`. It is `robe` with hashed ids, which have no order, and where nothing else can be so small.

    When to use it: unless you know better.

    >>> from tablefold import TableSpec, make_plan
    >>> tables = [TableSpec("user", 100_000, 16)]
    >>> make_plan("auto", tables, compression=7).format.name, make_plan("auto", tables, compression=64).method.name
    ('int4', 'graded')
    """

    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = "what loses least at the size asked for, chosen by training on your data"

    def tiers(self, is_open: bool) -> tuple[tuple[Method, ...], ...]:
        """Full tables where they fit, else graded codes, quotients and remainders, and clusters of ids seen 5 or 20
        times; at last `robe`."""
        anything = (Robe(block=4),)
        if is_open:
            return (anything,)
        return (Full(),), (Graded(), QuotientRemainder(), Clusters(), Clusters(least=20)), anything

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """None: a plan has to say first what it stands for."""
        raise ValueError("auto is no method but a request: make_plan('auto', tables, compression=64) answers it")
