"""The gather in plain torch: what the one formula means, on every device, with autograd."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.hashing import bucket_bits, hash_id, sign_bit
from tablefold.ops.backends import is_recorded, is_transformed
from tablefold.partitions import Lookup, Partition
from tablefold.terms import AddressMap, Combine, Term

_NO_WRAP = 1 << 62


class Constants:
    """Named int64 or bool vectors that a static object computes with, on whatever device its inputs are.

    They are made once per device; where a program is recorded, within it.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[int] | list[bool]] = {}
        self._made: dict[torch.device, dict[str, Tensor]] = {}

    def add(self, name: str, values: list[int] | list[bool]) -> None:
        """Keep `values` under a name."""
        self._values[name] = values

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """All vectors by name."""
        if is_recorded() or is_transformed() or torch._C._len_torch_dispatch_stack():
            return self._make(device)
        if device not in self._made:
            with torch.inference_mode(False):
                self._made[device] = self._make(device)
        return self._made[device]

    def _make(self, device: torch.device) -> dict[str, Tensor]:
        return {
            name: torch.tensor(
                values, dtype=torch.bool if values and isinstance(values[0], bool) else torch.int64, device=device
            )
            for name, values in self._values.items()
        }

    def __deepcopy__(self, _: object) -> Constants:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"_values": self._values, "_made": {}}


class Buckets:
    """The buckets of many partitions at once, each of one column of ids."""

    def __init__(self, columns: Sequence[int], partitions: Sequence[Partition], lookups: Sequence[Lookup]) -> None:
        sizes = [len(lookup.buckets) for lookup in lookups]
        starts = dict(zip(lookups, [0, *np.cumsum(sizes).tolist()], strict=False))
        self.any_hashed = any(part.key is not None for part in partitions)
        self.any_lookup = any(part.lookup is not None for part in partitions)
        self.constants = Constants()
        self.constants.add("column", list(columns))
        self.constants.add("div", [part.div for part in partitions])
        self.constants.add("num_buckets", [part.num_buckets for part in partitions])
        self.constants.add("key", [part.key or 0 for part in partitions])
        self.constants.add("hashed", [part.key is not None for part in partitions])
        self.constants.add("lookup_start", [-1 if part.lookup is None else starts[part.lookup] for part in partitions])

    def __call__(
        self, ids: Int64[Tensor, "batch tables"], lookup: Tensor | None
    ) -> tuple[Int64[Tensor, "batch parts"], Int64[Tensor, "batch parts"]]:
        """(buckets, hashed words; the words are of use where the partition hashes)."""
        c = self.constants.on(ids.device)
        number = ids[:, c["column"]] // c["div"]
        word = number
        if self.any_hashed:
            word = hash_id(number, c["key"])
            number = torch.where(c["hashed"], bucket_bits(word), number)
        if self.any_lookup:
            assert lookup is not None
            looks_up = c["lookup_start"] >= 0
            place = torch.where(looks_up, number + c["lookup_start"], 0)
            number = torch.where(looks_up, lookup[place].to(torch.int64), number)
        return number % c["num_buckets"], word


