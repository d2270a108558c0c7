"""The gather as exported programs have it: the one formula in few operations, each on all tables at once.

A graph pays for every node, however small its tensors. So tables whose terms differ in nothing but numbers (moduli,
keys, addresses) are computed together, and so are terms of a table that are read alike, as the blocks of its rows are.
Where ranges of ids have terms of their own, numbers are looked up by the range, and all terms are read for all ids:
what an id does not read counts as zeros.

For an exporter that computes constants beforehand (`folding_constants`) memory is laid out for its reader too: rows in
few bits as their format lowers them; runs of floats that begin anywhere as whole rows to cut them from.
"""

from __future__ import annotations

from collections import Counter
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
from tablefold.partitions import Edges, Partition, ceil_div
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, Array, Chunk, Projection, Range, Term, chains_of

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
    """Whether the terms are of the kinds that `LoweredGather` knows."""
    return all(_is_whole(terms) or _is_sum(address_map, column) for column, terms in enumerate(address_map.terms))


def _is_whole(terms: Sequence[Term]) -> bool:
    """Whether all terms are read by all ids, and none is projected or searches edges."""
    parts = [part for term in terms for part in term.partitions]
    plain = all(term.first == 0 and term.stop is None and term.projection is None for term in terms)
    return plain and all(part.edges is None for part in parts)


def _is_sum(address_map: AddressMap, column: int) -> bool:
    """Whether a table is what `_Sums` knows: in each range, whole rows of ids or intervals, projected or not, added."""
    table, ranges = address_map.tables[column], address_map.ranges[column]
    if table.rows is None:
        return False
    slots = ranges[0].slots
    for own in ranges:
        edges = {term.partition.edges for term in own.terms} - {None}
        if len(edges) > 1 or not all(_is_summand(address_map, own, term, slots) for term in own.terms):
            return False
    return True


def _is_summand(address_map: AddressMap, own: Range, term: Term, slots: int) -> bool:
    part, ids = term.partition, _count(own)
    width = address_map.arrays[place_of(address_map, term.base)[0]].width
    if (term.slot, term.out, term.width, term.stride) != (0, slots, width, width) or term.combine != "add":
        return False
    if term.weight is not None or term.signed or term.wrap or term.neighbours > 1 or term.first != own.first:
        return False
    if part.div > 1 or part.key is not None or part.lookup is not None:
        return False
    if part.edges is not None:
        return len(part.edges.firsts) < part.num_buckets and int(part.edges.firsts[-1]) < ids
    return part.num_buckets == 1 or part.num_buckets >= ids


def _count(own: Range) -> int:
    """The ids of a range of a table that has so many."""
    assert own.stop is not None
    return own.stop - own.first


class LoweredGather:
    """Reads the vectors of a batch of ids from memory, as an address map says: what `ReferenceGather` computes.

    Args:
        address_map: tables, terms and memory layout.

    Calling it with memory, a tensor per array, the concatenated lookup arrays and edges (or None), ids
    `[batch, tables]` and what vectors of ids outside their table are made of (None: whatever their addresses hold)
    gives `[batch, features, dim]`.
    """

    def __init__(self, address_map: AddressMap) -> None:
        self._map = address_map
        alike: dict[Hashable, list[int]] = {}
        sums: dict[int, list[int]] = {}
        for column, terms in enumerate(address_map.terms):
            table = address_map.tables[column]
            if not _is_whole(terms):
                sums.setdefault(address_map.ranges[column][0].slots, []).append(column)
                continue
            shape = [(_kind(address_map, table, term), term.slot, term.combine) for term in terms]
            alike.setdefault((table.dim, *shape), []).append(column)
        self._parts: list[_Alike | _Sums] = [_Alike(address_map, columns) for columns in alike.values()]
        self._parts += [_Sums(address_map, columns) for columns in sums.values()]
        self._columns = [column for part in self._parts for column in part.columns]

    def __call__(
        self,
        memory: Sequence[Tensor],
        lookup: Tensor | None,
        edges: Tensor | None,
        ids: Int64[Tensor, "batch tables"],
        fill: float | None,
    ) -> Float[Tensor, "batch features dim"]:
        """The composed vectors of every table, `[batch, features, dim]`."""
        wild = None
        if fill is not None:
            inside = self._nearest_inside(ids)
            ids, wild = inside, inside != ids
        call = _Call(memory, lookup, edges, ids, wild, fill or 0.0)
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
    edges: Tensor | None
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


def _is_lowered(array: Array, memory: Tensor) -> bool:
    """Whether memory is as its format lowers it: floats as they are, codes where somebody folds constants."""
    return array.format == FP32 or (_folds.get() and memory.dtype == array.format.dtype)


