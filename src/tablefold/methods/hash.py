"""The hashing trick: fewer rows than ids; ids that meet share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from tablefold import partitions, spec
from tablefold.hashing import derive_key
from tablefold.method import Method
from tablefold.methods.sizing import check_size, colliding_rows, most_rows
from tablefold.partitions import Partition
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term


@dataclass(frozen=True)
class Hash(Method):
    """The hashing trick (Weinberger, Dasgupta, Langford, Smola and Attenberg, ICML 2009): `e(x) = memory[h(x) mod m]`.

    m rows of `dim` floats for each table; ids that meet in a row are one and the same to the model.

    Args:
        collisions: ids per row: m = ceil(rows / collisions) for every table.
        max_rows: rows at most, instead: m = min(rows, max_rows), so that small tables stay whole. Set by a budget.
        by: `modulo` takes the id itself as h, which spreads neighbours evenly over the rows; `mix` the 64-bit mixing
            hash, which no order of ids can help or hurt, and which needs no vocabulary; `quotient` is no hash at all
            but blocks of neighbours, row x // ceil(rows / m). Over ids ordered by frequency `quotient` puts together
            ids that are equally frequent, and `modulo` one of each frequency: the first keeps how popular an id is at
            any size, the second loses it faster than chance would.

    When to use it: as the baseline every other method has to beat at equal bytes.

    >>> from tablefold import Hash, TableSpec
    >>> Hash(collisions=4).num_parameters([TableSpec("user", rows=10, dim=16)])
    48
    """

    name: ClassVar[str] = "hash"
    summary: ClassVar[str] = "ids that meet in a row share it; the baseline to beat at equal bytes"
    size_options: ClassVar[tuple[str, ...]] = ("max_rows", "collisions")

    collisions: float | None = None
    max_rows: int | None = None
    by: Literal["modulo", "mix", "quotient"] = "modulo"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.name, self.collisions, self.max_rows)
        spec.check_choice(self.name, "by", self.by, ("modulo", "mix", "quotient"))

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From one row per table to all of them."""
        return 1, most_rows(tuple(tables))

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """One term per table."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            partition = self._partition(table, derive_key(seed, column, 0))
            base = builder.add_region(partition.num_buckets, table.dim, FULL_START)
            builder.add_term(column, Term(partition, base, stride=table.dim, width=table.dim))
        return builder.finish()

    def _partition(self, table: TableSpec, key: int) -> Partition:
        rows = self._rows(table)
        if self.by == "mix" and rows != table.rows:
            return partitions.hashed(rows, key)
        if self.by == "quotient":
            return partitions.quotient(table.vocabulary, partitions.ceil_div(table.vocabulary, rows))
        return partitions.remainder(rows)

    def _rows(self, table: TableSpec) -> int:
        if self.collisions is not None:
            return colliding_rows(table.vocabulary, self.collisions)
        if self.max_rows is None:
            raise ValueError("hash needs a size: collisions=4, max_rows=1000, or a budget")
        if table.rows is None:
            if self.by != "mix":
                raise ValueError(f"hash: table {table.name!r} has an open vocabulary, which needs by=mix")
            return self.max_rows
        return min(table.rows, self.max_rows)
