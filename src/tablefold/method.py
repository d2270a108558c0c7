"""Methods and the groups they build. Read this first.

A `Method` is a frozen spec: how tables are represented, and at what size. It emits terms over one memory
(`address_map`), and from these everything else follows: how many bytes it promises, the module it builds, whether every
id is unique, which size meets a budget. Its text form, `qr:collisions=4,combine=mul`, is used everywhere: on the
command line, in results and in plots.

The module it builds is an `EmbeddingGroup` (`tablefold.group`): one memory, one gather, all tables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from tablefold import spec
from tablefold.fields import settle_fields
from tablefold.formats import Format
from tablefold.group import EmbeddingGroup as EmbeddingGroup
from tablefold.group import index_bytes
from tablefold.registry import Registry
from tablefold.tables import FLOAT_BYTES, TableSpec, check_tables
from tablefold.terms import AddressMap

_PIECE = 1 << 18  # rows that are computed on at a time


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained table that is to be kept in fewer bytes, and what an error in it costs.

    Args:
        table: its spec.
        values: its rows, float32 `[rows, dim]`.
        weights: how much each row counts, float64 `[rows]`.
        metric: an error e of a row costs `e @ metric @ e`, `[dim, dim]`; the plain square without one.
        renumbers: whether its ids may get new numbers, as those whose dictionaries the caller owns.
        pinned: ids that become the first ones then, 0, 1, .., and share rows with no others.
        singly: whether each id must have pointers of its own: of tables that come a piece at a time, or grow later.
        stacked: whether others lie behind it in one array: then its rows must fill whole blocks of a format.
    """

    table: TableSpec
    values: Float[Tensor, "rows dim"]
    weights: NDArray[np.float64]
    metric: Float[Tensor, "dim dim"] | None = None
    renumbers: bool = False
    pinned: tuple[int, ...] = ()
    singly: bool = False
    stacked: bool = False

    def error(self, errors: Float[Tensor, "rows dim"]) -> float:
        """The weighted mean of what errors of the rows cost. A table of millions is taken a piece at a time."""
        costs = torch.cat([self._costs(some) for some in torch.split(errors, _PIECE)])
        weights = torch.from_numpy(self.weights)
        return float((weights @ costs) / weights.sum())

    def _costs(self, errors: Float[Tensor, "rows dim"]) -> Float[Tensor, " rows"]:
        turned = errors if self.metric is None else errors @ self.metric
        return (errors * turned).sum(dim=1, dtype=torch.float64)

    def sample(self, count: int, seed: int = 0) -> Trained:
        """So many of its rows, drawn evenly; all where there are no more."""
        rows = len(self.values)
        if rows <= count:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))
        values, weights = self.values[torch.from_numpy(chosen)], self.weights[chosen]
        return replace(self, values=values, weights=weights, pinned=())


@dataclass(frozen=True)
class Rung:
    """A size at which a method keeps a trained table.

    Args:
        method: at that size.
        format: of its rows.
        num_bytes: that it takes.
        error: as `Trained.error`, about.
    """

    method: Method
    format: Format
    num_bytes: int
    error: float


@dataclass(frozen=True, eq=False)
class Kept:
    """A trained table as a method keeps it.

    Args:
        regions: the master of each, in the order of the address map.
        lookups: the content of each lookup array that is found, and `edges` of the edges.
        order: where ids are renumbered, the old id at each new one.
    """

    regions: tuple[Float[Tensor, "rows width"], ...]
    lookups: tuple[NDArray[np.integer], ...] = ()
    edges: tuple[NDArray[np.integer], ...] = ()
    order: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Learned:
    """What a method makes of a trained table: its own size for it, and the order of the ids that this needs.

    Args:
        method: for this table alone.
        format: of its rows.
        order: old ids in their new order, int64 `[rows]`.
        edges: of the method's intervals in that order, by their names.
    """

    method: Method
    format: Format
    order: NDArray[np.int64]
    edges: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Keeper:
    """How a method keeps a trained table that does not fit into memory: learned from a sample, then a piece at a time.

    Args:
        regions: the masters that all rows share; none where each row has its own.
        place: of rows `[piece, dim]`, a multiple of 32 unless they are the last: their pointers into each lookup array,
            in order; or their masters, where each row has its own.
    """

    regions: tuple[Float[Tensor, "rows width"], ...]
    place: Callable[[Float[Tensor, "piece dim"]], Sequence[NDArray[np.integer]] | Tensor]


