"""Plans: what each table gets under a budget. A spec string is a request, a `Plan` is the answer; only a plan is built.

What `make_plan` decides where nobody asks otherwise, under a budget:

- Small tables stay full, in float32: the smallest ones first, as long as all of them together take at most a sixteenth
  of the budget. Their ids are seen often, so that sharing their rows would save few bytes dearly.
- The format of the other tables is the widest in which they all fit as full tables. Where none does, methods that share
  rows take int4 up to 64x and int2 beyond, as measured at equal bytes (`studies/LOG.md`, "The best format at a size");
  a widest one where that one does not fit.
- The method is sized to what is left: the largest size whose true bytes fit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tablefold.fields import settle_fields
from tablefold.formats import BF16, FORMATS, FP32, INT2, INT4, INT8, Format, find_format
from tablefold.group import EmbeddingGroup, index_bytes
from tablefold.growth import check_growth, grown
from tablefold.json_files import JsonValue
from tablefold.method import Method, all_methods, parse
from tablefold.methods.full import Full
from tablefold.partitions import largest
from tablefold.quoting import quoted
from tablefold.tables import FLOAT_BYTES, TableSpec, check_tables, full_bytes, show_bytes
from tablefold.terms import AddressMap, join
from tablefold.text_tables import text_table
from tablefold.theory.expected import table_bytes

LARGEST_BUDGET = 1 << 62
MOST_TABLES = 10_000
"""Of a plan that is read back."""

SMALL_SHARE = 16
"""Small tables may take one part in so many of a budget."""

INT4_UP_TO = 64
"""Compression up to which methods that share rows do best in int4, and beyond which in int2."""

Counts = Mapping[str, NDArray[np.integer]]
"""How often each id of a table is read, `[rows]`, by the table's name."""

_WIDEST_FIRST: tuple[Format, ...] = (FP32, BF16, INT8, INT4, INT2)


@dataclass(frozen=True)
class Bytes:
    """What embeddings take.

    Args:
        embedding: what reading them takes: memory in its formats, projections, edges and lookup arrays. A budget bounds
            this figure unless asked otherwise, and compression is the full tables' bytes over it.
        with_pointers: the same where the ids' numbering cannot carry what a table knows of its ids, so that it has to
            be stored. That ids come by falling counts is taken for granted.
        training: what learning them takes beside the gradients of a batch: the float32 master of every weight, lookup
            arrays, and what the optimiser remembers of every weight.
        artefact: what scoring raw values takes: the embeddings, the network, what was asked, and the dictionaries. None
            where it is not known, as before there is any data.
    """

    embedding: int
    with_pointers: int
    training: int
    artefact: int | None = None

    def to_json(self) -> dict[str, int | None]:
        """The four figures as results name them."""
        return {
            "embedding_bytes": self.embedding,
            "embedding_bytes_with_pointers": self.with_pointers,
            "artefact_bytes": self.artefact,
            "training_bytes": self.training,
        }


@dataclass(frozen=True)
class Part:
    """Tables that are represented together.

    Args:
        tables: they, in the order of the group's columns.
        method: at its final size.
        format: of their rows of vectors. What else a method learns is float32.
        why: the reason, for people.
        first_tables: the tables with the ids that they began with, where they have taken more since; the method's size
            is for those, and their ids keep their addresses.
    """

    tables: tuple[TableSpec, ...]
    method: Method
    format: Format = FP32
    why: str = field(default="", compare=False)
    first_tables: tuple[TableSpec, ...] = ()

    def address_map(self, seed: int = 0) -> AddressMap:
        """Where the weights of these tables live."""
        own = self.method.address_map(self.sized_for, seed).in_format(self.format)
        return grown(own, self.tables) if self.first_tables else own

    @property
    def sized_for(self) -> tuple[TableSpec, ...]:
        """The tables that the method has its size for."""
        return self.first_tables or self.tables

    @property
    def floats(self) -> int:
        """Learnable floats."""
        added = self.address_map().floats - self.method.address_map(self.sized_for).floats if self.first_tables else 0
        return self.method.num_parameters(self.sized_for) + added

    def grown(self, tables: Mapping[str, TableSpec]) -> Part:
        """The part of tables with more ids, by their names; errors as `Plan.grown`."""
        if type(self.method).transform is not Method.transform:
            raise ValueError(
                f"{self.method.name} computes by the ids that it was made for, and takes no new ones: train anew, or "
                "take a method that grows, such as full, qr or hash"
            )
        now = tuple(tables[table.name] for table in self.tables)
        return replace(self, tables=now, first_tables=self.sized_for if now != self.sized_for else ())


