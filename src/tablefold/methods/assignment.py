"""Clusters of trained tables: which ids share a row, which have codes beside it, and the order that says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tablefold.clustering import cluster
from tablefold.formats import INT2, INT4
from tablefold.method import Trained
from tablefold.methods.allotment import Curve, allot
from tablefold.methods.metric import roots
from tablefold.methods.zones import LARGEST_SCALE, Zone, cut, reaches_by_counts, zones_of
from tablefold.partitions import EDGE_BYTES, largest
from tablefold.tables import FLOAT_BYTES, TableSpec

SHARES = ((16, 0.06), (64, 0.25), (256, 0.5), (1000, 1.0))
"""(compression, share of the budget that rows of clusters take): measured on Gowalla and synthetic clicks."""

SLACK = 0.005
"""Share of a budget that is left for blocks of codes which are not full; 128 bytes at least."""

CODED = 0.05
"""Of what clusters leave of ids that have whole codes, so much stays."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """The zones of a table and the clusters in them.

    Args:
        stops, clusters, widths: as `Clusters` has them.
        order: old ids in their new order.
        edges: by zone, where clusters begin, counted from the zone's first id; none where there is one cluster, or one
            for each id.
    """

    stops: tuple[int, ...]
    clusters: tuple[int, ...]
    widths: tuple[int, ...]
    order: NDArray[np.int64]
    edges: Mapping[int, NDArray[np.int64]]


def default_share(compression: float) -> float:
    """Of the budget that rows of clusters take, by `SHARES`.

    >>> default_share(10), default_share(128), default_share(5000)
    (0.06, 0.375, 1.0)
    """
    logs = [math.log(each) for each, _ in SHARES]
    return round(float(np.interp(math.log(compression), logs, [share for _, share in SHARES])), 4)


def pointer_bits(ids: int, rows: int) -> int:
    """What it takes to say of each id which of all rows is its own; nothing where each has one."""
    return ids * math.ceil(math.log2(rows)) if rows < ids else 0


def find_clusters(
    tables: Sequence[Trained],
    budget: int,
    share: float,
    least: int,
    first_id: int,
    seed: int,
    *,
    with_pointers: bool = False,
) -> list[Assignment]:
    """The assignment of each table; arguments and errors as `Method.learn`.

    Args:
        share: of the budget, for rows of clusters.
        least: ids seen less often get no cluster by their vector.
    """
    drafts = [_Draft(trained, least, first_id, with_pointers) for trained in tables]
    room = budget - max(128, int(SLACK * budget))
    for_rows = share * room + sum(draft.likely_pointer_bytes(share * room / len(drafts)) for draft in drafts)
    cut_within(drafts, max(0, room - for_rows), room)
    smallest = math.ceil(budget - room + sum(draft.taken for draft in drafts))
    if smallest > budget:
        raise ValueError(
            f"a budget of {budget} bytes is below the smallest possible for clusters here, {smallest} bytes: raise the "
            "budget"
        )
    zones = [(draft, number) for draft in drafts for number in draft.learned]
    costs, curves = [draft.row_bytes for draft, _ in zones], [draft.curve(number, seed) for draft, number in zones]

    def fits(left: int) -> bool:
        """Whether all fits, after so many bytes were given to rows of clusters."""
        for (draft, number), rows in zip(zones, allot(curves, costs, left), strict=True):
            draft.rows[number] = rows
        return sum(draft.taken for draft in drafts) <= room

    _ = fits(largest(math.ceil(sum(costs)), room - sum(draft.num_bytes for draft in drafts), fits))
    return [draft.assign(seed) for draft in drafts]


def cut_within(drafts: Sequence[_Draft], codes: float, budget: float) -> None:
    """Cut all tables by the largest scale whose codes take so many bytes, and that leaves a row for every zone; by
    scale 0 where none does."""

    def fits(scale: float) -> bool:
        for draft in drafts:
            draft.cut(scale)
        least = sum(draft.taken for draft in drafts)
        return sum(draft.code_bytes for draft in drafts) <= codes and least <= budget

    low, high = 0.0, 1.0
    while high < LARGEST_SCALE and fits(high):
        low, high = high, high * 4
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    fits(low)


class _Draft:
    """A table on its way to an assignment: its ids by falling counts, those that stand for no value first."""

    def __init__(self, trained: Trained, least: int, first_id: int, with_pointers: bool) -> None:
        self.trained, self.first_id, self.with_pointers = trained, first_id, with_pointers
        self.table: TableSpec = trained.table
        counts = trained.weights
        behind = first_id + np.argsort(-counts[first_id:], kind="stable")
        self.order: NDArray[np.int64] = np.concatenate([np.arange(first_id), behind])
        self.counts = np.maximum.accumulate(counts[self.order][::-1])[::-1]
        self.falls = 1 + np.flatnonzero(np.diff(np.floor(np.log2(1 + self.counts))))  # where counts have halved
        self.root = roots(trained.metric)[0]
        self.seen = max(first_id, int((counts[behind] >= least).sum()) + first_id)  # ids that are seen often enough
        self.row_bytes = INT4.num_bytes(32 * self.table.dim) / 32 + EDGE_BYTES
        self.zones: list[Zone] = []
        self.rows: dict[int, int] = {}

    def cut(self, scale: float) -> None:
        """Fix the zones: where widths change, and where ids are seen too seldom."""
        stops, widths = cut(reaches_by_counts(self.counts, self.table.dim, scale), self.table)
        zones = []
        for zone in zones_of(self.table, stops, widths):
            if zone.first < self.seen < zone.stop:
                zones += [Zone(zone.first, self.seen, zone.width), Zone(self.seen, zone.stop, zone.width)]
            else:
                zones.append(zone)
        self.zones = zones
        self.code_bytes = _code_bytes(zones, self.table.dim)
        self.blocks = {n: self._blocks(zone) for n, zone in enumerate(zones) if zone.first >= self.seen}
        self.learned = [number for number in range(len(zones)) if number not in self.blocks]
        self.rows = dict.fromkeys(self.learned, 1)
        self.other_rows = sum(len(edges) + 1 for edges in self.blocks.values()) + (self.first_id if self.learned else 0)
        self.num_bytes = self.code_bytes + math.ceil(self.other_rows * self.row_bytes)

    @property
    def taken(self) -> float:
        """Bytes of all, `rows` by zone among them."""
        return self.num_bytes + self.row_bytes * sum(self.rows.values()) + self.pointer_bytes

    @property
    def pointer_bytes(self) -> int:
        """What pointers take, where they are counted: each says which of all rows is the id's own."""
        bits = pointer_bits(self.table.vocabulary, sum(self.rows.values()) + self.other_rows)
        return -(-bits // 8) if self.with_pointers else 0

    def likely_pointer_bytes(self, row_bytes: float) -> float:
        """The same, by the bytes that its rows will take."""
        bits = math.log2(max(2.0, row_bytes / self.row_bytes)) if self.with_pointers else 0
        return self.table.vocabulary * bits / 8

    def curve(self, number: int, seed: int) -> Curve:
        """What clusters of a zone would leave."""
        zone = self.zones[number]
        found = self._trained(zone)
        coded = max(CODED, 1 - zone.width / self.table.dim) ** 2
        return Curve.of(replace(found, weights=found.weights * coded), seed)

    def assign(self, seed: int) -> Assignment:
        """Cluster the zones with the rows that they were given."""
        order, edges, clusters = self.order.copy(), dict(self.blocks), []
        for number, zone in enumerate(self.zones):
            if number in self.blocks:
                clusters.append(len(self.blocks[number]) + 1)
                continue
            kept = self.first_id if zone.first == 0 else 0  # ids of no value: each its own, before all others
            if self.rows[number] >= zone.ids - kept:
                clusters.append(zone.ids)
                continue
            found = self._trained(zone)
            of = cluster(found.values, self.rows[number], weights=found.weights, seed=seed).of
            _, sizes = np.unique(of, return_counts=True)
            inner = np.argsort(of, kind="stable")
            order[zone.first + kept : zone.stop] = self.order[zone.first + kept : zone.stop][inner]
            firsts = np.cumsum([*[1] * kept, *sizes])[:-1]
            clusters.append(len(sizes) + kept)
            if len(firsts):
                edges[number] = firsts
        stops = tuple(zone.stop for zone in self.zones[:-1])
        widths = tuple(zone.width for zone in self.zones)
        return Assignment(stops, tuple(clusters), widths, order, {n: each for n, each in edges.items() if len(each)})

    def _trained(self, zone: Zone) -> Trained:
        """The ids of a zone, with vectors in which distance is cost. Ids of no value are left out where there are
        others."""
        first = max(zone.first, min(self.first_id, zone.stop - 1))
        ids = self.order[first : zone.stop]
        values = self.trained.values[torch.from_numpy(ids)]
        return Trained(self.table, values if self.root is None else values @ self.root, 1 + self.trained.weights[ids])

    def _blocks(self, zone: Zone) -> NDArray[np.int64]:
        """Where counts fall by half, counted from the zone's first id."""
        first, stop = np.searchsorted(self.falls, [zone.first + 1, zone.stop])
        return self.falls[first:stop] - zone.first


def _code_bytes(zones: Sequence[Zone], dim: int) -> int:
    codes = sum(INT2.num_bytes(zone.ids * zone.width) for zone in zones)
    return codes + sum(zone.width * dim * FLOAT_BYTES for zone in zones if 0 < zone.width < dim)
