"""Graded codes: the rarer an id, the fewer floats of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tablefold.formats import INT2, Format
from tablefold.method import Method
from tablefold.methods.zones import (
    LARGEST_SCALE,
    Zone,
    add_code,
    add_zone,
    check_zones,
    count_ratio,
    cut,
    reaches_by_counts,
    role_of,
    widths_of,
    zones_of,
)
from tablefold.partitions import Partition, intervals
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder


@dataclass(frozen=True)
class Graded(Method):
    """Graded codes: ids numbered by frequency get codes as wide as their counts support.

        e(x) = block[b(x)] + code[x] @ P_z,    z the zone of x,  P_z: [width of z, dim],  b(x) ~ log(x) / log(growth)

    An id seen c times has a code of `dim / 4 * log2(1 + c / n0)` floats, rounded down to a power of two and at most
    dim; one n0 for all tables sets the size. In each table, codes of one width share a projection. A row for
    each logarithmic block of ids says what ids of similar frequency have in common; the rarest ids have nothing else.
    The idea that rare ids support fewer numbers is that of mixed dimension embeddings (Ginart et al., ISIT 2021, arXiv
    1909.11810); here it is applied to each id.

    Args:
        scale: the reads of a table over n0. Without counts, id x is taken to get a share of 1 / (x + 1) of them (Zipf's
            law). Set by a budget. A plan that knows the counts uses them, and sets `stops` and `widths`.
        stops: where zones end, ids; the last ends with the table. Ids are numbered by falling frequency.
        widths: floats of a code in each zone, one more than stops; 0 for none.
        growth: of the blocks, each so many times longer than the one before.

    When to use it: in int2, with ids numbered by frequency, from 16x to 256x. Hashed ids have no frequency order: take
    another method for them.

    >>> from tablefold import Graded, TableSpec
    >>> Graded(stops=(100, 1000), widths=(16, 4, 0)).num_parameters([TableSpec("user", rows=10_000, dim=16)])
    5920
    """

    name: ClassVar[str] = "graded"
    summary: ClassVar[str] = "codes as wide as an id is frequent, plus a row per block of like ids; for 16x to 256x"
    size_options: ClassVar[tuple[str, ...]] = ("scale",)
    few_bits: ClassVar[Format | None] = INT2

    scale: int | None = None
    stops: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    growth: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 < self.growth <= 1e6:
            raise ValueError(f"graded: growth={self.growth} must be more than 1")
        if self.scale is not None and not 0 <= self.scale <= LARGEST_SCALE:
            raise ValueError(f"graded: scale={self.scale} must lie in 0 .. {LARGEST_SCALE}")
        if self.widths is None:
            if self.stops is not None:
                raise ValueError("graded: stops need widths, one more than stops")
            return
        if self.scale is not None:
            raise ValueError(f"graded: give scale={self.scale} or widths, not both")
        check_zones(self.name, self.stops or (), self.widths)

    def unsized(self) -> Self:
        """Without a scale, and without widths."""
        return type(self)(growth=self.growth)

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From blocks alone to full codes for all."""
        most = max(table.vocabulary * harmonic(table.vocabulary) for table in tables)
        return 0, min(LARGEST_SCALE, math.ceil(16 * most))

    def by_counts(self, table: TableSpec, counts: NDArray[np.integer], size: int) -> Self:
        """With the zones that these counts give at a scale."""
        return self._of(table, reaches_by_counts(counts, table.dim, size))

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """A term of blocks for each zone, and one of codes; tables that this would make no smaller are full."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            own = self._zoned(table)
            assert own.widths is not None
            zones = zones_of(table, own.stops or (), own.widths)
            blocks = [self.blocks(zone) for zone in zones]
            if _floats(zones, blocks, table.dim) >= table.vocabulary * table.dim:
                add_code(builder, column, Zone(0, table.vocabulary, table.dim), table.dim, FULL_START)
                continue
            for zone, shared in zip(zones, blocks, strict=True):
                add_zone(builder, column, zone, table.dim, shared, role_of(zones))
        return builder.finish()

    def blocks(self, zone: Zone) -> Partition:
        """Of a zone's ids: those of the table, each `growth` times longer than the one before, cut at the zone."""
        firsts, reach = [], 1.0
        while reach < zone.stop:
            firsts.append(math.ceil(reach) - zone.first)
            reach = max(math.ceil(reach) + 1, reach * self.growth)
        inner = [first for first in firsts if first > 0]
        return intervals(inner) if inner else Partition(1)

    def _zoned(self, table: TableSpec) -> Graded:
        """With zones, by Zipf's law where there are none yet."""
        if self.widths is not None:
            return self
        if self.scale is None:
            raise ValueError("graded needs a size: scale=10000, widths, or a budget")
        share = self.scale / harmonic(table.vocabulary)
        return self._of(table, [int(share / count_ratio(width, table.dim)) for width in widths_of(table.dim)])

    def _of(self, table: TableSpec, reaches: Sequence[int]) -> Self:
        stops, widths = cut(reaches, table)
        return type(self)(stops=stops or None, widths=widths, growth=self.growth)


def _floats(zones: Sequence[Zone], blocks: Sequence[Partition], dim: int) -> int:
    codes = sum(zone.ids * zone.width + (zone.width < dim) * zone.width * dim for zone in zones)
    return codes + sum(each.num_buckets for each in blocks) * dim


def harmonic(count: int) -> float:
    """1 + 1/2 + .. + 1/count.

    >>> round(harmonic(4), 4)
    2.0833
    """
    if count < 100:
        return sum(1 / number for number in range(1, count + 1))
    return math.log(count) + 0.5772156649015329 + 1 / (2 * count)