@dataclass(frozen=True)
class Row:
    """What a plan says of one table.

    Args:
        bytes: that its ids can read.
        shared: whether ids of other tables read there too.
        full: bytes of the full table in float32; None for an open vocabulary.
    """

    table: TableSpec
    method: Method
    format: Format
    bytes: int
    shared: bool
    full: int | None
    why: str


@dataclass(frozen=True)
class Plan:
    """What each table gets: method, size and format. Made by `make_plan`; `print` shows it as a table.

    Args:
        tables: in the order of the group's columns.
        parts: every table is in one of them. Memory is laid out in their order.
        edges: what a method has learned, by the names of its intervals. They are state, saved with the
            weights; a plan that is read back has none.

    Raises:
        ValueError: where a table is in no part, or in two.

    >>> from tablefold import TableSpec, make_plan
    >>> tables = [TableSpec("user", 1_000_000, 16), TableSpec("country", 20, 16)]
    >>> plan = make_plan("qr", tables, budget=2_000_000)
    >>> [(part.tables[0].name, part.format.name) for part in plan.parts]
    [('user', 'int4'), ('country', 'fp32')]
    >>> plan.build(device="meta").num_bytes == plan.num_bytes
    True
    """

    tables: tuple[TableSpec, ...]
    parts: tuple[Part, ...]
    edges: Mapping[str, NDArray[np.int64]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_tables(self.tables)
        planned = [table for part in self.parts for table in part.tables]
        if not all(part.tables for part in self.parts) or set(planned) != set(self.tables):
            raise ValueError("a plan needs every table in one of its parts, and a table in every part")
        check_tables(planned)

    def grown(self, tables: Sequence[TableSpec]) -> Plan:
        """The plan of these tables with more ids, where those that there are keep their addresses: `tablefold.growth`.

        Raises:
            ValueError: for other tables, fewer ids, or a method that takes no new ones.
        """
        check_growth(self.tables, tables)
        named = {table.name: table for table in tables}
        plan = Plan(tuple(tables), tuple(part.grown(named) for part in self.parts), self.edges)
        _ = plan.address_map()  # which refuses what cannot grow
        return plan

    def address_map(self, seed: int = 0) -> AddressMap:
        """The terms of all tables over one memory, the parts' regions one after the other."""
        return join(self.tables, [part.address_map(seed) for part in self.parts])

    def build(
        self, seed: int = 0, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> EmbeddingGroup:
        """The group; arguments and errors as `Method.build`."""
        columns = {table.name: column for column, table in enumerate(self.tables)}
        transforms = [
            part.method.transform(part.tables, [columns[table.name] for table in part.tables], seed)
            for part in self.parts
        ]
        address_map, computing = self.address_map(seed), [each for each in transforms if each is not None]
        if len(computing) > 1 or (computing and sum(address_map.features) > len(self.tables)):
            raise ValueError(
                "a method that computes after the gather goes with tables of one vector for an id, and with no other "
                "method like it: give it all tables that are not full"
            )
        group = EmbeddingGroup(
            address_map,
            seed=seed,
            device=device,
            dtype=dtype,
            transform=computing[0] if computing else None,
            spec=str(self.method),
        )
        group.place_edges(self.edges)
        return group

    @property
    def method(self) -> Method:
        """That of the first part: what was asked for, where small tables beside it stay full."""
        return self.parts[0].method

    @property
    def format(self) -> Format:
        """That of the first part."""
        return self.parts[0].format

    @cached_property
    def num_bytes(self) -> int:
        """Bytes that the group holds once it is frozen."""
        joined, transforms = self.address_map(), 0
        for part in self.parts:
            own = part.method.address_map(part.sized_for)
            transforms += part.method.num_bytes(part.sized_for) - own.num_bytes - index_bytes(own)
        return joined.num_bytes + index_bytes(joined) + transforms

    @property
    def pointer_bytes(self) -> int:
        """What the numbering of the ids carries, and pointers would take that had to be stored."""
        return sum(part.method.pointer_bytes(part.tables) for part in self.parts)

    @property
    def full_bytes(self) -> int | None:
        """Bytes of the full tables in float32; None with an open vocabulary."""
        return None if _is_open(self.tables) else full_bytes(self.tables)

    def bytes(self, state_floats: float = 2) -> Bytes:
        """What the plan takes.

        Args:
            state_floats: floats that the optimiser remembers of each weight: two for Adam, three for AMSGrad, one for
                Adagrad, none for SGD.
        """
        sized = [(part.method, part.sized_for) for part in self.parts]
        beside = sum(each.num_bytes(own) - each.num_parameters(own) * FLOAT_BYTES for each, own in sized)
        floats = sum(part.floats for part in self.parts)
        training = beside + math.ceil(floats * FLOAT_BYTES * (1 + state_floats))
        return Bytes(self.num_bytes, self.num_bytes + self.pointer_bytes, training)

    def rows(self) -> list[Row]:
        """What it says of each table, in order."""
        address_map, parts = self.address_map(), {table: part for part in self.parts for table in part.tables}
        found = []
        for column, table in enumerate(self.tables):
            part = parts[table]
            own, shared = table_bytes(address_map, column)
            full = None if table.rows is None else table.num_bytes
            found.append(Row(table, part.method, part.format, own, shared, full, part.why))
        return found

    def __str__(self) -> str:
        return self.table()

    def table(self, width: int | None = None) -> str:
        """What every table gets as text, in lines of at most so many characters."""
        header = ["table", "rows", "dim", "representation", "format", "bytes", "of full", "why"]
        return text_table(header, [_cells(row) for row in self.rows()], width)

    def to_json(self) -> dict[str, Any]:
        """For `config.json`; `from_json` inverts it."""
        return {
            "tables": [{"name": table.name, "rows": table.rows, "dim": table.dim} for table in self.tables],
            "parts": [
                {
                    "tables": [table.name for table in part.tables],
                    "spec": str(part.method),
                    "method": part.method.to_json(),
                    "format": part.format.name,
                    "why": part.why,
                    **({"first_rows": [table.rows for table in part.first_tables]} if part.first_tables else {}),
                }
                for part in self.parts
            ],
        }

    @classmethod
    def from_json(cls, content: JsonValue) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            ValueError: names the file, the field, and what must stand there.
        """
        tables = tables_from_json(content["tables"])
        with content.naming():
            named = {table.name: table for table in check_tables(tables)}
        parts = []
        for part in content["parts"].items(MOST_TABLES):
            names = part["tables"].items(MOST_TABLES)
            kept = find_format(part["format"].choice(FORMATS))
            why = part["why"].optional(JsonValue.text, "")
            own = tuple(_named(name, named) for name in names)
            first = _first_tables(part["first_rows"], own)
            parts.append(Part(own, method_from_json(part["method"]), kept, why, first))
        with content.naming():
            return cls(tables, tuple(parts))


def _first_tables(content: JsonValue, tables: tuple[TableSpec, ...]) -> tuple[TableSpec, ...]:
    """The tables with the ids that they began with; empty where they have no more now."""
    rows = content.optional(lambda value: value.items(MOST_TABLES), [])
    if not rows:
        return ()
    if len(rows) != len(tables):
        content.refuse(f"{len(tables)} numbers, one for each table of the part")
    return tuple(
        replace(table, rows=None if table.rows is None else own.integer(1, table.rows))
        for table, own in zip(tables, rows, strict=True)
    )


def _cells(row: Row) -> list[str]:
    shared = " shared" if row.shared else ""
    return [
        row.table.name,
        "open" if row.table.rows is None else f"{row.table.rows:,}",
        str(row.table.dim),
        str(row.method),
        row.format.name,
        show_bytes(row.bytes) + shared,
        "-" if row.full is None or row.shared else f"1/{_ratio(row.full / row.bytes)}",
        row.why,
    ]


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 1000 else f"{ratio:.4g}"


def _named(name: JsonValue, tables: Mapping[str, TableSpec]) -> TableSpec:
    if name.text() not in tables:
        name.refuse("the name of a table of the plan")
    return tables[name.text()]


def method_from_json(content: JsonValue) -> Method:
    """The method that `Method.to_json` wrote, its options checked by their types.

    Raises:
        ValueError: names the file, the field, and what must stand there.
    """
    kind = all_methods()[content["method"].choice(all_methods())]
    typed = content.values_of(kind)
    with content.naming():
        return Method.from_json({**content.plain, **typed})


def tables_from_json(content: JsonValue) -> tuple[TableSpec, ...]:
    """A list of tables, each as an object of its fields; `ValueError` as `method_from_json`."""
    return tuple(table.into(TableSpec) for table in content.items(MOST_TABLES))


@dataclass(frozen=True)
class Wishes:
    """What is asked of a plan beside the method.

    Args:
        budget: bytes that all embeddings together may take. At most one of this and `compression`.
        compression: full bytes / embedding bytes to reach, instead.
        storage: the format of all memory: "fp32", "bf16", "int8", "int4" or "int2".
        threshold: tables with at most so many rows stay full, and no others.
        with_pointers: whether the size bounds the bytes with pointers, as it should where ids come from outside.

    Raises:
        ValueError: for a value of another type or out of range, both a budget and a compression, or pointers without
            either.
    """

    budget: int | None = None
    compression: float | None = None
    storage: str | None = None
    threshold: int | None = None
    with_pointers: bool = False

    def __post_init__(self) -> None:
        settle_fields(self, largest=None)
        if self.compression is not None and self.budget is not None:
            raise ValueError("a compression and a budget both set the size; give one of them")
        if self.compression is not None and not 1 <= self.compression <= sys.float_info.max:
            raise ValueError(
                f"compression={quoted(self.compression)} must be at least 1 and finite "
                "(100 keeps one byte in a hundred)"
            )
        if self.budget is not None and not 0 <= self.budget <= LARGEST_BUDGET:
            raise ValueError(f"budget={quoted(self.budget)} must lie in 0 .. {LARGEST_BUDGET:,} bytes")
        if self.threshold is not None and self.threshold < 0:
            raise ValueError(f"threshold={quoted(self.threshold)} must be 0 or more rows")
        if self.with_pointers and self.budget is None and self.compression is None:
            raise ValueError("with_pointers says what a size bounds: give a compression or a budget with it")
        if self.storage is not None:
            find_format(self.storage)

    @property
    def format(self) -> Format | None:
        """`storage` as a format."""
        return None if self.storage is None else find_format(self.storage)

    def num_bytes(self, tables: Sequence[TableSpec]) -> int | None:
        """The bytes that the tables may take; None where nothing bounds them."""
        if self.compression is None:
            return self.budget
        if names := [table.name for table in tables if table.rows is None]:
            raise ValueError(
                f"compression={self.compression:g} of table {names[0]!r} means nothing, for its vocabulary is open: "
                "give a budget in bytes"
            )
        return int(full_bytes(tables) / self.compression)

    def show(self, budget: int) -> str:
        """Bytes, and what they bound, for people."""
        return f"{show_bytes(budget)}{', pointers counted' if self.with_pointers else ''}"

    def taken(self, plan: Plan) -> int:
        """The bytes of a plan that are bounded."""
        return plan.num_bytes + (plan.pointer_bytes if self.with_pointers else 0)


def make_plan(
    request: str | Method,
    tables: Sequence[TableSpec],
    *,
    budget: int | None = None,
    compression: float | None = None,
    storage: str | None = None,
    threshold: int | None = None,
    with_pointers: bool = False,
    counts: Counts | None = None,
) -> Plan:
    """Plan tables: the method at the largest size that fits, small tables full, all in the best format for the size.

    Without a budget, `storage` and `threshold`, every table gets what the request says, in float32.

    Args:
        request: a method, or its spec string. Under a budget, sizes that it names give way to the budget.
        tables: in the order of the group's columns.
        budget: bytes that all embeddings together may take. At most one of this and `compression`.
        compression: full bytes / embedding bytes to reach, instead.
        storage: the format of all memory. The planner's choice unless given.
        threshold: tables with at most so many rows stay full, and no others. The planner's choice under a budget unless
            given.
        with_pointers: whether the size bounds the bytes with pointers: where others number the ids, what a numbering
            carries is stored.
        counts: how often each id of a table is read, by the table's name. Methods that grade ids by frequency use
            them; ids must be numbered by falling counts. Without counts those methods assume Zipf's law.

    Raises:
        ValueError: for a storage or a threshold that cannot be, or counts that do not fit the tables; where nothing
            fits, with the smallest possible size and what would fit.

    >>> from tablefold import TableSpec, make_plan
    >>> for row in make_plan("qr", [TableSpec("user", 1_000_000, 16), TableSpec("day", 7, 16)], compression=50).rows():
    ...     print(f"{row.table.name}: {row.method} in {row.format.name}, {row.bytes} bytes: {row.why}")
    user: qr:max_rows=150536,combine=mul in int4, 1279573 bytes: the largest in 1.28 MB, in int4, best up to 64x
    day: full in fp32, 448 bytes: small: all such tables take at most 1/16 of the budget
    """
    if not isinstance(request, (str, Method)):
        raise ValueError(f"request={quoted(request)} must be a spec string or a method")  # noqa: TRY004  (the user's)
    method = parse(request) if isinstance(request, str) else request
    tables, wishes = check_tables(tables), Wishes(budget, compression, storage, threshold, with_pointers)
    chosen = _without_data(method, tables, wishes)
    return _Planner(chosen, tables, wishes, _check_counts(tables, counts or {})).plan()


def tiers(method: Method, tables: Sequence[TableSpec], wishes: Wishes) -> tuple[tuple[Method, ...], ...]:
    """The methods that one stands for under wishes, itself but for `auto`: from the first tier of which a method can be
    so small; the last where none can."""
    found = method.tiers(_is_open(tables))
    fitting = (n for n, tier in enumerate(found[:-1]) if any(_can_be(each, tables, wishes) for each in tier))
    return found[next(fitting, -1) :]


def _without_data(method: Method, tables: Sequence[TableSpec], wishes: Wishes) -> Method:
    """The first of the methods that one stands for which can be so small, and needs no trained tables; the last where
    none can."""
    untaught = [each for tier in method.tiers(_is_open(tables)) for each in tier if not each.learns] or [method]
    return next((each for each in untaught[:-1] if _can_be(each, tables, wishes)), untaught[-1])


def _can_be(method: Method, tables: Sequence[TableSpec], wishes: Wishes) -> bool:
    """Whether a method can be as small as is wished."""
    bound = wishes.num_bytes(tables)
    return bound is None or _Planner(method, tuple(tables), wishes).least_bytes() <= bound


def _is_open(tables: Sequence[TableSpec]) -> bool:
    """Whether a table has an open vocabulary."""
    return any(table.rows is None for table in tables)


def _check_counts(tables: Sequence[TableSpec], counts: Counts) -> Counts:
    """The counts of these tables, made to fall: what stands before all others, as absent values do, is read often
    enough. `ValueError` where they do not fit."""
    known = {table.name: table for table in tables}
    for name, own in counts.items():
        if name not in known:
            raise ValueError(f"counts of {quoted(name)}: no table of that name; tables: {', '.join(known)}")
        if own.ndim != 1 or len(own) != known[name].rows:
            raise ValueError(f"counts of table {name!r} are {list(own.shape)}: they must be [{known[name].rows}]")
    return {name: np.maximum.accumulate(own[::-1])[::-1] for name, own in counts.items()}


class _Planner:
    """Finds the plan of one method for tables under wishes."""

    def __init__(
        self, method: Method, tables: tuple[TableSpec, ...], wishes: Wishes, counts: Counts | None = None
    ) -> None:
        self.method, self.tables, self.wishes, self.counts = method, tables, wishes, counts or {}
        self.budget = wishes.num_bytes(tables)

    def plan(self) -> Plan:
        """The plan; `ValueError` where there is none."""
        if self.budget is None:
            plan = self.parts(None, self.wishes.format or FP32, self.below_threshold(), "as asked")
            _ = plan.num_bytes  # which refuses a method that has no size, or does not fit the tables
            return plan
        size = f"the largest in {self.wishes.show(self.budget)}" if self.method.size_options else "as asked"
        for within, why in self.formats(self.budget):
            if self.fits(self.smallest(within)):
                return self.largest(within, self.kept(within, self.budget), f"{size}, {why}")
        raise ValueError(self.refusal(self.budget))

    def fits(self, plan: Plan) -> bool:
        """Whether a plan takes at most the budget."""
        return self.budget is not None and self.wishes.taken(plan) <= self.budget

    def formats(self, budget: int) -> list[tuple[Format, str]]:
        """Formats for what is not kept full, and why: the best first."""
        if self.wishes.format is not None:
            return [(self.wishes.format, f"in {self.wishes.format.name} as asked")]
        widest: list[tuple[Format, str]] = [
            (each, f"in the widest format that fits, {each.name}") for each in _WIDEST_FIRST
        ]
        if not self.method.size_options:
            return widest
        full = None if _is_open(self.tables) else full_bytes(self.tables)
        few = self.method.few_bits
        wide = [] if full is None else [each for each in (FP32, BF16, INT8) if _as_full(each, self.tables) <= budget]
        best: tuple[Format, str]
        if wide:
            best = (wide[0], f"in the format in which full tables fit, {wide[0].name}")
        elif few is not None:
            best = (few, f"in {few.name}, its best")
        elif full is None or full <= INT4_UP_TO * budget:
            best = (INT4, f"in int4, best up to {INT4_UP_TO}x")
        else:
            best = (INT2, f"in int2, best beyond {INT4_UP_TO}x")
        return [best, *widest]

    def kept(self, within: Format, budget: int) -> Sequence[TableSpec]:
        """The tables that stay full: those that were asked to, or else the smallest ones, as many as together take at
        most one part in `SMALL_SHARE` of the budget; none of them where the method then has not enough left."""
        if self.wishes.threshold is not None:
            return self.below_threshold()
        exact, kept, total = self.wishes.format or FP32, [], 0
        for table in sorted((table for table in self.tables if table.rows is not None), key=_floats):
            total += exact.num_bytes(_floats(table))
            if total * SMALL_SHARE > budget:
                break
            kept.append(table)
        return kept if self.fits(self.smallest(within, kept)) else ()

    def below_threshold(self) -> Sequence[TableSpec]:
        """The tables that were asked to stay full; none unless asked."""
        threshold = self.wishes.threshold or 0
        return [table for table in self.tables if table.rows is not None and table.rows <= threshold]

    def smallest(self, within: Format, kept: Sequence[TableSpec] | None = None) -> Plan:
        """The plan with the method at its smallest, beside the tables that were asked to stay full, or others."""
        kept = self.below_threshold() if kept is None else kept
        folded = self.folded(kept)
        if not folded or not self.method.size_options:
            return self.parts(None, within, kept)
        return self.parts(self.method.size_range(folded)[0], within, kept)

    def largest(self, within: Format, kept: Sequence[TableSpec], why: str) -> Plan:
        """The plan with the method at the largest size that fits; the smallest does."""
        folded = self.folded(kept)
        if not folded or not self.method.size_options:
            return self.parts(None, within, kept, why)

        def sized(size: int) -> Plan:
            return self.parts(size, within, kept, why)

        low, high = self.method.size_range(folded)
        return sized(largest(low, high, lambda size: self.fits(sized(size))))

    def folded(self, kept: Sequence[TableSpec]) -> tuple[TableSpec, ...]:
        """The tables that the method gets."""
        full = set(kept)
        return tuple(table for table in self.tables if table not in full)

    def parts(self, size: int | None, within: Format, kept: Sequence[TableSpec], why: str = "") -> Plan:
        """The plan that keeps some tables full and gives the others to the method at a size, or as it is; alike parts
        are one."""
        exact, folded = self.wishes.format or FP32, self.folded(kept)
        full = Part(self.folded(folded), Full(), exact, self.why_full())
        if not folded:
            return Plan(self.tables, (full,))
        if not kept or (size is None and (self.method, within) == (full.method, full.format)):
            return Plan(self.tables, tuple(self.folds(size, within, self.tables, why)))
        return Plan(self.tables, (*self.folds(size, within, folded, why), full))

    def folds(self, size: int | None, within: Format, tables: Sequence[TableSpec], why: str) -> Iterator[Part]:
        """The parts of the method: tables whose counts it takes have one each."""
        if size is None:
            yield Part(tuple(tables), self.method, within, why)
            return
        own = {
            table: self.method.by_counts(table, self.counts[table.name], size)
            for table in tables
            if table.name in self.counts
        }
        if others := tuple(table for table in tables if own.get(table) is None):
            yield Part(others, self.method.sized(size), within, why)
        for table, method in own.items():
            if method is not None:
                yield Part((table,), method, within, why)

    def why_full(self) -> str:
        """Why tables stay full."""
        if self.wishes.threshold is not None:
            return f"at most {self.wishes.threshold:,} rows, as asked"
        return f"small: all such tables take at most 1/{SMALL_SHARE} of the budget"

    def refusal(self, budget: int) -> str:
        """Why the size cannot be, the nearest that can, and what else to take."""
        name, least = self.method.name, self.least()
        within, smallest = least.format.name, self.wishes.taken(least)
        within += ", pointers counted" if self.wishes.with_pointers else ""
        if self.wishes.compression is None:
            text = f"a budget of {budget} bytes is below the smallest possible for {name} here, {smallest} bytes"
            advice, direction = ["raise the budget"], "less"
        else:
            most = _four_digits(full_bytes(self.tables) / smallest)
            text = f"compression={self.wishes.compression:g} cannot be: {name} folds these tables at most {most}x"
            advice, direction = ["ask for less"], "more"
        if formats := self.formats_that_fit(budget):
            advice.append(f"take it in {_any_of(formats)}")
        anything = replace(self.wishes, budget=0, compression=None)  # what is smallest does not depend on a size
        sizes = _least_by_method(self.tables, anything)
        if others := [other for other, size in sizes.items() if size <= budget]:
            advice.append(f"take {_any_of(others)} for {direction}")
        if kept := self.below_threshold():
            advice.append(f"lower the threshold, which keeps {show_bytes(full_bytes(kept))} full")
        return f"{text} in {within}: {', or '.join(advice)}"

    def least(self) -> Plan:
        """The plan below whose bytes no budget can be met under these wishes."""
        formats = _WIDEST_FIRST if self.wishes.format is None else (self.wishes.format,)
        return min((self.smallest(within) for within in formats), key=self.wishes.taken)

    def least_bytes(self) -> int:
        """Its bytes."""
        return self.wishes.taken(self.least())

    def formats_that_fit(self, budget: int) -> list[str]:
        """Where a format was asked for, those with which the budget could be met, the widest first."""
        if self.wishes.format is None:
            return []
        planners = {
            each.name: _Planner(self.method, self.tables, replace(self.wishes, storage=each.name))
            for each in _WIDEST_FIRST
        }
        return [name for name, planner in planners.items() if planner.least_bytes() <= budget]


@cache  # a study may ask for many sizes of the same tables
def _least_by_method(tables: tuple[TableSpec, ...], wishes: Wishes) -> dict[str, int]:
    """Of every method at its default options, the smallest bytes for these tables; the largest of them first."""
    found = {}
    for name, kind in all_methods().items():
        try:
            found[name] = _Planner(kind(), tables, wishes).least_bytes()
        except ValueError:  # it needs options of its own, or does not take these tables
            continue
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def _floats(table: TableSpec) -> int:
    return table.vocabulary * table.dim


def _as_full(within: Format, tables: Sequence[TableSpec]) -> int:
    return sum(within.num_bytes(_floats(table)) for table in tables)


def _any_of(names: Sequence[str]) -> str:
    """
    >>> _any_of(["hash"]), _any_of(["qr", "robe", "hash"])
    ('hash', 'qr, robe or hash')
    """
    return ", ".join([*names[:-2], " or ".join(names[-2:])])


def _four_digits(ratio: float) -> str:
    """A ratio in four digits, rounded down: what is named must do.

    >>> _four_digits(41.2999), _four_digits(30417.9)
    ('41.29', '30,410')
    """
    step = 10.0 ** (math.floor(math.log10(ratio)) - 3)
    digits = math.floor(ratio / step) * step
    return f"{digits:,.0f}" if digits >= 1000 else f"{digits:.4g}"