@dataclass(frozen=True)
class Method(ABC):
    """How tables are represented in memory: a frozen, hashable, printable spec.

    Subclasses are frozen dataclasses whose fields are the method's options. They set the three class variables and
    implement `address_map`; `size_range` too where they can be fitted to a budget.
    """

    name: ClassVar[str]
    """The word for it in spec strings."""
    summary: ClassVar[str]
    """One line: what it does and when to use it."""
    few_bits: ClassVar[Format | None] = None
    """The format in which it is best under a budget that full tables do not meet; the planner's choice without one."""
    size_options: ClassVar[tuple[str, ...]] = ()
    """The options that set the size, of which one is given; a plan sets the first and clears the others."""

    retired: ClassVar[Mapping[str, Any]] = {}
    """Options that releases before had, and the value at which what they did is what is done now."""

    def __post_init__(self) -> None:
        """Refuse options of another type than they are annotated with; a subclass goes on from there."""
        settle_fields(self, f"{self.name}: ")

    @abstractmethod
    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """The terms and memory of `tables`; `seed` moves hashed addresses.

        Raises:
            ValueError: where an option does not fit the tables.
        """

    def transform(self, tables: Sequence[TableSpec], columns: Sequence[int], seed: int = 0) -> nn.Module | None:
        """The module that computes after the gather, for methods that have one.

        Args:
            tables: those that the method represents.
            columns: where they stand among the columns of the group, which may hold other tables too.
            seed: of its start values.
        """
        return None

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """The smallest and largest useful value of the first size option for `tables`; bytes grow with it."""
        raise NotImplementedError  # only reached by a method with size options

    def ladder(self, trained: Trained, most: int, seed: int = 0) -> Iterator[Rung]:
        """Sizes of this method that keep a trained table in at most so many bytes; none where it keeps none.

        Args:
            trained: the table, or a sample of its rows under the spec of the whole.
            most: bytes.
            seed: of what is drawn.
        """
        return iter(())

    def keep(self, trained: Trained, kept: Format, seed: int = 0) -> Kept:
        """The state of a group of this method, at this size, that stands for a trained table; no data is needed.

        Args:
            trained: the table.
            kept: the format of its rows.
            seed: as for `ladder`.
        """
        raise NotImplementedError  # only reached by a method with a ladder

    def keeper(self, sample: Trained, kept: Format, seed: int = 0) -> Keeper | None:
        """As `keep`, for a table of which there is a sample, under the spec of the whole; None where that cannot be."""
        return None

    def num_parameters(self, tables: Sequence[TableSpec]) -> int:
        """Learnable floats that `build(tables)` will allocate. Nothing is allocated to find out."""
        return self.address_map(tables).floats

    def num_bytes(self, tables: Sequence[TableSpec]) -> int:
        """Bytes that `build(tables)` will hold: learnable floats (float32), lookup arrays and edges."""
        return self.num_parameters(tables) * FLOAT_BYTES + index_bytes(self.address_map(tables))

    def tiers(self, is_open: bool) -> tuple[tuple[Method, ...], ...]:
        """The methods that this stands for, those that lose least first; itself, but for `auto`. The first tier is
        taken of which a method can be so small, and the next where that turns out to be none.

        Args:
            is_open: whether a table has an open vocabulary.
        """
        return ((self,),)

    @property
    def learns(self) -> bool:
        """Whether it is made from trained tables: training it trains twice."""
        return False

    def learn(
        self, tables: Sequence[Trained], budget: int, first_id: int, seed: int = 0, *, with_pointers: bool = False
    ) -> Sequence[Learned]:
        """What it makes of trained tables in so many bytes.

        Args:
            tables: trained; the weight of a row is how often its id is read.
            budget: bytes that they may take together.
            first_id: ids below it stand for no value: they stay first, and share with no other.
            seed: of what is drawn.
            with_pointers: whether the budget bounds `pointer_bytes`, too.

        Raises:
            ValueError: for a budget below the smallest.
        """
        raise NotImplementedError  # only reached by a method that learns

    def pointer_bytes(self, tables: Sequence[TableSpec]) -> int:
        """Bytes that this would take beside, if the numbering of the ids could not carry what it says of them."""
        return 0

    @property
    def names_ids(self) -> bool:
        """Whether its options say something of single ids, which is wrong of ids that are numbered in another order."""
        return False

    @property
    def takes_counts(self) -> bool:
        """Whether how often ids are read changes what it is built as."""
        return type(self).by_counts is not Method.by_counts

    def by_counts(self, table: TableSpec, counts: NDArray[np.integer], size: int) -> Method | None:
        """This method at a size for one table, whose ids were counted and are numbered by falling frequency.

        Args:
            table: it.
            counts: how often each of its ids is read, `[rows]`, falling.
            size: as for `sized`; one size makes tables of equal counts equally wide.

        Returns:
            None, as most methods do, where counts change nothing.
        """
        return None

    def sized(self, size: int) -> Self:
        """This method at a value of its first size option."""
        chosen: dict[str, Any] = {self.size_options[0]: size}
        return replace(self.unsized(), **chosen)

    def unsized(self) -> Self:
        """This method without a size."""
        cleared: dict[str, Any] = dict.fromkeys(self.size_options)  # all of them optional, None when not given
        return replace(self, **cleared)

    def build(
        self,
        tables: Sequence[TableSpec],
        seed: int = 0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> EmbeddingGroup:
        """The module that stands for `tables`.

        Args:
            tables: all of one `dim`.
            seed: of hashed addresses and start values; equal seeds give equal groups on every device.
            device: where the memory lives; "meta" allocates nothing. Torch's default device unless given.
            dtype: of the memory. Torch's default type unless given.

        Raises:
            ValueError: where an option does not fit the tables, or the fold would take more bytes than the full tables.
        """
        tables = check_tables(tables)
        return EmbeddingGroup(
            self.address_map(tables, seed),
            seed=seed,
            device=device,
            dtype=dtype,
            transform=self.transform(tables, range(len(tables)), seed),
            spec=str(self),
        )

    def __str__(self) -> str:
        """The spec string; `parse` inverts it. Options at their default are left out."""
        return spec.write(self, self.name)

    def to_json(self) -> dict[str, Any]:
        """Every option by name, under `method` the method's name; `from_json` inverts it."""
        return {"method": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Method:
        """The method that `to_json` wrote."""
        options = dict(values)
        kind = _method_class(str(options.pop("method", "")))
        for option, neutral in kind.retired.items():
            if options.get(option) == neutral:
                del options[option]
        spec.check_names(kind, kind.name, options)
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        return kind(**lists)


def _is_method(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and "name" in vars(value)


_METHODS: Registry[type[Method]] = Registry("tablefold.methods", "method", _is_method)


def all_methods() -> Mapping[str, type[Method]]:
    """Every method by its name: those of `tablefold.methods`, and of other packages (see `tablefold.registry`)."""
    return _METHODS


def parse(text: str) -> Method:
    """The method that a spec string names: `name:option=value,option=value`.

    Raises:
        ValueError: for an unknown method or option (with the nearest known one), or a value that does not fit.

    >>> parse("qr:collisions=4")
    QuotientRemainder(collisions=4.0, max_rows=None, combine='mul', init='matched')
    """
    name, _, options = text.partition(":")
    kind = _method_class(name.strip())
    return kind(**spec.read(kind, kind.name, options))


def _method_class(name: str) -> type[Method]:
    known = all_methods()
    if name not in known:
        raise ValueError(f"no method {name[:60]!r}{spec.nearest(name, known)}; methods: {', '.join(sorted(known))}")
    return known[name]
