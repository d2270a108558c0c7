"""Residual quantisation: a few rows of small codebooks, added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tablefold.clustering import cluster, nearest
from tablefold.formats import FP32, INT4, INT8, Format
from tablefold.formats.fitting import fitted
from tablefold.method import Keeper, Kept, Method, Rung, Trained
from tablefold.methods.metric import roots
from tablefold.methods.sizing import MOST_PARTS
from tablefold.partitions import Partition, Pointers, identity, narrowest_integer, pointers
from tablefold.spec import SHOWN
from tablefold.starts import FULL_START, part_starts
from tablefold.tables import FLOAT_BYTES, TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term

ROUNDS = 3
"""Of improving all stages in turn, each given the others."""

SAMPLE = 1 << 18
"""Rows that codebooks are learned from; all rows are then assigned to them."""

SKETCH = 1 << 14
"""Rows by which the sizes of a ladder are compared."""

FEW_ROWS = 32
"""Of the smaller codebooks that small tables may take."""

_PIECE = 1 << 18


@dataclass(frozen=True)
class Residual(Method):
    """Residual quantisation (Juang and Gray, ICASSP 1982; Chen, Guan and Wang, Sensors 2010).

        e(x) = C_1[p_1[x]] + .. + C_s[p_s[x]]

    C_1 .. C_s are codebooks of a few rows; p_1 .. p_s are arrays with one pointer per id. Both are found when a trained
    table is folded: C_1 holds the clusters of the rows, C_2 those of what C_1 leaves over, and so on; then each stage
    is improved given the others. The pointers' bytes count. Before training, pointers are the digits of the id.

    Args:
        stages: rows that are added. Set by a budget.
        rows: of a codebook; a pointer into up to 256 takes a byte. Tables that this would make no smaller stay full.

    When to use it: for trained tables, from 8x to 60x. At equal bytes it loses less than low rank, fewer bits or
    product quantisation.

    >>> from tablefold import Residual, TableSpec
    >>> Residual(stages=2).num_bytes([TableSpec("user", rows=1_000_000, dim=16)])
    2032768
    """

    name: ClassVar[str] = "residual"
    summary: ClassVar[str] = "rows of small codebooks, added; keeps trained tables in a byte for each"
    size_options: ClassVar[tuple[str, ...]] = ("stages",)

    stages: int = field(default=4, metadata=SHOWN)
    rows: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.stages <= MOST_PARTS:
            raise ValueError(f"residual: stages={self.stages} must be at least 1 and at most {MOST_PARTS}")
        if not 1 <= self.rows <= 1 << 31:
            raise ValueError(f"residual: rows={self.rows} must be at least 1 and at most {1 << 31}")

    def sized(self, size: int) -> Residual:
        """With so many stages."""
        return replace(self, stages=size)

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """From one stage to as many as make the widest table no smaller."""
        return 1, max(1, min(MOST_PARTS, max(table.dim for table in tables) * FLOAT_BYTES - 1))

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """A term per stage, by pointers of its own."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            if not self._pays(table):
                base = builder.add_region(table.vocabulary, table.dim, FULL_START)
                builder.add_term(column, Term(identity(table.vocabulary), base, stride=table.dim, width=table.dim))
                continue
            begins: dict[int, Partition] = {}  # stages that begin alike share an array: of 33 million ids it is large
            for stage, start in enumerate(part_starts("add", [self.rows] * self.stages)):
                base, digit = builder.add_region(self.rows, table.dim, start), self.digit(table, stage)
                name = f"{table.name} {stage}"
                if digit not in begins:
                    begins[digit] = pointers(name, table.vocabulary, self.rows, digit)
                lookup = begins[digit].lookup
                assert isinstance(lookup, Pointers)
                part = replace(begins[digit], lookup=replace(lookup, name=name))
                builder.add_term(column, Term(part, base, stride=table.dim, width=table.dim))
        return builder.finish()

    def digit(self, table: TableSpec, stage: int) -> int:
        """What ids are divided by, for the digit that a stage begins with: those after the last begin anew."""
        digits = 1
        while self.rows > 1 and self.rows**digits < table.vocabulary:
            digits += 1
        return int(self.rows ** (stage % digits))

    def _pays(self, table: TableSpec) -> bool:
        return self._bytes(table, FP32) < table.num_bytes

    def _bytes(self, table: TableSpec, kept: Format) -> int:
        pointer = narrowest_integer(self.rows - 1).itemsize
        return kept.num_bytes(self.stages * self.rows * table.dim) + self.stages * table.vocabulary * pointer

    def ladder(self, trained: Trained, most: int, seed: int = 0) -> Iterator[Rung]:
        """From one stage up, by stages that are learned from a sample and never improved; to where int4 takes less."""
        table = trained.table
        most = min(most, INT4.num_bytes(table.vocabulary * table.dim))
        rows = min(FEW_ROWS, self.rows) if table.vocabulary < self.rows * table.dim else self.rows
        for kept in (INT8, INT4):
            yield from replace(self, rows=rows, stages=1).rungs(trained, kept, most, seed)
            if table.vocabulary >= 64 * rows * table.dim:  # codebooks are next to nothing beside the pointers
                break

    def rungs(self, trained: Trained, kept: Format, most: int, seed: int) -> Iterator[Rung]:
        """As `ladder`, from this size up, in one format."""
        table, sketch = trained.table, trained.sample(SKETCH, seed)
        method, search = self, _Search(sketch, kept, self.rows, seed)
        while method._bytes(table, kept) <= most and method._pays(table) and self.rows < len(sketch.values):
            search.add_stage(iterations=4)
            yield Rung(method, kept, method._bytes(table, kept), search.error())
            if method.stages == MOST_PARTS:
                break
            method = replace(method, stages=method.stages + 1)

    def keep(self, trained: Trained, kept: Format, seed: int = 0) -> Kept:
        """Codebooks from a sample, then the pointers of all rows."""
        if not self._pays(trained.table):
            return Kept((trained.values.clone(),))
        sample = trained.sample(SAMPLE, seed)
        search = self._learned(sample, kept, seed)
        of = search.of if sample is trained else search.place(trained.values)
        narrow = narrowest_integer(self.rows - 1)
        return Kept(tuple(search.masters), tuple(each.astype(narrow) for each in of))

    def keeper(self, sample: Trained, kept: Format, seed: int = 0) -> Keeper | None:
        """Codebooks from the sample, then the pointers of each piece."""
        if not self._pays(sample.table):
            return None
        search = self._learned(sample, kept, seed)
        return Keeper(tuple(search.masters), search.place)

    def _learned(self, sample: Trained, kept: Format, seed: int) -> _Search:
        """Codebooks of a sample, and its pointers."""
        search = _Search(sample, kept, self.rows, seed)
        for _ in range(self.stages):
            search.add_stage()
        best, least = search.found, search.error()
        for _ in range(ROUNDS):
            search.improve()
            if search.error() < least:  # rounding to a format may undo a gain
                best, least = search.found, search.error()
        search.masters, search.turned, search.of = best
        return search


