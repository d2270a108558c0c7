"""What compositional methods share: a vector per partition, composed (Shi et al., KDD 2020)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import get_args

from tablefold import spec
from tablefold.method import Method
from tablefold.methods.sizing import MOST_PARTS, check_count
from tablefold.partitions import Partition
from tablefold.starts import CombineOption, InitOption, paper_start, part_starts
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term


def check_parts(name: str, k: int | None, moduli: Sequence[int] | None, max_rows: int | None) -> None:
    """`ValueError` for fewer than two parts, or for sizes given twice."""
    if k is not None:
        check_count(name, k, 2, "parts")
    if moduli is None:
        return
    if len(moduli) > MOST_PARTS:
        raise ValueError(f"{name}: {len(moduli)} moduli are too many: take at most {MOST_PARTS}")
    text = "x".join(map(str, moduli))
    if len(moduli) < 2:
        raise ValueError(f"{name}: moduli={text} must be at least 2 numbers, as in moduli={text}x{text}")
    if k is not None or max_rows is not None:
        raise ValueError(f"{name}: moduli={text} set the parts and their sizes; leave out k and max_rows")


class Compositional(Method):
    """A method that gives every table some partitions, a row for each of their buckets, and composes the rows.

    With parts v_1 .. v_k, read at the id's k buckets:

    - `mul`: v_1 * .. * v_k elementwise, each of `dim` floats
    - `add`: v_1 + .. + v_k, each of `dim` floats
    - `concat`: v_1, .., v_k end to end, each of `dim / k` floats
    - `features`: k features of `dim` floats, for the model to combine
    """

    combine: CombineOption
    init: InitOption

    def __post_init__(self) -> None:
        super().__post_init__()
        spec.check_choice(self.name, "combine", self.combine, get_args(CombineOption))
        spec.check_choice(self.name, "init", self.init, get_args(InitOption))

    @abstractmethod
    def partitions(self, table: TableSpec, column: int, seed: int) -> tuple[Partition, ...]:
        """The partitions of one table; a single identity keeps it full."""

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """One term per partition."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            self._add_table(builder, column, table, self.partitions(table, column, seed))
        return builder.finish()

    def _add_table(self, builder: MapBuilder, column: int, table: TableSpec, parts: tuple[Partition, ...]) -> None:
        k = len(parts)
        width = table.dim // k if self.combine == "concat" else table.dim
        if self.combine == "concat" and width * k != table.dim:
            raise ValueError(
                f"{self.name}: combine=concat cuts dim into {k} equal parts; dim={table.dim} of table {table.name!r} "
                f"is no multiple of {k}: take dim={width * k + k} or another combine"
            )
        starts = part_starts(self.combine, [partition.num_buckets for partition in parts])
        if self.init == "paper":
            starts = (paper_start(table.vocabulary),) * k
        slot_step = width if self.combine in ("concat", "features") else 0
        for number, (partition, start) in enumerate(zip(parts, starts, strict=True)):
            base = builder.add_region(partition.num_buckets, width, start)
            term = Term(
                partition,
                base,
                stride=width,
                width=width,
                slot=number * slot_step,
                combine="mul" if self.combine == "mul" else "add",
            )
            builder.add_term(column, term)
