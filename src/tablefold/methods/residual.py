"""Residual quantisation: a few rows of small codebooks, added."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from tablefold.clustering import nearest
from tablefold.formats import FP32, INT4, INT8, Format
from tablefold.formats.format import BLOCK
from tablefold.method import Keeper, Kept, Method, Rung, Trained
from tablefold.methods.codebooks import Codebooks
from tablefold.methods.sizing import MOST_PARTS
from tablefold.partitions import Partition, Pointers, ceil_div, coprime_below, identity, narrowest_integer, pointers
from tablefold.spec import SHOWN
from tablefold.starts import FULL_START, Start, part_starts
from tablefold.tables import FLOAT_BYTES, TableSpec
from tablefold.terms import AddressMap, MapBuilder, Term

ROUNDS = 2
"""Of improving all stages in turn, each given the others."""

SAMPLE = 1 << 16
"""Rows that codebooks are learned from; all rows are then assigned to them."""

SKETCH = 64
"""Rows for each of a codebook by which the sizes of a ladder are compared; 4096 at least."""

FEW_ROWS = 16
"""Of the codebooks that small tables may take, two to a pointer."""

FEWER_BITS = ((75, 5), (33, 3), (16, 2), (7, 3))
"""Codebooks of which several ids share a pointer, and how many: 6.4, 5.3, 4 and 2.7 bits an id."""


@dataclass(frozen=True)
class Residual(Method):
    """Residual quantisation (Juang and Gray, ICASSP 1982; Chen, Guan and Wang, Sensors 2010).

        e(x) = C_1[p_1[x]] + .. + C_s[p_s[x]]

    C_1 .. C_s are codebooks of a few rows; p_1 .. p_s are arrays with one pointer per id. Both are found when a trained
    table is folded: C_1 holds the clusters of the rows, C_2 those of what C_1 leaves over, and so on; then each stage
    is improved given the others. The pointers' bytes count. Before training, pointers are the digits of the id.

    With sharing = k, k pointers are one number, whose remainders by `rows` and the next smaller coprime numbers they
    are (Chinese remainders): those of k stages, whose codebooks have so many rows; or, of one stage, those of k ids.
    16 and 15 rows share a byte.

    Args:
        stages: rows that are added. Set by a budget.
        rows: of a codebook, the largest; a pointer into up to 256 takes a byte. Tables that this would make no smaller
            stay full.
        sharing: pointers in one number.

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
    sharing: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.stages <= MOST_PARTS:
            raise ValueError(f"residual: stages={self.stages} must be at least 1 and at most {MOST_PARTS}")
        if not 1 <= self.rows <= 1 << 31:
            raise ValueError(f"residual: rows={self.rows} must be at least 1 and at most {1 << 31}")
        if self.sharing != 1 and not (1 <= self.sharing <= 8 and self.radix < 1 << 31 and min(self.remainders) > 1):
            raise ValueError(
                f"residual: sharing={self.sharing} pointers into rows={self.rows} must be at least 1, and fit into "
                "31 bits"
            )

    @property
    def remainders(self) -> list[int]:
        """What the numbers that hold pointers are divided by: the rows of the codebooks that they point into."""
        return coprime_below(self.rows, self.sharing)

    @property
    def radix(self) -> int:
        """How many values such a number has."""
        return math.prod(self.remainders)

    @property
    def shares_ids(self) -> bool:
        """Whether pointers of several ids are one number, not those of several stages."""
        return self.stages == 1 < self.sharing

    @property
    def codebooks(self) -> list[int]:
        """The rows of each stage's codebook."""
        return [self.remainders[0 if self.shares_ids else stage % self.sharing] for stage in range(self.stages)]

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
            if self._pays(table):
                self.add_stages(builder, column, table, part_starts("add", self.codebooks))
                continue
            base = builder.add_region(table.vocabulary, table.dim, FULL_START)
            builder.add_term(column, Term(identity(table.vocabulary), base, stride=table.dim, width=table.dim))
        return builder.finish()

    def add_stages(self, builder: MapBuilder, column: int, table: TableSpec, starts: Sequence[Start]) -> None:
        """The terms of one table, whose codebooks begin so."""
        numbers: dict[int, Pointers] = {}  # stages that begin alike share an array: of 33 million ids it is large
        for stage, (rows, start) in enumerate(zip(self.codebooks, starts, strict=True)):
            base = builder.add_region(rows, table.dim, start)
            if self.shares_ids:
                lookup, length = self._numbers(table, 0, numbers), self._length(table)
                for part, size in enumerate(self.remainders):
                    stop = None if part + 1 == self.sharing else (part + 1) * length
                    term = Term(Partition(size, lookup=lookup), base, stride=table.dim, width=table.dim)
                    builder.add_term(column, replace(term, first=part * length, stop=stop))
                continue
            lookup = self._numbers(table, stage // self.sharing, numbers)
            builder.add_term(column, Term(Partition(rows, lookup=lookup), base, stride=table.dim, width=table.dim))

    def _numbers(self, table: TableSpec, place: int, begun: dict[int, Pointers]) -> Pointers:
        """The numbers that hold pointers, of some place among all arrays."""
        digit = self._digit(table, place)
        if digit not in begun:
            found = pointers("", self._length(table), self.radix, digit).lookup
            assert isinstance(found, Pointers)
            begun[digit] = found
        return replace(begun[digit], name=f"{table.name} {place}")

    def _digit(self, table: TableSpec, place: int) -> int:
        """What ids are divided by, for the digit that an array begins with: those after the last begin anew."""
        digits = 1
        while self.radix > 1 and self.radix**digits < table.vocabulary:
            digits += 1
        return int(self.radix ** (place % digits))

    def _length(self, table: TableSpec) -> int:
        """Of an array of numbers."""
        return ceil_div(table.vocabulary, self.sharing) if self.shares_ids else table.vocabulary

    def _pays(self, table: TableSpec) -> bool:
        if self.shares_ids and (self.sharing - 1) * self._length(table) >= table.vocabulary:
            return False  # a part would have no ids
        return self.num_bytes_of(table, FP32) < table.num_bytes

    def num_bytes_of(self, table: TableSpec, kept: Format) -> int:
        """Bytes of a table that is kept so, codebooks in a format."""
        arrays = 1 if self.shares_ids else ceil_div(self.stages, self.sharing)
        numbers = arrays * self._length(table) * narrowest_integer(self.radix - 1).itemsize
        return kept.num_bytes(sum(self.codebooks) * table.dim) + numbers

    def ladder(self, trained: Trained, most: int, seed: int = 0) -> Iterator[Rung]:
        """From one stage up, by stages that are learned from a sample and never improved; to where int4 takes less."""
        few = trained.table.vocabulary < 16 * self.rows * trained.table.dim  # else codebooks are little beside pointers
        for kept in (INT8, INT4) if few else (INT8,):
            yield from self.rungs(trained, kept, most, seed)

    def fills_blocks(self, table: TableSpec) -> bool:
        """Whether the codebooks end with a whole block of a format: what stands behind begins with its own."""
        return sum(self.codebooks) * table.dim % BLOCK == 0

    def rungs(self, trained: Trained, kept: Format, most: int, seed: int) -> Iterator[Rung]:
        """The sizes of a ladder whose codebooks are in a format."""
        table = trained.table
        most = min(most, INT4.num_bytes(table.vocabulary * table.dim))
        pointed = table.vocabulary / (self.rows * table.dim)
        kinds = [replace(self, stages=1)] if pointed >= 1 else []
        kinds += [Residual(2, FEW_ROWS, 2)] if pointed < 8 else []
        kinds += [] if trained.singly else [Residual(1, rows, sharing) for rows, sharing in FEWER_BITS]
        for method in kinds:
            sketch = trained.sample(max(4096, SKETCH * method.rows), seed)
            yield from method._stages(sketch, kept, most, seed)

    def _stages(self, sketch: Trained, kept: Format, most: int, seed: int) -> Iterator[Rung]:
        table, method, search = sketch.table, self, Codebooks(sketch, kept, seed)
        while method.num_bytes_of(table, kept) <= most and method._pays(table) and self.rows < len(sketch.values):
            for rows in method.codebooks[len(search.turned) :]:
                search.add_stage(rows, iterations=4)
            if method.shares_ids:
                search.sort()
                errors = [search.error_of_rows(count) for count in method.remainders]
            else:
                errors = [search.error()]
            if method.fills_blocks(table) or not sketch.stacked:
                yield Rung(method, kept, method.num_bytes_of(table, kept), sum(errors) / len(errors))
            if method.shares_ids or method.stages + method.sharing > MOST_PARTS:
                break
            method = replace(method, stages=method.stages + method.sharing)

    def keep(self, trained: Trained, kept: Format, seed: int = 0) -> Kept:
        """Codebooks from a sample, then the pointers of all rows."""
        if not self._pays(trained.table):
            return Kept((trained.values.clone(),))
        sample = trained.sample(SAMPLE, seed)
        search = self._learned(sample, kept, seed)
        of = search.pointers() if sample is trained else search.place(trained.values, len(trained.values))
        if self.shares_ids:
            of = self._apart(search, trained, of[0])
        return Kept(search.masters, tuple(self._joined(of)))

    def keeper(self, sample: Trained, kept: Format, seed: int = 0) -> Keeper | None:
        """Codebooks from the sample, then the pointers of each piece."""
        if self.shares_ids or not self._pays(sample.table):
            return None
        search = self._learned(sample, kept, seed)
        return Keeper(search.masters, lambda values: self._joined(search.place(values, sample.table.vocabulary)))

    def _learned(self, sample: Trained, kept: Format, seed: int) -> Codebooks:
        """Codebooks of a sample, and its pointers."""
        search = Codebooks(sample, kept, seed)
        for rows in self.codebooks:
            search.add_stage(rows)
        best, least = search.found, search.error()
        for _ in range(ROUNDS):
            search.improve()
            if search.error() < least:  # rounding to a format may undo a gain
                best, least = search.found, search.error()
        search.take(best)
        if self.shares_ids:
            search.sort()
        return search

    def _apart(self, search: Codebooks, trained: Trained, of: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The pointers of one stage as the parts of ids have them that share numbers: later parts reach fewer rows."""
        length, (codebook,) = self._length(trained.table), search.turned
        found = np.zeros(self.sharing * length, dtype=np.int64)
        found[: len(of)] = of
        for part, size in enumerate(self.remainders[1:], start=1):
            beyond = part * length + np.flatnonzero(found[part * length : (part + 1) * length] >= size)
            found[beyond], _ = nearest(search.searched(trained.values[torch.from_numpy(beyond)]), codebook[:size])
        return list(found.reshape(self.sharing, length))

    def _joined(self, of: Sequence[NDArray[np.int64]]) -> list[NDArray[np.integer]]:
        """The numbers whose remainders pointers are, by the Chinese remainder theorem."""
        others = [self.radix // size for size in self.remainders]
        units = [other * pow(other, -1, size) for other, size in zip(others, self.remainders, strict=True)]
        found = []
        for first in range(0, len(of), self.sharing):
            group = of[first : first + self.sharing]
            number = np.zeros(len(group[0]), dtype=np.int64)
            for own, unit in zip(group, units, strict=False):  # the last may hold fewer
                number += own.astype(np.int64) * unit
            found.append((number % self.radix).astype(narrowest_integer(self.radix - 1)))
        return found
