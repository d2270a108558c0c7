"""The gather in plain torch: what the one formula means, on every device, with autograd."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.formats import FP32
from tablefold.hashing import bucket_bits, hash_id, sign_bit
from tablefold.partitions import Lookup, Partition
from tablefold.terms import AddressMap, Array, Chunk, Term, table_chains


def lookup_starts(lookups: Sequence[Lookup]) -> dict[Lookup, int]:
    """Where each lookup array begins when all lie end to end."""
    sizes = (len(lookup.buckets) for lookup in lookups)
    return dict(zip(lookups, itertools.accumulate(sizes, initial=0), strict=False))


def bucket_of(
    partition: Partition, ids: Int64[Tensor, " batch"], lookup: Tensor | None, starts: dict[Lookup, int]
) -> tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]:
    """(buckets of ids, their hashed words: of use where the partition hashes)."""
    number = word = ids // partition.div if partition.div > 1 else ids
    if partition.key is not None:
        word = hash_id(number, partition.key)
        number = bucket_bits(word)
    elif partition.lookup is not None:
        assert lookup is not None
        number = lookup[number + starts[partition.lookup]].to(torch.int64)
    return number % partition.num_buckets, word


class ReferenceGather:
    """Reads the vectors of a batch of ids from memory, as an address map says.

    Rows are fetched by one embedding lookup per array, then composed term by term.

    Args:
        address_map: tables, terms and memory layout.

    Calling it with memory, a tensor per array, the concatenated lookup arrays (or None) and int64 ids `[batch, tables]`
    returns `[batch, features, dim]`. It holds no state.
    """

    def __init__(self, address_map: AddressMap) -> None:
        self._map = address_map
        self._features, self._dim = address_map.shape
        self._starts = lookup_starts(address_map.lookups)
        self._reads = [
            _Read(column, term, *_place(address_map, term.base))
            for column, terms in enumerate(address_map.terms)
            for term in terms
        ]
        self._chains = [table_chains(terms) for terms in address_map.terms]
        self._rows = [table.rows or 0 for table in address_map.tables]
        self._tables = [table for table, features in enumerate(address_map.features) for _ in range(features)]

    def rows(self, device: torch.device) -> Int64[Tensor, " tables"]:
        """The rows of each table, 0 for an open vocabulary."""
        return torch.tensor(self._rows, device=device)

    def table_of(self, device: torch.device) -> Int64[Tensor, " features"]:
        """The table that each feature belongs to."""
        return torch.tensor(self._tables, device=device)

    def __call__(
        self, memory: Sequence[Tensor], lookup: Tensor | None, ids: Int64[Tensor, "batch tables"]
    ) -> Float[Tensor, "batch features dim"]:
        """The composed vectors of every table, `[batch, features, dim]`."""
        places, words = zip(*(self._place(read, ids, lookup) for read in self._reads), strict=True)
        rows = self._fetch(memory, places)
        found = iter(
            self._scaled(read, row, memory, lookup, ids, word)
            for read, row, word in zip(self._reads, rows, words, strict=True)
        )
        vectors = []
        for terms, chains in zip(self._map.terms, self._chains, strict=True):
            by_term = {id(term): next(found) for term in terms}
            vectors += [_compose(chain, by_term) for chain in chains]
        return torch.cat(vectors, dim=1).reshape(ids.shape[0], self._features, self._dim)

    def _place(self, read: _Read, ids: Tensor, lookup: Tensor | None) -> tuple[Tensor, Tensor]:
        """(for each id the floats of the array that a term reads, `[batch, width]`; hashed words)."""
        term, x = read.term, ids[:, read.column]
        bucket, word = bucket_of(term.partition, x, lookup, self._starts)
        place = term.stride * bucket
        if term.neighbours > 1:
            place = place + term.width * (x % term.neighbours)
        places = place[:, None] + torch.arange(0, term.width, self._array(read).width, device=ids.device)
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

    def _scaled(
        self, read: _Read, rows: Tensor, memory: Sequence[Tensor], lookup: Tensor | None, ids: Tensor, word: Tensor
    ) -> Tensor:
        """What a term has read times its sign and its learned weight."""
        weight = read.term.weight
        if weight is not None:
            array, first = _place(self._map, weight.base)
            bucket, _ = bucket_of(weight.partition, ids[:, read.column], lookup, self._starts)
            rows = rows * F.embedding(first + weight.stride * bucket, memory[array])
        if read.term.signed:
            rows = rows * sign_bit(word).to(rows.dtype)[:, None]
        return rows

    def _array(self, read: _Read) -> Array:
        return self._map.arrays[read.array]


class _Read:
    """A term of a column, the array that it reads, and the float of it that is its base."""

    def __init__(self, column: int, term: Term, array: int, first: int) -> None:
        self.column, self.term, self.array, self.first = column, term, array, first


def _place(address_map: AddressMap, base: int) -> tuple[int, int]:
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
