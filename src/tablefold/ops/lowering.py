"""The gather as exported programs have it: the one formula in few operations, each on all tables at once.

A graph pays for every node, however small its tensors. So tables whose terms differ in nothing but numbers (moduli,
keys, addresses) are computed together, and so are terms of a table that are read alike, as the blocks of its rows are.

For an exporter that computes constants beforehand (`folding_constants`) memory is laid out for its reader too: rows in
few bits as their format lowers them; runs of floats that begin anywhere as whole rows to cut them from.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.formats import FP32
from tablefold.formats.format import Answer, replaced
from tablefold.hashing import bucket_bits, hash_id, sign_bit
from tablefold.ops.reference import place_of, read_rows, starts_of
from tablefold.partitions import Partition, ceil_div
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Chunk, Term, chains_of

_LINE = 16
"""Floats of the whole rows that runs are cut from."""

_RUN = 3
"""Floats of the shortest run that is worth two lines."""

_LARGEST = (1 << 63) - 1

_folds: ContextVar[bool] = ContextVar("tablefold folds constants", default=False)


@contextmanager
def folding_constants() -> Iterator[None]:
    """Record programs for somebody who computes beforehand whatever depends on no input: once, not in every call."""
    token = _folds.set(True)
    try:
        yield
    finally:
        _folds.reset(token)


def lowers(address_map: AddressMap) -> bool:
    """Whether the terms are of the kinds that `LoweredGather` knows: no ranges, projections or edges."""
    terms = [term for terms in address_map.terms for term in terms]
    plain = all(term.first == 0 and term.stop is None and term.projection is None for term in terms)
    return plain and not address_map.edges


class LoweredGather:
    """Reads the vectors of a batch of ids from memory, as an address map says: what `ReferenceGather` computes.

    Args:
        address_map: tables, terms and memory layout.

    Calling it with memory, a tensor per array, the concatenated lookup arrays (or None), ids `[batch, tables]` and what
    vectors of ids outside their table are made of (None: whatever their addresses hold) gives `[batch, features, dim]`.
    """

    def __init__(self, address_map: AddressMap) -> None:
        self._map = address_map
        alike: dict[Hashable, list[int]] = {}
        for column, terms in enumerate(address_map.terms):
            table = address_map.tables[column]
            shape = [(_kind(address_map, table, term), term.slot, term.combine) for term in terms]
            alike.setdefault((table.dim, *shape), []).append(column)
        self._parts = [_Alike(address_map, columns) for columns in alike.values()]
        self._columns = [column for part in self._parts for column in part.columns]

    def __call__(
        self, memory: Sequence[Tensor], lookup: Tensor | None, ids: Int64[Tensor, "batch tables"], fill: float | None
    ) -> Float[Tensor, "batch features dim"]:
        """The composed vectors of every table, `[batch, features, dim]`."""
        wild = None
        if fill is not None:
            inside = self._nearest_inside(ids)
            ids, wild = inside, inside != ids
        call = _Call(memory, lookup, ids, wild, fill or 0.0)
        return self._in_order([part.vectors(call) for part in self._parts], ids.shape[0])

    def _nearest_inside(self, ids: Tensor) -> Tensor:
        """The ids, those outside their table moved to its ends: in fewer operations than a look at both ends takes."""
        rows = [table.rows for table in self._map.tables]
        least = torch.tensor([-_LARGEST - 1 if each is None else 0 for each in rows], device=ids.device)
        most = torch.tensor([_LARGEST if each is None else each - 1 for each in rows], device=ids.device)
        return torch.minimum(torch.maximum(ids, least), most)

    def _in_order(self, parts: list[Tensor], batch: int) -> Tensor:
        """The vectors `[batch, tables, slots]` of each part as those of all tables, in their order."""
        features, dim = self._map.shape
        if len({table.dim for table in self._map.tables}) > 1:
            each = [part[:, number] for part in parts for number in range(part.shape[1])]
            places = sorted(range(len(each)), key=self._columns.__getitem__)
            return torch.cat([each[place] for place in places], dim=1).reshape(batch, features, dim)
        flat = [part.reshape(batch, -1, dim) for part in parts]
        vectors = torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]
        owners = [(column, number) for column in self._columns for number in range(self._map.features[column])]
        order = sorted(range(len(owners)), key=owners.__getitem__)
        if order == list(range(len(owners))):
            return vectors
        return vectors.index_select(1, torch.tensor(order, device=vectors.device))


@dataclass(frozen=True)
class _Call:
    """What one batch is read from. `wild`: ids outside their table, whose vectors are made of `fill`."""

    memory: Sequence[Tensor]
    lookup: Tensor | None
    ids: Int64[Tensor, "batch tables"]
    wild: Bool[Tensor, "batch tables"] | None
    fill: float

    def answer(self, columns: Sequence[int]) -> Answer | None:
        """Which ids of some columns are wild, and what to make of them."""
        return None if self.wild is None else (_columns(self.wild, columns), self.fill)


def _columns(ids: Tensor, columns: Sequence[int]) -> Tensor:
    if list(columns) == list(range(ids.shape[1])):
        return ids
    return ids.index_select(1, torch.tensor(columns, device=ids.device))


def _kind(address_map: AddressMap, table: TableSpec, term: Term) -> Hashable:
    """What terms have in common that are computed at once."""
    array, _ = place_of(address_map, term.base)
    weight = None if term.weight is None else (place_of(address_map, term.weight.base)[0], _way(term.weight.partition))
    sizes = (term.width, term.neighbours > 1, term.wrap > 0)
    return (table.rows is None, array, *sizes, term.signed, _way(term.partition), weight)


def _way(partition: Partition) -> Hashable:
    return partition.key is not None, partition.lookup is not None, partition.div > 1


class _Alike:
    """Tables whose terms differ in nothing but numbers."""

    def __init__(self, address_map: AddressMap, columns: list[int]) -> None:
        self.columns = columns
        terms = address_map.terms[columns[0]]
        by_kind: dict[Hashable, list[int]] = {}
        for position, term in enumerate(terms):
            by_kind.setdefault(_kind(address_map, address_map.tables[columns[0]], term), []).append(position)
        self._reads = [_Reads(address_map, columns, positions) for positions in by_kind.values()]
        self._chains = chains_of(terms)
        self._place = {
            id(terms[position]): (reads, number)
            for reads, positions in enumerate(by_kind.values())
            for number, position in enumerate(positions)
        }
        whole = [[(0, position, 0, term.width)] for position, term in enumerate(terms)]
        self._is_plain = [[self._at(chunk) for chunk in chain] for chain in self._chains] == whole

    def _at(self, chunk: Chunk) -> tuple[int, int, int, int]:
        """Where the values of a chunk are: of which reads, the number of the term in them, and which floats."""
        return (*self._place[id(chunk.term)], chunk.offset, chunk.width)

    def vectors(self, call: _Call) -> Float[Tensor, "batch tables slots"]:
        """What the tables give, side by side."""
        in_rows = call.wild is not None and all(reads.answers(call) for reads in self._reads)
        values = [reads.values(call, answers=in_rows) for reads in self._reads]
        if self._is_plain:
            composed = values[0].flatten(2)
        else:
            chains = [self._composed(chain, values) for chain in self._chains]
            composed = torch.cat(chains, dim=2) if len(chains) > 1 else chains[0]
        return replaced(composed, None if in_rows else call.answer(self.columns))

    def _composed(self, chain: Sequence[Chunk], values: Sequence[Tensor]) -> Tensor:
        """The slots of a chain, `[batch, tables, width]`."""
        composed, *others = (self._chunk(chunk, values) for chunk in chain)
        for chunk, value in zip(chain[1:], others, strict=True):
            composed = composed * value if chunk.combine == "mul" else composed + value
        return composed

    def _chunk(self, chunk: Chunk, values: Sequence[Tensor]) -> Tensor:
        reads, number, offset, width = self._at(chunk)
        value = values[reads][:, :, number]
        return value if width == value.shape[-1] else value[:, :, offset : offset + width]


class _Reads:
    """Some terms of each of some tables that are read alike: one operation computes them all."""

    def __init__(self, address_map: AddressMap, columns: Sequence[int], positions: Sequence[int]) -> None:
        self._map, self._tables, self._each = address_map, len(columns), len(positions)
        self._columns = [column for column in columns for _ in positions]
        self._terms = [address_map.terms[column][position] for column in columns for position in positions]
        self._term = self._terms[0]
        self._number, _ = place_of(address_map, self._term.base)
        self._array = address_map.arrays[self._number]
        self._first = [place_of(address_map, term.base)[1] for term in self._terms]
        self._starts = starts_of(address_map.lookups)

    def answers(self, call: _Call) -> bool:
        """Whether ids outside their table are answered for little where rows are read."""
        return self._array.format.answers_in_scales and self._is_lowered(call)

    def values(self, call: _Call, *, answers: bool) -> Float[Tensor, "batch tables terms width"]:
        """What the terms read, times their weights and signs."""
        ids = _columns(call.ids, self._columns)
        bucket, word = self._bucket([term.partition for term in self._terms], ids, call)
        floats = self._runs(ids, bucket, call) if self._are_runs() else self._rows(ids, bucket, call, answers)
        values = floats.reshape(ids.shape[0], self._tables, self._each, self._term.width)
        weight = None if self._term.weight is None else self._weight(ids, call)
        scale = [weight] if weight is not None else []
        scale += [sign_bit(word).to(values.dtype)] if self._term.signed else []
        for factor in scale:
            values = values * factor.reshape(*values.shape[:3], 1)
        return values

    def _bucket(self, partitions: Sequence[Partition], ids: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
        """Buckets `[batch, terms]` of ids `[batch, terms]`, and their hashed words."""
        number = word = ids
        if partitions[0].div > 1:
            divs = _each([part.div for part in partitions], ids)
            may_be_negative = call.wild is None or self._map.tables[self._columns[0]].rows is None
            number = word = ids // divs if may_be_negative else torch.div(ids, divs, rounding_mode="trunc")
        if partitions[0].key is not None:
            word = hash_id(number, _each([part.key or 0 for part in partitions], ids))
            number = bucket_bits(word)
        elif partitions[0].lookup is not None:
            assert call.lookup is not None
            starts = [self._starts[part.lookup] for part in partitions if part.lookup is not None]
            number = F.embedding(number + _each(starts, ids), call.lookup[:, None])[..., 0].to(torch.int64)
        if not all(self._stays_below(*each, call) for each in zip(partitions, self._columns, strict=True)):
            number = number % _each([part.num_buckets for part in partitions], ids)
        return number, word

    def _stays_below(self, partition: Partition, column: int, call: _Call) -> bool:
        """Whether no id of the table reaches the number of buckets: nothing is to be taken modulo it."""
        rows = self._map.tables[column].rows
        if call.wild is None or rows is None or partition.key is not None:
            return False
        if partition.lookup is not None:
            return int(partition.lookup.buckets.max()) < partition.num_buckets
        return ceil_div(rows, partition.div) <= partition.num_buckets

    def _begin(self, ids: Tensor, bucket: Tensor, floats: int) -> Tensor:
        """Where each term begins to read, `[batch, terms]`, counted from its base in rows of so many floats."""
        steps = [term.stride // floats if term.partition.num_buckets > 1 else 1 for term in self._terms]
        place = bucket if set(steps) == {1} else bucket * _each(steps, ids)
        if self._term.neighbours > 1:
            place = place + ids % _each([term.neighbours for term in self._terms], ids) * (self._term.width // floats)
        return place

    def _rows(self, ids: Tensor, bucket: Tensor, call: _Call, answers: bool) -> Tensor:
        """What is read of whole rows."""
        width, memory = self._array.width, call.memory[self._number]
        rows, inner = self._begin(ids, bucket, width), self._term.width > width
        if inner:
            rows = rows[..., None] + torch.arange(self._term.width // width, device=ids.device)
        if any(0 < term.wrap < _end(term) for term in self._terms):
            rows = rows % _each([term.wrap // width for term in self._terms], ids, inner=inner)
        if any(self._first):
            rows = rows + _each([first // width for first in self._first], ids, inner=inner)
        if not self._is_lowered(call):
            return read_rows(self._array, memory, rows * width)
        answer = call.answer(self._columns) if answers else None
        if answer is not None and inner:
            answer = (answer[0][..., None], answer[1])
        kept = self._array.format.lower(memory, self._array.rows, width)
        return self._array.format.lowered_rows(kept, rows, width, answer)

    def _is_lowered(self, call: _Call) -> bool:
        """Whether memory is as its format lowers it: floats as they are, codes where somebody folds constants."""
        kept = self._array.format
        return kept == FP32 or (_folds.get() and call.memory[self._number].dtype == kept.dtype)

    def _are_runs(self) -> bool:
        """Whether floats are read in runs that begin anywhere, which are to be cut from whole lines."""
        if not _folds.get() or self._array.width > 1 or self._term.width < _RUN or self._array.format != FP32:
            return False
        return all(term.wrap in (0, self._array.rows) for term in self._terms)

    def _runs(self, ids: Tensor, bucket: Tensor, call: _Call) -> Tensor:
        """The runs, cut from the lines that they lie on; what is circular goes on behind the last line as it begins."""
        width, memory = self._term.width, call.memory[self._number].reshape(-1)
        count = ceil_div(_LINE - 1 + width, _LINE)
        missing = (ceil_div(len(memory), _LINE) + count - 1) * _LINE - len(memory)
        again = memory[torch.arange(missing, device=ids.device) % len(memory)]
        lines = torch.cat([memory, again]).reshape(-1, _LINE)
        place = self._begin(ids, bucket, 1)
        if any(0 < term.wrap <= _end(term) - width for term in self._terms):
            place = place % self._term.wrap
        if any(self._first):
            place = place + _each(self._first, ids)
        line = torch.div(place, _LINE, rounding_mode="trunc")[..., None] + torch.arange(count, device=ids.device)
        floats = (place % _LINE)[..., None] + torch.arange(width, device=ids.device)
        return F.embedding(line, lines).flatten(2).gather(2, floats)

    def _weight(self, ids: Tensor, call: _Call) -> Tensor:
        """The learned weight of each read, `[batch, terms]`."""
        weights = [term.weight for term in self._terms if term.weight is not None]
        bucket, _ = self._bucket([weight.partition for weight in weights], ids, call)
        places = [place_of(self._map, weight.base) for weight in weights]
        place = bucket * _each([weight.stride for weight in weights], ids) + _each([first for _, first in places], ids)
        return F.embedding(place, call.memory[places[0][0]])


def _end(term: Term) -> int:
    """One past the last float from its base on that a term would read if its region were not circular."""
    return term.stride * (term.partition.num_buckets - 1) + term.width * term.neighbours


def _each(numbers: Sequence[int], ids: Tensor, *, inner: bool = False) -> Tensor | int:
    """A number for each term: one for all if they are the same; else `[terms]`, or `[terms, 1]` if `inner`."""
    if len(set(numbers)) == 1:
        return numbers[0]
    each = torch.tensor(numbers, dtype=torch.int64, device=ids.device)
    return each[:, None] if inner else each
