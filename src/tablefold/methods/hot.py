"""Hot rows: the first ids own their rows, the rest by any method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from tablefold.method import Method, parse
from tablefold.partitions import identity
from tablefold.spec import REST, SHOWN
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Region, Term, moved

_ROWS = 1000


@dataclass(frozen=True)
class Hot(Method):
    """Hot rows: the first ids of every table own a row each, the rest get any other method.

        e(x) = memory[x]                    for x below `rows`
        e(x) = that method's e(x - rows)    for all others

    Our dictionaries number ids by frequency: the first are those met most often, whose rows are worth most. (Zhang,
    Liu, Xie et al., "Model size reduction using frequency based double hashing for recommender systems", RecSys 2020,
    arXiv 2007.14523, hash the rare ids alone.)

    Args:
        rows: so many ids of each table own their rows; 1000 unless given. A table with no more is full.
        share: the share of each table's ids that do, instead.
        over: the method of the others, as a spec string. It takes the rest of the text and so comes last, as in
            `hot:rows=1000,over=qr:collisions=4`. A budget sets its size.

    When to use it: with ids numbered by frequency, wherever the other method makes frequent ids share what they read.

    >>> from tablefold import Hot, TableSpec
    >>> Hot(rows=100, over="hash:collisions=10").num_parameters([TableSpec("user", rows=1_000, dim=16)]) // 16
    190
    """

    name: ClassVar[str] = "hot"
    summary: ClassVar[str] = "the first (most frequent) ids own their rows, the rest by any method"
    size_options: ClassVar[tuple[str, ...]] = ("over",)

    rows: int | None = None
    share: float | None = None
    over: str = field(default="qr", metadata={**SHOWN, **REST})

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "over", str(self.inner))
        if type(self.inner).transform is not Method.transform:
            raise ValueError(f"hot: {self.inner.name} computes after the gather, on hot rows too: take another method")
        if self.rows is not None and self.share is not None:
            raise ValueError(f"hot: give rows={self.rows} or share={self.share}, not both")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"hot: rows={self.rows} must be at least 1")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"hot: share={self.share} must lie in 0 .. 1, without 0")

    @property
    def inner(self) -> Method:
        """The method of the ids that own no row."""
        return parse(self.over)

    def hot_rows(self, table: TableSpec) -> int:
        """How many ids of a table own their rows."""
        rows = (self.rows or _ROWS) if self.share is None else int(self.share * table.vocabulary)
        return rows if table.rows is None else min(rows, table.rows)

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """Of the other method, for the ids that it gets."""
        rest = self._rest(tables)
        return self.inner.size_range(rest) if rest and self.inner.size_options else (1, 1)

    def sized(self, size: int) -> Self:
        """With the other method at a value of its first size option."""
        return replace(self, over=str(self.inner.sized(size))) if self.inner.size_options else self

    def unsized(self) -> Self:
        """With the other method without a size."""
        return replace(self, over=str(self.inner.unsized()))

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """A term for the hot rows of each table, and the terms of the other method from there on."""
        rest = self._rest(tables)
        inner = self.inner.address_map(rest, seed) if rest else AddressMap((), (), ())
        terms: list[tuple[Term, ...]] = []
        regions: list[Region] = []
        base, total = 0, sum(self.hot_rows(table) * self._width(table, inner) for table in tables)
        for table in tables:
            rows, width = self.hot_rows(table), self._width(table, inner)
            own: tuple[Term, ...] = ()
            if rows:
                own = (Term(identity(rows), base, stride=width, width=width, stop=rows),)
                regions.append(Region(rows, width, FULL_START))
                base += rows * width
            others = inner.terms[inner.index(table.name)] if rows != table.rows else ()
            terms.append((*own, *(_after(term, rows) for term in moved(others, total))))
        return AddressMap(tuple(tables), tuple(terms), (*regions, *inner.regions))

    def _rest(self, tables: Sequence[TableSpec]) -> list[TableSpec]:
        """The tables as the other method sees them: without their hot ids."""
        rest = [(table, self.hot_rows(table)) for table in tables]
        return [
            table if table.rows is None else replace(table, rows=table.rows - rows)
            for table, rows in rest
            if rows != table.rows
        ]

    def _width(self, table: TableSpec, inner: AddressMap) -> int:
        """Floats of a hot row: as many vectors as the other method gives for an id."""
        if self.hot_rows(table) == table.rows:
            return table.dim
        return inner.features[inner.index(table.name)] * table.dim


def _after(term: Term, rows: int) -> Term:
    """A term that counts ids from so many later on."""
    return replace(term, first=term.first + rows, stop=None if term.stop is None else term.stop + rows)
