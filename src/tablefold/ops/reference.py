"""The gather in plain torch: what the one formula means, on every device, with autograd."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tablefold.hashing import bucket_bits, hash_id, sign_bit
from tablefold.terms import AddressMap, Combine, Term


@dataclass(frozen=True)
class _Chunk:
    """`unit` floats that a term reads, and the output chunk they go to. `layer` counts earlier writers of it."""

    layer: int
    combine: Combine
    slot: int
    term: int
    offset: int


class Gather(nn.Module):
    """Reads the vectors of a batch of ids from memory, as an address map says.

    Every term contributes `width / unit` rows of `unit` floats. They are fetched by one embedding lookup, ordered in
    layers: the first layer assigns every output slot once, each further one is added or multiplied onto some of them.

    Args:
        address_map: tables, terms and memory layout.

    Calling it with memory `[floats / unit, unit]`, the concatenated lookup arrays (or None) and int64 ids
    `[batch, tables]` returns `[batch, features, dim]`.
    """

    column: Tensor
    base: Tensor
    stride: Tensor
    div: Tensor
    modulus: Tensor
    key: Tensor
    hashed: Tensor
    signed: Tensor
    lookup_start: Tensor
    chunk_term: Tensor
    chunk_offset: Tensor

    def __init__(self, address_map: AddressMap) -> None:
        super().__init__()
        self.unit = address_map.unit
        self.dim = address_map.tables[0].dim
        self.num_features = sum(address_map.features)
        columns = [column for column, terms in enumerate(address_map.terms) for _ in terms]
        terms = [term for table_terms in address_map.terms for term in table_terms]
        chunks = _chunks(address_map)
        self._layers = _layers(chunks)
        self._hashes = any(term.partition.key is not None for term in terms)
        self._signs = any(term.signed for term in terms)
        self._looks_up = bool(address_map.lookups)
        self._constant("column", columns)
        self._constant("base", [term.base for term in terms])
        self._constant("stride", [term.stride for term in terms])
        self._constant("div", [term.partition.div for term in terms])
        self._constant("modulus", [term.partition.num_buckets for term in terms])
        self._constant("key", [term.partition.key or 0 for term in terms])
        self._constant("hashed", [term.partition.key is not None for term in terms])
        self._constant("signed", [term.signed for term in terms])
        self._constant("lookup_start", _lookup_starts(address_map, terms))
        self._constant("chunk_term", [chunk.term for chunk in chunks])
        self._constant("chunk_offset", [chunk.offset for chunk in chunks])
        for index, layer in enumerate(self._layers):
            self._constant(f"slots_{index}", layer.slots)

    def _constant(self, name: str, values: list[int] | list[bool]) -> None:
        # Rebuilt from the spec wherever the group is built, hence no part of the state dict.
        dtype = torch.bool if values and isinstance(values[0], bool) else torch.int64
        self.register_buffer(name, torch.tensor(values, dtype=dtype, device="cpu"), persistent=False)

    def forward(
        self,
        memory: Float[Tensor, "rows unit"],
        lookup: Tensor | None,
        ids: Int64[Tensor, "batch tables"],
    ) -> Float[Tensor, "batch features dim"]:
        """The composed vectors of every table, `[batch, features, dim]`."""
        words = ids[:, self.column]
        number, sign = self._numbers(words, lookup)
        bucket = (number // self.div) % self.modulus
        address = self.base + self.stride * bucket
        row = address[:, self.chunk_term] // self.unit + self.chunk_offset
        chunks = F.embedding(row, memory)
        if sign is not None:
            chunks = chunks * sign[:, self.chunk_term, None].to(chunks.dtype)
        return self._compose(chunks).reshape(ids.shape[0], self.num_features, self.dim)

    def _numbers(
        self, words: Int64[Tensor, "batch terms"], lookup: Tensor | None
    ) -> tuple[Int64[Tensor, "batch terms"], Int64[Tensor, "batch terms"] | None]:
        """g(x) of every term, and the signs where any term has one."""
        number, sign = words, None
        if self._hashes:
            mixed = hash_id(words, self.key)
            number = torch.where(self.hashed, bucket_bits(mixed), number)
            if self._signs:
                sign = torch.where(self.signed, sign_bit(mixed), 1)
        if self._looks_up:
            assert lookup is not None
            looks_up = self.lookup_start >= 0
            place = torch.where(looks_up, words + self.lookup_start, 0)
            number = torch.where(looks_up, lookup[place].to(torch.int64), number)
        return number, sign

    def _compose(self, chunks: Float[Tensor, "batch chunks unit"]) -> Float[Tensor, "batch slots unit"]:
        first, *later = torch.split(chunks, [len(layer.slots) for layer in self._layers], dim=1)
        composed: Tensor = first
        for index, values in enumerate(later, start=1):
            layer = self._layers[index]
            slots = self.get_buffer(f"slots_{index}")
            whole = len(layer.slots) == composed.shape[1]
            old = composed if whole else composed[:, slots]
            new = old * values if layer.combine == "mul" else old + values
            composed = new if whole else composed.index_copy(1, slots, new)
        return composed


@dataclass(frozen=True)
class _Layer:
    combine: Combine
    slots: list[int]


def _chunks(address_map: AddressMap) -> list[_Chunk]:
    """Every chunk of every term, sorted by layer, then combine, then slot."""
    unit = address_map.unit
    chunks = []
    first_slot = 0
    number = itertools.count()
    for table, terms, features in zip(address_map.tables, address_map.terms, address_map.features, strict=True):
        writers = [0] * (features * table.dim // unit)
        for term in terms:
            index = next(number)
            for offset in range(term.width // unit):
                slot = term.slot // unit + offset
                chunks.append(_Chunk(writers[slot], term.combine, first_slot + slot, index, offset))
                writers[slot] += 1
        first_slot += len(writers)
    return sorted(chunks, key=_order)


def _order(chunk: _Chunk) -> tuple[int, str, int]:
    # How the first writer of a slot would combine is of no interest: the first layer is one layer.
    return chunk.layer, chunk.combine if chunk.layer else "", chunk.slot


def _layers(chunks: list[_Chunk]) -> list[_Layer]:
    groups = itertools.groupby(chunks, key=lambda chunk: _order(chunk)[:2])
    return [
        _Layer(members[0].combine, [chunk.slot for chunk in members])
        for members in (list(group) for _, group in groups)
    ]


def _lookup_starts(address_map: AddressMap, terms: list[Term]) -> list[int]:
    """Where each term's lookup array begins in the concatenation of all; -1 for terms without one."""
    sizes = [len(lookup.buckets) for lookup in address_map.lookups]
    starts = dict(zip(address_map.lookups, [0, *np.cumsum(sizes).tolist()], strict=False))
    return [-1 if term.partition.lookup is None else starts[term.partition.lookup] for term in terms]