class ReferenceGather:
    """Reads the vectors of a batch of ids from memory, as an address map says.

    Every term contributes `width / unit` rows of `unit` floats. They are fetched by one embedding lookup, ordered in
    layers: the first layer assigns every output slot once, each further one is added or multiplied onto some of them.

    Args:
        address_map: tables, terms and memory layout.

    Calling it with memory `[floats / unit, unit]`, the concatenated lookup arrays (or None) and int64 ids
    `[batch, tables]` returns `[batch, features, dim]`. It holds no state.
    """

    def __init__(self, address_map: AddressMap) -> None:
        self.unit = address_map.unit
        self.dim = address_map.tables[0].dim
        self.num_features = sum(address_map.features)
        self._constants = Constants()
        self._constants.add("rows", [table.rows or 0 for table in address_map.tables])
        table_of = [table for table, features in enumerate(address_map.features) for _ in range(features)]
        self._constants.add("table_of", table_of)
        columns = [column for column, terms in enumerate(address_map.terms) for _ in terms]
        terms = [term for table_terms in address_map.terms for term in table_terms]
        self._buckets = Buckets(columns, [term.partition for term in terms], address_map.lookups)
        self._add_terms(terms)
        self._add_weights(columns, terms, address_map.lookups)
        chunks = _chunks(address_map)
        self._constants.add("chunk_term", [chunk.term for chunk in chunks])
        self._constants.add("chunk_offset", [chunk.offset * self.unit for chunk in chunks])
        self._layers = _layers(chunks)
        for index, layer in enumerate(self._layers):
            self._constants.add(f"slots_{index}", layer.slots)

    def rows(self, device: torch.device) -> Int64[Tensor, " tables"]:
        """The rows of each table, 0 for an open vocabulary."""
        return self._constants.on(device)["rows"]

    def table_of(self, device: torch.device) -> Int64[Tensor, " features"]:
        """The table that each feature belongs to."""
        return self._constants.on(device)["table_of"]

    def _add_terms(self, terms: Sequence[Term]) -> None:
        self.any_wrap = any(term.wrap for term in terms)
        self.any_neighbours = any(term.neighbours > 1 for term in terms)
        self.any_signed = any(term.signed for term in terms)
        for name in ("base", "stride", "neighbours", "width", "signed"):
            self._constants.add(name, [getattr(term, name) for term in terms])
        self._constants.add("wrap", [term.wrap or _NO_WRAP for term in terms])

    def _add_weights(self, columns: Sequence[int], terms: Sequence[Term], lookups: Sequence[Lookup]) -> None:
        weighted = [(index, term.weight) for index, term in enumerate(terms) if term.weight is not None]
        self._weight_buckets = None
        if weighted:
            self._weight_buckets = Buckets(
                [columns[index] for index, _ in weighted], [weight.partition for _, weight in weighted], lookups
            )
        self._constants.add("weight_base", [weight.base for _, weight in weighted])
        self._constants.add("weight_stride", [weight.stride for _, weight in weighted])
        self._constants.add("weight_term", [index for index, _ in weighted])

    def __call__(
        self,
        memory: Float[Tensor, "rows unit"],
        lookup: Tensor | None,
        ids: Int64[Tensor, "batch tables"],
    ) -> Float[Tensor, "batch features dim"]:
        """The composed vectors of every table, `[batch, features, dim]`."""
        c = self._constants.on(ids.device)
        bucket, word = self._buckets(ids, lookup)
        place = c["stride"] * bucket
        if self.any_neighbours:
            place = place + c["width"] * (ids[:, self._buckets.constants.on(ids.device)["column"]] % c["neighbours"])
        place = place[:, c["chunk_term"]] + c["chunk_offset"]
        if self.any_wrap:
            place = place % c["wrap"][c["chunk_term"]]
        chunks = F.embedding((c["base"][c["chunk_term"]] + place) // self.unit, memory)
        factor = self._factor(memory, lookup, ids, word, c)
        if factor is not None:
            chunks = chunks * factor[:, c["chunk_term"], None]
        return self._compose(chunks, c).reshape(ids.shape[0], self.num_features, self.dim)

    def _factor(
        self, memory: Tensor, lookup: Tensor | None, ids: Tensor, word: Tensor, c: dict[str, Tensor]
    ) -> Tensor | None:
        """What each term is multiplied by, `[batch, terms]`: signs, learned weights, both; None where all are 1."""
        factor: Tensor | None = None
        if self.any_signed:
            factor = torch.where(c["signed"], sign_bit(word), 1).to(memory.dtype)
        if self._weight_buckets is not None:
            bucket, _ = self._weight_buckets(ids, lookup)
            place = c["weight_base"] + c["weight_stride"] * bucket
            weight = F.embedding(place, memory.view(-1, 1)).squeeze(-1)
            ones = memory.new_ones(word.shape) if factor is None else factor
            factor = ones.index_copy(1, c["weight_term"], ones[:, c["weight_term"]] * weight)
        return factor

    def _compose(self, chunks: Float[Tensor, "batch chunks unit"], c: dict[str, Tensor]) -> Tensor:
        first, *later = torch.split(chunks, [len(layer.slots) for layer in self._layers], dim=1)
        composed: Tensor = first
        for index, values in enumerate(later, start=1):
            layer = self._layers[index]
            slots = c[f"slots_{index}"]
            whole = len(layer.slots) == composed.shape[1]
            old = composed if whole else composed[:, slots]
            new = old * values if layer.combine == "mul" else old + values
            composed = new if whole else composed.index_copy(1, slots, new)
        return composed


@dataclass(frozen=True)
class _Chunk:
    """`unit` floats that a term reads, and the output chunk they go to. `layer` counts earlier writers of it."""

    layer: int
    combine: Combine
    slot: int
    term: int
    offset: int


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
