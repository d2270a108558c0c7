"""Clusters: a row for ids that are alike, and codes for what frequent ones differ in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tablefold.formats import INT2, INT4
from tablefold.method import Learned, Method, Trained
from tablefold.methods.assignment import default_share, find_clusters, pointer_bits
from tablefold.methods.zones import Zone, add_zone, check_zones, role_of, zones_of
from tablefold.partitions import Partition, found_intervals, identity, pointers
from tablefold.tables import TableSpec, full_bytes
from tablefold.terms import AddressMap, MapBuilder


@dataclass(frozen=True)
class Clusters(Method):
    """Clusters: a row per cluster of ids, which the ids' numbering carries (Tsang and Ahle, "Clustering the sketch",
    NeurIPS 2023, arXiv 2210.05974, learn clusters while training, and store a pointer for each id).

        e(x) = row[c(x)] + code[x] @ P_z,    c(x) the interval that x lies in,  z its zone,  P_z: [width of z, dim]

    A dictionary of raw values has some order anyway. Number the ids by cluster, and each cluster is an interval: only
    its edge is kept, 4 bytes. Edges are state. They are found when a plan is made from a trained model (`auto`); before
    that, intervals have equal lengths.

    Args:
        rows: clusters of a table, the same for all; tables that have no more ids are full. Set by a budget.
        stops: where zones end, ids; the last ends with the table. Clusters lie within a zone.
        clusters: of each zone, one more than stops; instead of `rows`.
        widths: floats of a code in each zone; none unless given. Frequent ids deserve wide ones.
        stored: keep a pointer for each id instead, for ids that cannot be renumbered. There is one zone then.
        least: of clusters learned from trained tables: ids seen less often than this get a cluster by their count, not
            by their vector, for so few labels say little.
        share: of the budget that rows of clusters take when they are learned; the rest goes to codes. By compression
            unless given: 6 % at 16x, all from 1,000x on.

    When to use it: with a dictionary that is yours, as small as 4,000x; stored, from 16x to 60x.

    >>> from tablefold import Clusters, TableSpec
    >>> table = TableSpec("user", rows=100_000, dim=16)
    >>> Clusters(rows=64).num_bytes([table]), Clusters(rows=64, stored=True).num_bytes([table])
    (4348, 104096)
    """

    name: ClassVar[str] = "clusters"
    summary: ClassVar[str] = "a row per cluster, carried by the order of the ids, plus codes; as small as 4000x"
    size_options: ClassVar[tuple[str, ...]] = ("rows",)

    rows: int | None = None
    stops: tuple[int, ...] | None = None
    clusters: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    stored: bool = False
    least: int = 5
    share: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"clusters: rows={self.rows} must be at least 1")
        if self.rows is not None and (self.stops is not None or self.clusters is not None):
            raise ValueError(f"clusters: give rows={self.rows} or the clusters of each zone, not both")
        if self.stored and (self.stops is not None or self.widths is not None):
            raise ValueError("clusters: stored pointers go with one zone and no codes: leave out stops and widths")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"clusters: share={self.share} must lie in 0 .. 1, without 0")
        if self.least < 0:
            raise ValueError(f"clusters: least={self.least} must be 0 or more")
        if self.widths is not None or self.clusters is not None:
            check_zones(self.name, self.stops or (), self.widths or (0,) * (len(self.stops or ()) + 1))
        if self.clusters is not None and (len(self.clusters) != len(self.stops or ()) + 1 or min(self.clusters) < 1):
            raise ValueError(
                f"clusters: clusters={'x'.join(map(str, self.clusters))} must be {len(self.stops or ()) + 1} numbers "
                "of 1 or more, one for each zone: one more than stops"
            )

    def unsized(self) -> Self:
        """Without clusters, and without zones."""
        return replace(self, rows=None, stops=None, clusters=None, widths=None, share=None)

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From one row for a table to full tables."""
        return 1, max(table.vocabulary for table in tables)

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """For each zone a term of its clusters and one of its codes."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            zones = self._zones(table)
            for number, zone in enumerate(zones):
                add_zone(builder, column, zone, table.dim, self._partition(table, number, zone), role_of(zones))
        return builder.finish()

    @property
    def learns(self) -> bool:
        """Yes, as long as it has no size: one that is given is taken as it is."""
        return self.rows is None and self.clusters is None and not self.stored

    def learn(
        self, tables: Sequence[Trained], budget: int, first_id: int, seed: int = 0, *, with_pointers: bool = False
    ) -> list[Learned]:
        """Zones by counts, clusters by k-means in the metric of the loss, ids numbered by both."""
        share = self.share or default_share(full_bytes([each.table for each in tables]) / max(1, budget))
        found = find_clusters(tables, budget, share, self.least, first_id, seed, with_pointers=with_pointers)
        return [
            Learned(
                Clusters(stops=each.stops or None, clusters=each.clusters, widths=each.widths),
                INT2 if any(each.widths) else INT4,
                each.order,
                {f"{trained.table.name} {zone}": edges for zone, edges in each.edges.items()},
            )
            for trained, each in zip(tables, found, strict=True)
        ]

    def pointer_bytes(self, tables: Sequence[TableSpec]) -> int:
        """What the numbering carries: the cluster of every id, in as many bits as that takes."""
        if self.stored:
            return 0
        bits = 0
        for table in tables:
            clusters = sum(min(self._clusters(number), zone.ids) for number, zone in enumerate(self._zones(table)))
            bits += pointer_bits(table.vocabulary, clusters)
        return -(-bits // 8)

    def _zones(self, table: TableSpec) -> list[Zone]:
        """Those of a table; one whose ids have rows of their own needs no codes."""
        stops = self.stops or ()
        zones = zones_of(table, stops, self.widths or (0,) * (len(stops) + 1))
        owned = [self._clusters(number) >= zone.ids for number, zone in enumerate(zones)]
        return [replace(zone, width=0) if own else zone for zone, own in zip(zones, owned, strict=True)]

    def _clusters(self, zone: int) -> int:
        if self.clusters is not None:
            return self.clusters[zone]
        if self.rows is None:
            raise ValueError("clusters needs a size: rows=1000, or a budget")
        return self.rows

    def _partition(self, table: TableSpec, number: int, zone: Zone) -> Partition:
        """The clusters of a zone; its ids themselves where there are no fewer."""
        clusters = self._clusters(number)
        if clusters >= zone.ids:
            return identity(zone.ids)
        if clusters == 1:
            return Partition(1)
        if self.stored:
            return pointers(table.name, zone.ids, clusters, div=-(-zone.ids // clusters))
        return found_intervals(f"{table.name} {number}", zone.ids, clusters)