def _rows(array: Array, memory: Tensor, numbers: Int64[Tensor, "*shape"], answer: Answer | None) -> Tensor:
    """The rows of some numbers `[*shape, width]`, some of them replaced."""
    if not _is_lowered(array, memory):
        return replaced(read_rows(array, memory, numbers * array.width), answer)
    kept = array.format.lower(memory, array.rows, array.width)
    return array.format.lowered_rows(kept, numbers, array.width, answer)


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
        return self._array.format.answers_in_scales and _is_lowered(self._array, call.memory[self._number])

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
            return partition.lookup.highest < partition.num_buckets
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
        answer = call.answer(self._columns) if answers else None
        if answer is not None and inner:
            answer = (answer[0][..., None], answer[1])
        return _rows(self._array, memory, rows, answer)

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


class _Sums:
    """Tables of ranges, each a sum of rows: of the ids' own, or of the intervals that they lie in, projected or not.

    What differs from range to range are numbers, which are looked up by the range that an id lies in. So one operation
    computes what all tables read of an array, however many ranges they have.
    """

    def __init__(self, address_map: AddressMap, columns: list[int]) -> None:
        self.columns = columns
        self._ranges = [address_map.ranges[column] for column in columns]
        self._most = max(len(ranges) for ranges in self._ranges)
        self._starts = starts_of(address_map.edges)
        self._edges = [[_edges_of(own) for own in ranges] for ranges in self._ranges]
        kinds: dict[Hashable, dict[tuple[int, int], Term]] = {}
        for table, ranges in enumerate(self._ranges):
            uses: Counter[Hashable] = Counter()
            for number, own in enumerate(ranges):
                seen: Counter[Hashable] = Counter()
                for term in own.terms:
                    kind = (place_of(address_map, term.base)[0], _is_own(term), term.projection is not None)
                    order = uses if term.projection is not None else seen  # a projection stays the table's
                    kinds.setdefault((*kind, order[kind]), {})[table, number] = term
                    order[kind] += 1
        self._summands = [_Summand(address_map, len(columns), self._most, terms, self) for terms in kinds.values()]

    def vectors(self, call: _Call) -> Float[Tensor, "batch tables slots"]:
        """What the tables give, side by side."""
        ids = _columns(call.ids, self.columns)
        own = self._range(ids)
        interval = self._interval(ids, call)
        first, *others = (each.values(call, ids, own, interval) for each in self._summands)
        for each in others:
            first = first + each
        return replaced(first, call.answer(self.columns))

    def before(self, table: int, number: int) -> int:
        """How many edges of a table come before those of a range: where ranges begin is an edge too."""
        return number + sum(0 if each is None else len(each.firsts) for each in self._edges[table][:number])

    def _range(self, ids: Tensor) -> Tensor | None:
        """Where the numbers of each id's range are, `[batch, tables]`; None where no table has several."""
        if self._most == 1:
            return None
        firsts = [[own.first for own in ranges[1:]] for ranges in self._ranges]
        padded = [each + [_LARGEST] * (self._most - 1 - len(each)) for each in firsts]
        reached = (ids[..., None] >= torch.tensor(padded, device=ids.device)).to(torch.int64).sum(-1)
        return reached + torch.arange(len(self.columns), device=ids.device) * self._most

    def _interval(self, ids: Tensor, call: _Call) -> Tensor | None:
        """How many edges of its table each id has reached, `[batch, tables]`, by halving; None without any."""
        if not any(each is not None for ranges in self._edges for each in ranges):
            return None
        assert call.edges is not None
        edges, counts = self._all_edges(call.edges)
        begins = torch.tensor([sum(counts[:number]) for number in range(len(counts))], device=ids.device)
        place = begins.expand(ids.shape)
        while max(counts) > 1:
            halves = [count // 2 for count in counts]
            probe = place + torch.tensor([max(half - 1, 0) for half in halves], device=ids.device)
            place = place + _reached(edges, probe, ids) * torch.tensor(halves, device=ids.device)
            counts = [count - half for count, half in zip(counts, halves, strict=True)]
        return place + _reached(edges, place, ids) - begins

    def _all_edges(self, edges: Tensor) -> tuple[Tensor, list[int]]:
        """The edges of all tables, end to end, and how many each has; one that no id reaches where there is none."""
        found, counts = [], []
        for ranges, own in zip(self._ranges, self._edges, strict=True):
            parts = []
            for number, (each, kept) in enumerate(zip(ranges, own, strict=True)):
                parts += [torch.tensor([each.first], dtype=edges.dtype, device=edges.device)] if number else []
                if kept is not None:
                    start = self._starts[kept]
                    parts.append(edges[start : start + len(kept.firsts)] + each.first)
            parts = parts or [torch.tensor([torch.iinfo(edges.dtype).max], dtype=edges.dtype, device=edges.device)]
            found += parts
            counts.append(sum(len(part) for part in parts))
        return torch.cat(found), counts


def _reached(edges: Tensor, places: Tensor, ids: Tensor) -> Tensor:
    return (_taken(edges, places) <= ids).to(torch.int64)


def _taken(numbers: Tensor, places: Int64[Tensor, "batch tables"]) -> Tensor:
    """numbers[places], as one gather without dimensions of size 1, which onnxruntime computes ten times as slowly."""
    return numbers.index_select(0, places.flatten()).reshape(-1, places.shape[1])


def _edges_of(own: Range) -> Edges | None:
    """The edges that the terms of a range search."""
    return next((term.partition.edges for term in own.terms if term.partition.edges is not None), None)


def _is_own(term: Term) -> bool:
    """Whether each id has a row of its own."""
    return term.partition.edges is None and term.partition.num_buckets > 1


class _Summand:
    """One term of some ranges of some tables, which read one array: by the ids themselves, or by intervals."""

    def __init__(
        self, address_map: AddressMap, tables: int, most: int, terms: dict[tuple[int, int], Term], of: _Sums
    ) -> None:
        self._map = address_map
        term = next(iter(terms.values()))
        self._number, _ = place_of(address_map, term.base)
        self._array, self._is_own = address_map.arrays[self._number], _is_own(term)
        self._firsts, self._reads = [0] * (tables * most), [0] * (tables * most)
        self._steps = [0] * (tables * most)
        self._is_whole = len(terms) == sum(len(ranges) for ranges in of._ranges)
        self._projections: list[Projection | None] = [None] * tables
        for (table, number), each in terms.items():
            at = table * most + number
            row = place_of(address_map, each.base)[1] // self._array.width
            self._steps[at] = int(self._is_own or each.partition.edges is not None)
            before = each.first if self._is_own else of.before(table, number)
            self._firsts[at], self._reads[at] = row - self._steps[at] * before, 1
            self._projections[table] = each.projection
        self._inner = term.width

    def values(self, call: _Call, ids: Tensor, own: Tensor | None, interval: Tensor | None) -> Tensor:
        """What is read and projected, `[batch, tables, slots]`; zeros for ids that do not read it."""
        rows = _numbers(self._firsts, own, ids)
        if any(self._steps):
            number = ids if self._is_own else interval
            assert number is not None
            every = all(step for step, reads in zip(self._steps, self._reads, strict=True) if reads)
            rows = rows + (number if every else number * _numbers(self._steps, own, ids))
        answer = None
        if not self._is_whole:
            reads = _numbers(self._reads, own, ids).expand(ids.shape)
            rows, answer = rows * reads, (reads == 0, 0.0)
        floats = _rows(self._array, call.memory[self._number], rows.expand(ids.shape), answer)
        return floats if self._projections == [None] * len(self._projections) else self._projected(floats, call)

    def _projected(self, floats: Tensor, call: _Call) -> Tensor:
        """Each table's rows times its projection."""
        places = [None if each is None else place_of(self._map, each.base) for each in self._projections]
        array, base = next(each for each in places if each is not None)
        width = self._map.arrays[array].width
        firsts = [(base if each is None else each[1]) // width for each in places]
        rows = torch.tensor(firsts, device=floats.device)[:, None] + torch.arange(self._inner, device=floats.device)
        return torch.matmul(floats.transpose(0, 1), F.embedding(rows, call.memory[array])).transpose(0, 1)


def _numbers(numbers: Sequence[int], own: Tensor | None, ids: Tensor) -> Tensor:
    """A number for each id: its table's, or its range's."""
    each = torch.tensor(numbers, dtype=torch.int64, device=ids.device)
    return each if own is None else _taken(each, own)


def _end(term: Term) -> int:
    """One past the last float from its base on that a term would read if its region were not circular."""
    return term.stride * (term.partition.num_buckets - 1) + term.width * term.neighbours


def _each(numbers: Sequence[int], ids: Tensor, *, inner: bool = False) -> Tensor | int:
    """A number for each term: one for all if they are the same; else `[terms]`, or `[terms, 1]` if `inner`."""
    if len(set(numbers)) == 1:
        return numbers[0]
    each = torch.tensor(numbers, dtype=torch.int64, device=ids.device)
    return each[:, None] if inner else each
