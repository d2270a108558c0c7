"""What methods share that cut a table into zones: consecutive ids whose codes have one width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tablefold.partitions import Partition, identity
from tablefold.starts import FULL_START, Start
from tablefold.tables import TableSpec
from tablefold.terms import MapBuilder, Projection, Role, Term

LARGEST_SCALE = 1 << 48
"""Of counts; every id that is read has a whole code long before."""

FEW = 64
"""Zones of fewer ids join the next: a projection of their own would cost more than it gives."""

START = Start(std=FULL_START.std / math.sqrt(2))
"""Of both, where a shared row and a code are added."""


@dataclass(frozen=True)
class Zone:
    """Ids from `first` up to `stop`, which have a code of `width` floats each; none for 0."""

    first: int
    stop: int
    width: int

    @property
    def ids(self) -> int:
        """How many."""
        return self.stop - self.first


def zones_of(table: TableSpec, stops: Sequence[int], widths: Sequence[int]) -> list[Zone]:
    """The zones that a table has ids for: zone k ends before `stops[k]`, the last with the table. Codes are no wider
    than the table's vectors."""
    ends = [min(stop, table.vocabulary) for stop in [*stops, table.vocabulary]]
    spans = zip([0, *ends], ends, widths, strict=False)
    return [Zone(first, stop, min(width, table.dim)) for first, stop, width in spans if first < stop]


def check_zones(name: str, stops: Sequence[int], widths: Sequence[int]) -> None:
    """`ValueError` where stops do not rise from 1, or widths are negative or not one more."""
    rising = all(before < stop for before, stop in zip([0, *stops], stops, strict=False))
    if not rising:
        raise ValueError(f"{name}: stops={'x'.join(map(str, stops))} must rise from 1 or more")
    if len(widths) != len(stops) + 1 or min(widths) < 0:
        raise ValueError(
            f"{name}: widths={'x'.join(map(str, widths))} must be {len(stops) + 1} numbers of 0 or more, one for each "
            "zone: one more than stops"
        )


def add_zone(builder: MapBuilder, column: int, zone: Zone, dim: int, shared: Partition, role: Role) -> None:
    """A row for each bucket of a zone's ids, counted from its first, and their codes."""
    start = START if zone.width else FULL_START
    base = builder.add_region(shared.num_buckets, dim, start, role)
    term = Term(shared, base, stride=dim, width=dim, first=zone.first, stop=zone.stop)
    builder.add_term(column, term)
    if zone.width:
        add_code(builder, column, zone, dim, start)


def add_code(builder: MapBuilder, column: int, zone: Zone, dim: int, start: Start) -> None:
    """The codes of a zone's ids: a row of its width each, times a projection of the zone where that is narrower."""
    base, projection = builder.add_region(zone.ids, zone.width, start), None
    if zone.width < dim:
        own = Start(std=1 / math.sqrt(zone.width))
        projection = Projection(builder.add_region(zone.width, dim, own, "projections"), dim)
    own_rows = identity(zone.ids)
    builder.add_term(
        column,
        Term(own_rows, base, zone.width, zone.width, first=zone.first, stop=zone.stop, projection=projection),
    )


def role_of(zones: Sequence[Zone]) -> Role:
    """Of the rows that ids share: beside codes they deserve more bits than these."""
    return "shared" if any(zone.width for zone in zones) else "rows"


def widths_of(dim: int) -> list[int]:
    """Widths of codes, the widest first: dim and the powers of two below it.

    >>> widths_of(16), widths_of(12)
    ([16, 8, 4, 2, 1], [12, 8, 4, 2, 1])
    """
    return [dim, *(1 << power for power in reversed(range((dim - 1).bit_length())))]


def count_ratio(width: int, dim: int) -> float:
    """c / n0 from which on an id that is seen c times supports a code of so many floats: 2^(4 width / dim) - 1."""
    return float(2 ** (4 * width / dim)) - 1


def reaches_by_counts(counts: NDArray[np.number], dim: int, scale: float) -> list[int]:
    """How many ids support codes of each of `widths_of(dim)`.

    Args:
        counts: how often each id is read, falling.
        dim: of the table.
        scale: the reads of the table over n0, the count that an id with one more code float has to have beside.
    """
    if scale <= 0:
        return [0] * len(widths_of(dim))
    once, rows = scale / max(1.0, float(counts.sum())), len(counts)
    seen = rows - int(np.searchsorted(counts[::-1], 0, side="right"))
    rising = counts[::-1] + np.arange(rows) / rows  # of ids with one count, those that come first reach further
    wanted = [count_ratio(width, dim) / once for width in widths_of(dim)]
    return [min(seen, rows - int(np.searchsorted(rising, least))) for least in wanted]


def cut(reaches: Sequence[int], table: TableSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(stops, widths) of zones: the ids up to each reach get codes of that width, the widest first; zones of few ids
    join the next.

    >>> cut([10, 200, 500, 1000, 1000], TableSpec("user", rows=1000, dim=16))
    ((200, 500), (8, 4, 2))
    """
    stops: list[int] = []
    widths: list[int] = []
    for width, reach in zip(widths_of(table.dim), reaches, strict=True):
        reach = min(reach, table.vocabulary)
        if reach - (stops[-1] if stops else 0) >= min(FEW, table.vocabulary):
            stops.append(reach)
            widths.append(width)
    if stops and stops[-1] == table.vocabulary:
        return tuple(stops[:-1]), tuple(widths)
    return tuple(stops), (*widths, 0)
