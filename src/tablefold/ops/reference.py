"""The gather in plain torch: what the one formula means, on every device, with autograd."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.formats import FP32
from tablefold.hashing import bucket_bits, hash_id, sign_bit
from tablefold.ops.backends import is_recorded
from tablefold.partitions import Edges, Lookup, Partition
from tablefold.terms import AddressMap, Array, Chunk, Term, chains_of


def starts_of(arrays: Sequence[Lookup] | Sequence[Edges]) -> dict[Any, int]:
    """Where each array begins when all lie end to end."""
    sizes = (len(each.array) for each in arrays)
    return dict(zip(arrays, itertools.accumulate(sizes, initial=0), strict=False))


def bucket_of(
    partition: Partition,
    ids: Int64[Tensor, " batch"],
    lookup: Tensor | None = None,
    edges: Tensor | None = None,
    starts: Mapping[Any, int] | None = None,
) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
    """(buckets of ids, their hashed words: of use where the partition hashes). `starts` says where a partition's begin
    among all lookup arrays, or edges."""
    number = word = ids // partition.div if partition.div > 1 else ids
    if partition.key is not None:
        word = hash_id(number, partition.key)
        number = bucket_bits(word)
    elif partition.lookup is not None:
        assert lookup is not None
        assert starts is not None
        number = lookup[number + starts[partition.lookup]].to(torch.int64)
    elif partition.edges is not None:
        assert edges is not None
        assert starts is not None
        number = _interval(edges, starts[partition.edges], len(partition.edges.firsts), number)
    return number % partition.num_buckets, word


def _interval(edges: Tensor, first: int, count: int, numbers: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
    """How many of `count` edges each number has reached, by halving: the same steps for all, of plain operations that
    every exporter knows."""
    place = torch.full_like(numbers, first)
    while count > 1:
        half = count // 2
        place = place + half * (edges[place + half - 1] <= numbers).to(torch.int64)
        count -= half
    return place + (edges[place] <= numbers).to(torch.int64) - first


class ReferenceGather:
    """Reads the vectors of a batch of ids from memory, as an address map says.

    Rows are fetched by one embedding lookup per array, then composed term by term. Every term is read for all ids: for
    those that do not read it, what its first id would.

    Args:
        address_map: tables, terms and memory layout.

    Calling it with memory, a tensor per array, the concatenated lookup arrays (or None), int64 ids `[batch, tables]`
    and the concatenated edges (or None) returns `[batch, features, dim]`. It holds no state.
    """

    def __init__(self, address_map: AddressMap) -> None:
        self._map = address_map
        self._features, self._dim = address_map.shape
        self._starts = {**starts_of(address_map.lookups), **starts_of(address_map.edges)}
        self._reads = [
            _Read(column, term, *place_of(address_map, term.base))
            for column, terms in enumerate(address_map.terms)
            for term in terms
        ]
        self._chains = [[chains_of(each.terms) for each in ranges] for ranges in address_map.ranges]
        self._rows = [table.rows or 0 for table in address_map.tables]
        self._tables = [table for table, features in enumerate(address_map.features) for _ in range(features)]

    def rows(self, device: torch.device) -> Int64[Tensor, " tables"]:
        """The rows of each table, 0 for an open vocabulary."""
        return torch.tensor(self._rows, device=device)

    def table_of(self, device: torch.device) -> Int64[Tensor, " features"]:
        """The table that each feature belongs to."""
        return torch.tensor(self._tables, device=device)

    def __call__(
        self,
        memory: Sequence[Tensor],
        lookup: Tensor | None,
        ids: Int64[Tensor, "batch tables"],
        edges: Tensor | None = None,
    ) -> Float[Tensor, "batch features dim"]:
        """The composed vectors of every table, `[batch, features, dim]`."""
        given = _Given(memory, lookup, edges)
        own = [_counted(read.term, ids[:, read.column]) for read in self._reads]
        placed = (self._place(read, x, given) for read, x in zip(self._reads, own, strict=True))
        places, words = zip(*placed, strict=True)
        rows = self._fetch(memory, places)
        found = iter(
            self._computed(read, row, given, x, word)
            for read, row, x, word in zip(self._reads, rows, own, words, strict=True)
        )
        vectors = []
        for column, terms in enumerate(self._map.terms):
            by_term = {id(term): next(found) for term in terms}
            vectors.append(self._compose(column, ids[:, column], by_term))
        return torch.cat(vectors, dim=1).reshape(ids.shape[0], self._features, self._dim)

    def _compose(self, column: int, ids: Tensor, values: dict[int, Tensor]) -> Tensor:
        """The slots of a table, `[batch, slots]`: for each id those of the last range that it has reached."""
        first, *others = (
            torch.cat([_compose(chain, values) for chain in chains], dim=1) for chains in self._chains[column]
        )
        for own, slots in zip(self._map.ranges[column][1:], others, strict=True):
            reached = ids >= own.first if own.stop is not None else (ids >= own.first) | (ids < 0)
            first = torch.where(reached[:, None], slots, first)
        return first

    def _place(self, read: _Read, x: Tensor, given: _Given) -> tuple[Tensor, Tensor]:
        """(for each id the floats of the array that a term reads, `[batch, width]`; hashed words)."""
        term = read.term
        bucket, word = bucket_of(term.partition, x, given.lookup, given.edges, self._starts)
        place = term.stride * bucket
        if term.neighbours > 1:
            place = place + term.width * (x % term.neighbours)
        places = place[:, None] + torch.arange(0, term.width, self._array(read).width, device=x.device)
        if term.wrap:
            places = places % term.wrap
        return read.first + places, word

    def _fetch(self, memory: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """What every term reads, `[batch, width]`, by one lookup in each array."""
        fetched: list[Tensor] = [places[0]] * len(places)
        for number, array in enumerate(self._map.arrays):
            reads = [index for index, read in enumerate(self._reads) if read.array == number]
            if not reads:
                continue
            own = torch.cat([places[index] for index in reads], dim=1)
            rows = read_rows(array, memory[number], own)
            counts = [places[index].shape[1] for index in reads]
            for index, part in zip(reads, torch.split(rows, counts, dim=1), strict=True):
                fetched[index] = part.flatten(1)
        return fetched

    def _computed(self, read: _Read, rows: Tensor, given: _Given, x: Tensor, word: Tensor) -> Tensor:
        """What a term has read, projected, times its sign and its learned weight."""
        term = read.term
        if term.projection is not None:
            array, first = place_of(self._map, term.projection.base)
            row = first // term.projection.width
            rows = _projected(rows, given.memory[array][row : row + term.width])
        if term.weight is not None:
            array, first = place_of(self._map, term.weight.base)
            bucket, _ = bucket_of(term.weight.partition, x, given.lookup, given.edges, self._starts)
            rows = rows * F.embedding(first + term.weight.stride * bucket, given.memory[array])
        if term.signed:
            rows = rows * sign_bit(word).to(rows.dtype)[:, None]
        return rows

    def _array(self, read: _Read) -> Array:
        return self._map.arrays[read.array]


class _Read:
    """A term of a column, the array that it reads, and the float of it that is its base."""

    def __init__(self, column: int, term: Term, array: int, first: int) -> None:
        self.column, self.term, self.array, self.first = column, term, array, first


class _Given(NamedTuple):
    """What a call reads: the arrays of memory, the lookup arrays and the edges, each end to end."""

    memory: Sequence[Tensor]
    lookup: Tensor | None
    edges: Tensor | None


def _counted(term: Term, ids: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
    """The ids from the term's first on; 0 for those that do not read it."""
    if term.first == 0 and term.stop is None:
        return ids
    reads = ids >= term.first if term.stop is not None else (ids >= term.first) | (ids < 0)
    if term.stop is not None:
        reads = reads & (ids < term.stop)
    return torch.where(reads, ids - term.first, 0)