class _Search:
    """Codebooks of some rows, found a stage at a time.

    Where errors have a metric M, everything is computed on rows times its square root: the plain square there is the
    cost here. Codebooks are rounded to their format as they are found, so that later stages make up for it.
    """

    def __init__(self, trained: Trained, kept: Format, rows: int, seed: int) -> None:
        self.trained, self.kept, self.rows, self.seed = trained, kept, rows, seed
        self.root, self.inverse = roots(trained.metric)
        self.left = self._turned(trained.values).clone()
        self.weights = torch.from_numpy(trained.weights)
        self.of: list[NDArray[np.int64]] = []
        self.masters: list[Float[Tensor, "rows dim"]] = []  # of the codebooks
        self.turned: list[Tensor] = []  # what is read of them, times the root

    @property
    def found(self) -> tuple[list[Tensor], list[Tensor], list[NDArray[np.int64]]]:
        """The stages as they are now: codebooks, as they are kept and as they are searched, and pointers."""
        return list(self.masters), list(self.turned), list(self.of)

    def add_stage(self, iterations: int = 12) -> None:
        """Clusters of what the stages so far leave."""
        seed = self.seed + len(self.turned)
        found = cluster(self.left, self.rows, weights=self.trained.weights, seed=seed, iterations=iterations)
        self.masters.append(found.centroids)
        self.turned.append(found.centroids)
        self._set(len(self.turned) - 1, found.centroids)
        self.of.append(found.of.astype(np.int64))
        self.left -= self.turned[-1][torch.from_numpy(self.of[-1])]

    def improve(self) -> None:
        """Each stage anew, given the others: its pointers, then its rows."""
        for stage in range(len(self.turned)):
            self.left += self.turned[stage][torch.from_numpy(self.of[stage])]
            self.of[stage], _ = nearest(self.left, self.turned[stage])
            self._set(stage, self._means(stage))
            self.left -= self.turned[stage][torch.from_numpy(self.of[stage])]

    def error(self) -> float:
        """The weighted mean of what is left."""
        costs = self.left.square().sum(dim=1, dtype=torch.float64)
        return float((self.weights @ costs) / self.weights.sum())

    def place(self, values: Tensor) -> list[NDArray[np.integer]]:
        """The pointers of rows to the codebooks as they are, one array per stage."""
        narrow = narrowest_integer(self.rows - 1)
        of = [np.empty(len(values), dtype=narrow) for _ in self.turned]
        for first in range(0, len(values), _PIECE):
            left = self._turned(values[first : first + _PIECE]).clone()
            found: list[NDArray[np.int64]] = []
            for codebook in self.turned:
                found.append(nearest(left, codebook)[0])
                left -= codebook[torch.from_numpy(found[-1])]
            for _ in range(ROUNDS if len(self.turned) > 1 else 0):
                for stage, codebook in enumerate(self.turned):
                    left += codebook[torch.from_numpy(found[stage])]
                    found[stage] = nearest(left, codebook)[0]
                    left -= codebook[torch.from_numpy(found[stage])]
            for stage, array in enumerate(of):
                array[first : first + len(left)] = found[stage]
        return list(of)

    def _means(self, stage: int) -> Tensor:
        of = torch.from_numpy(self.of[stage])
        totals = torch.zeros(self.rows, dtype=torch.float64).index_add_(0, of, self.weights)
        sums = torch.zeros(self.rows, self.left.shape[1], dtype=torch.float64)
        sums.index_add_(0, of, self.left.double() * self.weights[:, None])
        means, held = self.turned[stage].clone(), totals > 0
        means[held] = (sums[held] / totals[held, None]).float()
        return means

    def _turned(self, values: Tensor) -> Tensor:
        return values if self.root is None else values @ self.root

    def _set(self, stage: int, turned: Tensor) -> None:
        """Take over the rows of a stage, rounded to the format."""
        rows = turned if self.inverse is None else turned @ self.inverse
        self.masters[stage] = fitted(rows, self.kept)
        self.turned[stage] = self._turned(self.kept.read(self.masters[stage]))
