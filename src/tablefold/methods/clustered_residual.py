"""Trained tables in clusters of ids, and in stages of what these leave; ids are numbered by cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tablefold.clustering import cluster, spans
from tablefold.formats import FP32, INT4, Format
from tablefold.formats.fitting import fitted
from tablefold.formats.format import BLOCK
from tablefold.method import Kept, Method, Rung, Trained
from tablefold.methods.metric import roots
from tablefold.methods.residual import Residual
from tablefold.methods.sizing import MOST_PARTS, most_rows
from tablefold.partitions import EDGE_BYTES, found_intervals, identity
from tablefold.spec import SHOWN
from tablefold.starts import FULL_START, part_starts
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term

SKETCH = 1 << 16
"""Rows by which the sizes of a ladder are compared."""

STEPS = 4
"""Sizes of a ladder between one number of clusters that was tried and four times as many."""

_ROWS = 256
_STARTING = 16  # clusters, of the smallest size of a ladder


@dataclass(frozen=True)
class ClusteredResidual(Method):
    """Clusters of ids that are numbered one cluster after the other (as CCE, Tsang and Ahle, NeurIPS 2023, learns them
    with pointers).

        e(x) = C[i(x)] + C_1[p_1[x]] + .. + C_s[p_s[x]]

    i(x) is the interval that x lies in. Whoever writes a dictionary anyway may number ids as they like: then the number
    says the cluster, for 4 bytes a cluster. What clusters leave over goes to stages of `residual`: small codebooks,
    read by stored pointers of one byte each. Before training, intervals have equal lengths.

    Args:
        rows: clusters of a table; 256 unless given. Tables that this would make no smaller stay full.
        stages: of the residual.
        codebook, sharing: rows of each stage, and pointers in one number.

    When to use it: for tables that are trained and whose ids may be renumbered, beyond 16x; `fold(ids="renumber")` then
    takes it by itself.

    >>> from tablefold import ClusteredResidual, TableSpec
    >>> ClusteredResidual(rows=1000).num_bytes([TableSpec("user", rows=1_000_000, dim=16)])
    67996
    """

    name: ClassVar[str] = "clustered_residual"
    summary: ClassVar[str] = "a row per interval of ids; keeps trained tables whose ids are renumbered by cluster"
    size_options: ClassVar[tuple[str, ...]] = ("rows",)

    rows: int | None = field(default=None, metadata=SHOWN)
    stages: int = 0
    codebook: int = 256
    sharing: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("rows", self.count), ("codebook", self.codebook)):
            if not 1 <= value <= 1 << 31:
                raise ValueError(f"clustered_residual: {name}={value} must be at least 1 and at most {1 << 31}")
        if not 0 <= self.stages < MOST_PARTS:
            raise ValueError(f"clustered_residual: stages={self.stages} must be at least 0 and below {MOST_PARTS}")

    @property
    def count(self) -> int:
        """How many clusters a table has."""
        return _ROWS if self.rows is None else self.rows

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From two clusters to as many as the largest table has ids."""
        return 2, max(2, most_rows(tables))

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """A term for the interval, and one for each stage, by pointers of its own."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            if not self._pays(table):
                base = builder.add_region(table.vocabulary, table.dim, FULL_START)
                builder.add_term(column, Term(identity(table.vocabulary), base, stride=table.dim, width=table.dim))
                continue
            clusters = found_intervals(table.name, table.vocabulary, self.count)
            first, *starts = part_starts("add", [self.count, *(self._residual.codebooks if self.stages else [])])
            base = builder.add_region(self.count, table.dim, first)
            builder.add_term(column, Term(clusters, base, stride=table.dim, width=table.dim))
            if self.stages:
                self._residual.add_stages(builder, column, table, starts)
        return builder.finish()

    def pointer_bytes(self, tables: Sequence[TableSpec]) -> int:
        """What the numbering carries: the cluster of every id, in as many bits as that takes."""
        ids = sum(table.vocabulary for table in tables if self._pays(table))
        return -(-ids * (self.count - 1).bit_length() // 8)

    def _pays(self, table: TableSpec) -> bool:
        return 2 <= self.count < table.vocabulary and self._bytes(table, FP32) < table.num_bytes

    @property
    def _residual(self) -> Residual:
        return Residual(max(1, self.stages), self.codebook, self.sharing)

    def _bytes(self, table: TableSpec, kept: Format) -> int:
        edges = (self.count - 1) * EDGE_BYTES
        if not self.stages:
            return kept.num_bytes(self.count * table.dim) + edges
        pointed = self._residual.num_bytes_of(table, FP32) - FP32.num_bytes(sum(self._residual.codebooks) * table.dim)
        return kept.num_bytes((self.count + sum(self._residual.codebooks)) * table.dim) + pointed + edges

    def ladder(self, trained: Trained, most: int, seed: int = 0) -> Iterator[Rung]:
        """Clusters in powers of four, tried on a sample, and sizes between them; each with stages of a residual. To
        where int4 takes less; none where ids keep their numbers."""
        if not trained.renumbers:
            return
        table, sketch = trained.table, trained.sample(SKETCH, seed)
        most = min(most, INT4.num_bytes(table.vocabulary * table.dim))
        tried: dict[Residual | None, list[tuple[int, float]]] = {}  # by their stages: (clusters, error)
        for count, learned in _counts(table.vocabulary, len(sketch.values)):
            left = replace(sketch, values=_found(sketch, learned, INT4, seed, 4).left(sketch.values))
            tried.setdefault(None, []).append((count, left.error(left.values)))
            if count * 64 >= table.vocabulary:  # fewer are next to nothing beside the pointers
                for rung in Residual(1, self.codebook).rungs(left, INT4, most, seed):
                    assert isinstance(rung.method, Residual)
                    tried.setdefault(rung.method, []).append((count, rung.error))
            if replace(self, rows=count)._bytes(table, INT4) > most:  # what lies below may fit
                break
        for above, points in tried.items():
            stages = {} if above is None else {"stages": above.stages, "codebook": above.rows, "sharing": above.sharing}
            for count, error in _between(points, _whole_blocks(table)):
                method = replace(self, rows=count, **stages)
                if method._bytes(table, INT4) <= most and method._pays(table):
                    yield Rung(method, INT4, method._bytes(table, INT4), error)

    def keep(self, trained: Trained, kept: Format, seed: int = 0) -> Kept:
        """Clusters of all rows, then stages of what they leave; the order in which the ids are to be numbered."""
        if not self._pays(trained.table):
            return Kept((trained.values.clone(),))
        if self.count <= len(trained.pinned):
            raise ValueError(
                f"clustered_residual: rows={self.count} must be more than the {len(trained.pinned)} ids of table "
                f"{trained.table.name!r} that have rows of their own"
            )
        found = _found(trained, self.count, kept, seed, 8)
        order = np.argsort(found.of, kind="stable").astype(np.int64)
        edges = np.cumsum(np.bincount(found.of, minlength=self.count))[:-1]
        if not self.stages:
            return Kept((found.rows,), edges=(edges,), order=order)
        values = found.left(trained.values)[torch.from_numpy(order)]
        left = replace(trained, values=values, weights=trained.weights[order])
        stages = self._residual.keep(left, kept, seed)
        return Kept((found.rows, *stages.regions), stages.lookups, (edges,), order)


@dataclass(frozen=True, eq=False)
class _Found:
    """Clusters of rows: masters of their rows, as they are kept, and which row each id has."""

    rows: Tensor
    of: NDArray[np.int64]
    kept: Format

    def left(self, values: Tensor) -> Tensor:
        """What the clusters leave of the vectors of all ids."""
        return values - self.kept.read(self.rows)[torch.from_numpy(self.of)]


def _found(trained: Trained, count: int, kept: Format, seed: int, iterations: int) -> _Found:
    """Clusters of the rows; each pinned id is one of its own, before all others. Vectors are turned a piece at a time:
    a table of millions is held once."""
    root, inverse = roots(trained.metric)
    held, pinned = len(trained.pinned), list(trained.pinned)
    others = np.delete(np.arange(len(trained.values)), pinned)
    of, weights = np.empty(len(trained.values), dtype=np.int64), trained.weights[others]

    def turned(ids: Tensor | slice) -> Tensor:
        own = trained.values[ids]
        return own if root is None else own @ root

    ids = torch.from_numpy(others)
    found = cluster(
        lambda begin, end: turned(ids[begin:end]),
        count - held,
        weights=weights,
        count=len(others),
        seed=seed,
        iterations=iterations,
    )
    costs = np.empty(len(others))
    for some in spans(len(others)):
        apart = turned(ids[some]) - found.centroids[torch.from_numpy(found.of[some]).long()]
        costs[some] = weights[some] * apart.square().sum(dim=1).double().numpy()
    of[others] = held + _none_empty(found.of.astype(np.int64), count - held, costs)
    of[pinned] = np.arange(held)
    masses = np.bincount(of, trained.weights, count)
    sums = torch.zeros(count, trained.values.shape[1], dtype=torch.float64)
    for some in spans(len(of)):
        own = turned(some).double() * torch.from_numpy(trained.weights[some])[:, None]
        sums.index_add_(0, torch.from_numpy(of[some]), own)
    means = (sums / torch.from_numpy(masses)[:, None]).float()
    rows = fitted(means if inverse is None else means @ inverse, kept, torch.from_numpy(masses).float())
    return _Found(rows, of, kept)


def _none_empty(of: NDArray[np.int64], count: int, costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """The clusters of ids, none of them without any: an empty one gets an id that costs much where it is."""
    held, firsts, dense = np.unique(of, return_index=True, return_inverse=True)
    if missing := count - len(held):
        costs = costs.copy()
        costs[firsts] = -1.0  # which hold their own clusters
        dense[np.argsort(-costs, kind="stable")[:missing]] = np.arange(len(held), count)
    return dense.astype(np.int64)


def _counts(rows: int, sketch: int) -> Iterator[tuple[int, int]]:
    """(clusters of the table, of the sketch that stands for it): as many where the sketch has 16 rows for each, or as
    many for each row. What lies between is not tried."""
    count = _STARTING
    while count * 2 < rows:
        if count * 16 <= sketch or rows == sketch:
            yield count, count
        elif count * 16 >= rows:
            yield count, count * sketch // rows
        count *= 4


def _whole_blocks(table: TableSpec) -> int:
    """Rows that fill whole blocks of a format: what stands behind begins with a block of its own."""
    return BLOCK // math.gcd(BLOCK, table.dim)


def _between(points: Sequence[tuple[int, float]], multiple: int) -> Iterator[tuple[int, float]]:
    """What was tried, and sizes between, most of them multiples: errors fall as powers of the clusters."""
    yield from points
    for (count, error), (more, least) in pairwise(points):
        for step in range(1, round(STEPS * math.log(more / count, 4))):
            part = step / (STEPS * math.log(more / count, 4))
            low, high = (math.log(max(each, 1e-300)) for each in (error, least))
            middle = round(count * (more / count) ** part)
            yield middle // multiple * multiple or middle, math.exp(low + part * (high - low))
