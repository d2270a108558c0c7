"""The module that stands for tables: one memory, one gather, all tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tablefold.hashing import HASH_VERSION, derive_key
from tablefold.ops import Gather, WildIdError
from tablefold.ops.bags import can_pool, check_bags, pool_bags
from tablefold.ops.pooling import PoolMode, pool
from tablefold.ops.program import LINE
from tablefold.partitions import Lookup, narrowest_integer
from tablefold.slots import average_gradient, slot_counts
from tablefold.storage import Rounding, Storage, check_storage, pack, stored_bytes, unpack
from tablefold.tables import FLOAT_BYTES, full_bytes
from tablefold.terms import AddressMap, Region


class EmbeddingGroup(nn.Module):
    """The module that stands for a list of tables: one memory, read by terms.

    Called with int64 ids `[batch, tables]` (int32 is taken too) it returns vectors `[batch, features, dim]`; `features`
    is the number of tables unless the method gives several vectors for one.

    Args:
        address_map: where every weight lives.
        seed: of the start values.
        device: where the memory lives.
        transform: for methods that compute after the gather: called with the gathered vectors `[batch, features, dim]`
            and the ids, it returns the vectors, of the same shape.
        average_gradients: divide the gradient of each float of memory by how many weights share it.
        storage: the format that memory is kept and saved in, see `tablefold.storage`.

    Attributes:
        memory: the one learnable array, `[floats / unit, unit]`: flat memory cut into rows of the largest width that
            every address is a multiple of.
        lookup: all lookup arrays of the terms, concatenated; None without any. Part of the state dict.

    Raises:
        ValueError: when called with ids of another shape or type, or an id outside its table.
    """

    memory: nn.Parameter
    lookup: Tensor | None
    _share: Tensor | None

    def __init__(
        self,
        address_map: AddressMap,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        transform: nn.Module | None = None,
        average_gradients: bool = False,
        storage: Storage = "fp32",
    ) -> None:
        super().__init__()
        check_storage(storage)
        _refuse_larger_than_full(address_map, transform)
        self.address_map = address_map
        self.tables = address_map.tables
        self.dim = self.tables[0].dim
        self.num_features = sum(address_map.features)
        memory = start_memory(address_map.regions, seed, device)
        self.memory = nn.Parameter(memory.view(-1, address_map.unit))
        lookup = lookup_array(address_map.lookups)
        self.register_buffer("lookup", torch.from_numpy(lookup) if lookup.size else None)
        self.gather = Gather(address_map)
        self.transform = transform
        counts = torch.from_numpy(slot_counts(address_map)) if average_gradients else None
        share = None if counts is None else (1 / counts.clamp(min=1)).float().view_as(self.memory)
        self.register_buffer("_share", share, persistent=False)
        self.storage: Storage = storage
        self.rounding = None if storage == "fp32" else Rounding(storage, seed)
        self._settle()
        self.register_load_state_dict_pre_hook(_check_addresses)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_unpack_memory)  # type: ignore[no-untyped-call]
        if self.rounding is not None:
            self.register_state_dict_pre_hook(_settle_memory)  # type: ignore[no-untyped-call]
            self.register_state_dict_post_hook(_pack_memory)  # type: ignore[no-untyped-call]
        if device is not None:
            self.to(device)

    def forward(self, ids: Int[Tensor, "batch tables"]) -> Float[Tensor, "batch features dim"]:
        """The vectors of a batch, `[batch, features, dim]`."""
        self._check_kind(ids)
        self._settle()
        try:
            vectors: Tensor = self.gather(self._shared(), self.lookup, ids)
        except WildIdError as error:
            raise self._explain(error) from None
        return vectors if self.transform is None else self.transform(vectors, ids.to(torch.int64))

    def pool(
        self,
        values: Sequence[Int[Tensor, " _"]],
        offsets: Sequence[Int[Tensor, " bags"]],
        *,
        mode: PoolMode = "sum",
        weights: Sequence[Float[Tensor, " _"]] | None = None,
    ) -> Float[Tensor, "bags features dim"]:
        """Bags of ids per table, composed and then pooled (never the other way round: a product of sums is no sum).

        Args:
            values: for each table the ids of all its bags, one bag after the other.
            offsets: for each table where in its `values` each bag begins; the first is 0. All tables have equally many.
            mode: `sum`, `mean` or `max`; an empty bag gives zeros.
            weights: for each table a factor per id, for `sum` only.

        Raises:
            ValueError: where a table's lists do not fit each other, or an id is outside its table.
        """
        count = len(self.tables)
        if len(values) != count or len(offsets) != count or (weights is not None and len(weights) != count):
            raise ValueError(f"bags need values, offsets (and weights, if any) for each of the {count} tables")
        begins = check_bags(values, offsets, mode, weights)
        if not begins.numel() or self.transform is not None or not can_pool(self.memory, values, mode, weights):
            return self._pool_composed(values, offsets, mode, weights)
        self._settle()
        try:
            return pool_bags(self.gather, self._shared(), self.lookup, values, begins, mode, weights)
        except WildIdError as error:
            raise self._explain(error) from None

    def _pool_composed(
        self,
        values: Sequence[Tensor],
        offsets: Sequence[Tensor],
        mode: PoolMode,
        weights: Sequence[Tensor] | None,
    ) -> Tensor:
        """The vectors of all ids first, then what they mean together."""
        longest = max(len(ids) for ids in values)
        ids = torch.zeros(longest, len(values), dtype=torch.int64, device=self.memory.device)
        for column, table_ids in enumerate(values):
            ids[: len(table_ids), column] = table_ids
        vectors = self(ids)
        pooled = []
        for column, part in enumerate(vectors.split(self.address_map.features, dim=1)):
            table_weights = None if weights is None else weights[column]
            pooled.append(pool(part[: len(values[column])], offsets[column], mode, table_weights))
        return torch.cat(pooled, dim=1)

    def _shared(self) -> Tensor:
        """Memory, whose gradient is averaged where the spec says so."""
        return self.memory if self._share is None else average_gradient(self.memory, self._share)

    def _settle(self) -> None:
        """Bring memory back onto the grid of its storage after a step; nothing to do for fp32."""
        if self.rounding is not None and not torch.compiler.is_exporting():
            self.rounding.settle(self.memory)

    def _check_kind(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.shape[1] != len(self.tables):
            raise ValueError(f"ids must be [batch, {len(self.tables)}], one column per table; got {list(ids.shape)}")
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32; got {ids.dtype}")

    def _explain(self, wild: WildIdError) -> ValueError:
        table = self.tables[wild.column]
        return ValueError(
            f"table {table.name!r}: id {wild.id} (example {wild.example} of the batch) is outside "
            f"0 .. {table.vocabulary - 1}; declare more rows, or map unseen values to an id of their own"
        )

    @property
    def num_bytes(self) -> int:
        """Every byte the group is saved in: memory in its storage, other parameters, lookup arrays.

        The description of the terms (a few numbers each, rebuilt from the spec) is not counted.
        """
        held = [*self.parameters(), *([] if self.lookup is None else [self.lookup])]
        saved = stored_bytes(self.memory.numel(), self.storage) - self.memory.nbytes
        return saved + sum(array.nbytes for array in held)

    @property
    def num_parameters(self) -> int:
        """Learnable floats."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def unfold(self, name: str, chunk: int = 65_536) -> Float[Tensor, "rows ..."]:
        """The full table that the group stands for: row i is the vector of id i.

        Args:
            name: the table's name.
            chunk: ids composed at a time.

        Returns:
            `[rows, dim]`; `[rows, features, dim]` where the method gives several vectors for one id.

        Raises:
            ValueError: for an unknown name or an open vocabulary.
        """
        column = self.address_map.index(name)
        rows = self.tables[column].vocabulary
        first = sum(self.address_map.features[:column])
        features = self.address_map.features[column]
        full = self.memory.new_empty(rows, features, self.dim)
        for begin in range(0, rows, chunk):
            end = min(begin + chunk, rows)
            ids = torch.zeros(end - begin, len(self.tables), dtype=torch.int64, device=self.memory.device)
            ids[:, column] = torch.arange(begin, end, device=self.memory.device)
            full[begin:end] = self(ids)[:, first : first + features]
        return full.squeeze(1) if features == 1 else full

    def get_extra_state(self) -> Tensor:
        """What the saved weights mean: hash version and address fingerprint, checked when they are loaded."""
        return torch.tensor([HASH_VERSION, self.address_map.fingerprint])

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to restore: `_check_addresses` has compared it before anything was copied."""

    def extra_repr(self) -> str:
        """Tables, dim and bytes."""
        return f"{len(self.tables)} tables, dim={self.dim}, {self.num_bytes} bytes"


def start_memory(regions: Sequence[Region], seed: int, device: torch.device | str | None = None) -> Tensor:
    """Memory as training begins, `[floats]` float32: every region drawn from its `Start`, the same on every device."""
    floats = sum(region.floats for region in regions)
    if device is not None and torch.device(device).type == "meta":
        return torch.empty(floats, device="meta")
    memory = _room(floats)
    base = 0
    for index, region in enumerate(regions):
        generator = torch.Generator().manual_seed(derive_key(seed, index))
        values = memory[base : base + region.floats]
        half_width = math.sqrt(3) * region.start.std  # of a uniform distribution with that deviation
        values.uniform_(region.start.mean - half_width, region.start.mean + half_width, generator=generator)
        if region.start.signs:
            values *= torch.randint(0, 2, values.shape, generator=generator, dtype=torch.int8) * 2 - 1
        if region.start.exact and region.start.mean == 0 and region.floats > 1:
            values -= values.mean()
        if region.start.exact:
            values *= math.sqrt(region.start.square / float(values.square().mean()))
        base += region.floats
    return memory if device is None else memory.to(device)


def _room(floats: int) -> Tensor:
    """Room for so many float32, from the start of a cache line.

    numpy asks the system for large pages, torch does not: where each of the rows that a batch reads from gigabytes lies
    on a page of its own, finding the pages takes as long as the rows.
    """
    array = np.empty(floats + LINE, dtype=np.float32)
    first = -(array.ctypes.data // FLOAT_BYTES) % LINE
    return torch.from_numpy(array[first : first + floats])


def lookup_array(lookups: Sequence[Lookup]) -> np.ndarray[Any, Any]:
    """All lookup arrays end to end, in the narrowest integer type that holds them; empty where there are none."""
    if not lookups:
        return np.empty(0, dtype=np.uint8)
    highest = max(int(lookup.buckets.max()) for lookup in lookups)
    return np.concatenate([lookup.buckets for lookup in lookups]).astype(narrowest_integer(highest))


def _refuse_larger_than_full(address_map: AddressMap, transform: nn.Module | None) -> None:
    if any(table.rows is None for table in address_map.tables):
        return
    full = full_bytes(address_map.tables)
    folded = address_map.floats * FLOAT_BYTES + lookup_array(address_map.lookups).nbytes
    if transform is not None:
        folded += sum(parameter.nbytes for parameter in transform.parameters())
    if folded > full:
        raise ValueError(
            f"the fold would take {folded} bytes, more than the full tables' {full}: choose a smaller size, or keep "
            "small tables full with a threshold"
        )


def _check_addresses(group: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(group, EmbeddingGroup)
    saved = state.get(f"{prefix}_extra_state")
    if saved is None:
        return  # a missing key: load_state_dict reports it itself
    version, fingerprint = (int(value) for value in saved)
    if version != HASH_VERSION:
        raise ValueError(
            f"these weights were saved under hash version {version}; this tablefold computes version {HASH_VERSION}: "
            "load them with the release that saved them"
        )
    if fingerprint != group.address_map.fingerprint:
        raise ValueError(
            "these weights were saved by a group with other addresses: build it with the same method, tables and seed"
        )


def _unpack_memory(group: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    names = ("memory_codes", "memory_exponents")
    if all(f"{prefix}{name}" in state for name in names):
        state[f"{prefix}memory"] = unpack({name: state.pop(f"{prefix}{name}") for name in names})


def _settle_memory(group: nn.Module, *_: Any) -> None:
    assert isinstance(group, EmbeddingGroup)
    group._settle()


def _pack_memory(group: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(group, EmbeddingGroup)
    memory = state.pop(f"{prefix}memory")
    state.update({f"{prefix}{name}": values for name, values in pack(memory, group.storage).items()})