def _projected(rows: Float[Tensor, "batch width"], by: Float[Tensor, "width out"]) -> Float[Tensor, "batch out"]:
    """Their product, whose sums are taken float by float, as kernels do, for the same bits; a recorded program, which
    computes elsewhere, has one operation of it."""
    if is_recorded():
        return rows @ by
    product = rows[:, :1] * by[0]
    for number in range(1, rows.shape[1]):
        product = product + rows[:, number : number + 1] * by[number]
    return product


def place_of(address_map: AddressMap, base: int) -> tuple[int, int]:
    """The number of the array that has a float of memory, and how many of the array's come before it."""
    region = address_map.region_at(base)
    array, before = address_map.places[region]
    return array, before + base - address_map.bases[region]


def read_rows(array: Array, memory: Tensor, places: Int64[Tensor, "batch rows"]) -> Float[Tensor, "batch rows width"]:
    """The rows of an array that begin at some floats, of a master or of what `freeze()` packed."""
    if array.format == FP32:
        return F.embedding(places // array.width, memory)
    check_master(array, memory)
    if memory.dtype == torch.float32:
        return F.embedding(places // array.width, array.format.read(memory))
    lanes = torch.arange(array.width, device=places.device)
    return array.format.decode(memory, places[..., None] + lanes)


def check_master(array: Array, memory: Tensor) -> None:
    """Memory that is read in few bits is computed with in float32.

    Raises:
        ValueError: for a master of another type.
    """
    if array.format == FP32 or memory.dtype == torch.float32:
        return
    if memory.requires_grad or memory.dtype != array.format.dtype:
        raise ValueError(
            f"memory in {array.format.name} has float32 masters; this one is {memory.dtype}: leave the group in "
            "float32, or build it in fp32"
        )


def _compose(chain: Sequence[Chunk], values: dict[int, Tensor]) -> Tensor:
    """The slots of a chain, `[batch, width]`; `values` are the rows of each term, by its identity."""
    composed, *others = (values[id(chunk.term)][:, chunk.offset : chunk.offset + chunk.width] for chunk in chain)
    for chunk, value in zip(chain[1:], others, strict=True):
        composed = composed * value if chunk.combine == "mul" else composed + value
    return composed
