"""The module that stands for tables: one memory, one gather, all tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tablefold.hashing import HASH_VERSION, derive_key
from tablefold.ops import WildIdError, look_up
from tablefold.ops.backends import is_recorded
from tablefold.ops.bags import PoolMode, can_pool, check_bags, pool_bags, pool_composed
from tablefold.ops.gather import Outside, answer_outside, are_wild
from tablefold.ops.program import LINE, program_of
from tablefold.partitions import Lookup, narrowest_integer
from tablefold.storage import Rounding, Storage, check_storage, pack, stored_bytes, unpack
from tablefold.tables import FLOAT_BYTES, full_bytes, show_bytes
from tablefold.terms import AddressMap, Region

FINGERPRINT_VERSION = 2
"""Of how addresses are fingerprinted; release 0.1 saved none, and its own fingerprint."""

SPARSE_FLOATS = 1 << 22
"""16 MB: to clear, update and read that much anew takes a few milliseconds a step."""

SPARSE_WIDTH = 4
"""Each row of a sparse gradient carries its number, 8 bytes: narrower rows would be more number than gradient."""


class EmbeddingGroup(nn.Module):
    """The module that stands for a list of tables: one memory, read by terms.

    Called with int64 ids `[batch, tables]` (int32 is taken too) it returns vectors `[batch, features, dim]`; `features`
    is the number of tables unless the method gives several vectors for one.

    Args:
        address_map: where every weight lives.
        seed: of the start values.
        device: where the memory lives; torch's default device unless given.
        dtype: of the memory; torch's default type unless given.
        transform: for methods that compute after the gather: called with the gathered vectors `[batch, features, dim]`
            and the ids, it returns the vectors, of the same shape.
        storage: the format that memory is kept and saved in, see `tablefold.storage`.
        spec: what the group is printed as, such as `qr:collisions=4`.

    Attributes:
        memory: the one learnable array, `[floats / unit, unit]`: flat memory cut into rows of the largest width that
            every address is a multiple of.
        lookup: all lookup arrays of the terms, concatenated; None without any. Part of the state dict.
        sparse: make memory's gradient a sparse tensor of the rows that a batch has read, which `tablefold.optim` and
            `torch.optim.SparseAdam` take; False at first. It pays where `sparse_pays`.
        outside: what an exported or traced program answers for an id outside its table: `nan` (at first), a vector of
            NaN; `zero`; or `unchecked`, whatever the id's address holds. Everywhere else such an id is refused.

    Raises:
        ValueError: when called with ids of another shape or type, or an id outside its table.
    """

    memory: nn.Parameter
    lookup: Tensor | None

    def __init__(
        self,
        address_map: AddressMap,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        transform: nn.Module | None = None,
        storage: Storage = "fp32",
        spec: str = "",
    ) -> None:
        super().__init__()
        check_storage(storage)
        _refuse_larger_than_full(address_map, transform)
        self.address_map = address_map
        self.tables = address_map.tables
        self.dim = self.tables[0].dim
        self.num_features = sum(address_map.features)
        self.spec = spec
        self.sparse = False
        self.outside: Outside = "nan"
        self.program = program_of(address_map)
        device = torch.get_default_device() if device is None else torch.device(device)
        memory = start_memory(address_map.regions, seed, device)
        self.memory = nn.Parameter(memory.view(-1, address_map.unit))
        lookup = lookup_array(address_map.lookups)
        self.register_buffer("lookup", torch.from_numpy(lookup) if lookup.size else None)
        self.transform = transform
        self.storage: Storage = storage
        self.rounding = None if storage == "fp32" else Rounding(storage, seed)
        self._settle()
        self.register_load_state_dict_pre_hook(_unpack_memory)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_check_state)  # type: ignore[no-untyped-call]
        if self.rounding is not None:
            self.register_state_dict_pre_hook(_settle_memory)  # type: ignore[no-untyped-call]
            self.register_state_dict_post_hook(_pack_memory)  # type: ignore[no-untyped-call]
        self.to(device, dtype=torch.get_default_dtype() if dtype is None else dtype)

    def forward(self, ids: Int[Tensor, "batch tables"]) -> Float[Tensor, "batch features dim"]:
        """The vectors of a batch, `[batch, features, dim]`."""
        self._check_kind(ids)
        self._settle()
        try:
            vectors = self.gather(self.memory, self.lookup, ids)
        except WildIdError as error:
            raise self._explain(error) from None
        if self.transform is None:
            return vectors
        computed: Tensor = self.transform(vectors, ids.to(torch.int64))
        if not is_recorded():
            return computed
        return answer_outside(self.program, computed, are_wild(self.program, ids), self.outside)

    def gather(
        self, memory: Float[Tensor, "rows unit"], lookup: Tensor | None, ids: Int[Tensor, "batch tables"]
    ) -> Float[Tensor, "batch features dim"]:
        """The vectors of a batch before `transform` computes on them, read from any memory and lookup arrays."""
        return look_up(self.program, memory, lookup, ids, sparse=self.sparse, outside=self.outside)

    def pool(
        self,
        values: Sequence[Int[Tensor, " _"]],
        offsets: Sequence[Int[Tensor, " bags"]],
        *,
        mode: PoolMode = "sum",
        weights: Sequence[Float[Tensor, " _"]] | None = None,
        counted: Sequence[Bool[Tensor, " _"]] | None = None,
    ) -> Float[Tensor, "bags features dim"]:
        """Bags of ids per table, composed and then pooled (never the other way round: a product of sums is no sum).

        Args:
            values: for each table the ids of all its bags, one bag after the other.
            offsets: for each table where in its `values` each bag begins; the first is 0. All tables have equally many.
            mode: `sum`, `mean` or `max`; an empty bag gives zeros.
            weights: for each table a factor per id, for `sum` only.
            counted: for each table which ids count; the others are left out of their bags.

        Raises:
            ValueError: where a table's lists do not fit each other, or an id is outside its table.
        """
        count = len(self.tables)
        if len(values) != count or len(offsets) != count or (weights is not None and len(weights) != count):
            raise ValueError(f"bags need values, offsets (and weights, if any) for each of the {count} tables")
        self.check_device(*values, *offsets, *(weights or ()))
        begins = check_bags(values, offsets, mode, weights)
        plain = begins.numel() and self.transform is None and counted is None
        if not plain or not can_pool(self.memory, values, mode, weights):
            return pool_composed(self, self.address_map.features, values, offsets, mode, weights, counted)
        self._settle()
        try:
            work = (self.program, self.memory, self.lookup, values, begins, mode, weights)
            return pool_bags(*work, sparse=self.sparse)
        except WildIdError as error:
            raise self._explain(error) from None

    @property
    def sparse_pays(self) -> bool:
        """Whether `sparse` gradients make steps faster: of more than 16 MB of memory, in rows not much narrower than
        the row numbers that go with them."""
        return self.memory.numel() > SPARSE_FLOATS and self.memory.shape[1] >= SPARSE_WIDTH

    def _settle(self) -> None:
        """Bring memory back onto the grid of its storage after a step; nothing to do for fp32."""
        if self.rounding is None or torch.compiler.is_exporting():
            return
        if self.memory.dtype != torch.float32:
            raise ValueError(
                f"storage={self.storage} works on float32 memory; this one is {self.memory.dtype}: leave it in "
                "float32, or build with storage='fp32'"
            )
        self.rounding.settle(self.memory)

    def _check_kind(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.shape[1] != len(self.tables):
            raise ValueError(f"ids must be [batch, {len(self.tables)}], one column per table; got {list(ids.shape)}")
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32; got {ids.dtype}")
        self.check_device(ids)

    def check_device(self, *tensors: Tensor) -> None:
        """Refuse, with `ValueError`, ids and offsets on another device than memory."""
        own = self.memory.device
        for tensor in tensors:
            if tensor.device != own and tensor.device.type != own.type:
                raise ValueError(f"ids are on {tensor.device}, memory is on {own}: move one to the other")

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
        num_bytes = sum(array.nbytes for array in held)
        if self.storage == "fp32":
            return num_bytes
        return num_bytes - self.memory.nbytes + stored_bytes(self.memory.numel(), self.storage)

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
        if chunk < 1:
            raise ValueError(f"chunk={chunk} must be at least 1 id")
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
        """What the saved weights mean: versions of the hash and of the fingerprint, and the addresses' fingerprint."""
        return torch.tensor([HASH_VERSION, FINGERPRINT_VERSION, self.address_map.fingerprint], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to restore: `_check_state` has compared it before anything was copied."""

    def extra_repr(self) -> str:
        """Method, tables, dim, bytes, and how much smaller than the full tables they are."""
        words = [self.spec] if self.spec else []
        words += [f"{len(self.tables)} tables", f"dim={self.dim}", show_bytes(self.num_bytes)]
        if all(table.rows is not None for table in self.tables):
            words.append(f"{full_bytes(self.tables) / self.num_bytes:.3g}x smaller than full")
        if self.storage != "fp32":
            words.append(f"storage={self.storage}")
        return ", ".join(words)


def start_memory(regions: Sequence[Region], seed: int, device: torch.device | str | None = None) -> Tensor:
    """Memory as training begins, `[floats]` float32: every region drawn from its `Start`, the same on every device."""
    floats = sum(region.floats for region in regions)
    if device is not None and torch.device(device).type == "meta":
        return torch.empty(floats, dtype=torch.float32, device="meta")
    memory = _room(floats)
    base = 0
    for index, region in enumerate(regions):
        generator = torch.Generator("cpu").manual_seed(derive_key(seed, index))
        values = memory[base : base + region.floats]
        half_width = math.sqrt(3) * region.start.std  # of a uniform distribution with that deviation
        values.uniform_(region.start.mean - half_width, region.start.mean + half_width, generator=generator)
        if region.start.signs:
            signs = torch.randint(0, 2, values.shape, generator=generator, dtype=torch.int8, device="cpu")
            values *= signs * 2 - 1
        if region.start.exact and region.start.mean == 0 and region.floats > 1:
            values -= values.mean()
        if region.start.exact:
            values *= math.sqrt(region.start.square / float(values.square().mean()))
        base += region.floats
    return memory if device is None else memory.to(device)


@torch.no_grad()
def scale_start(group: EmbeddingGroup, factor: float) -> None:
    """Scale the vectors that a new group composes, by scaling what of its memory they are proportional to.

    Further factors of a product, and learned weights, stay as they are: their mean square is that of a factor.
    """
    base, flat = 0, group.memory.view(-1)
    for region in group.address_map.regions:
        if not region.start.signs:
            flat[base : base + region.floats] *= factor
        base += region.floats


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


def _check_state(group: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Refuse weights of other addresses, of no floating type, or with lookup arrays that are not the terms' own."""
    assert isinstance(group, EmbeddingGroup)
    memory, lookup = state.get(f"{prefix}memory"), state.get(f"{prefix}lookup")
    if memory is not None and not memory.is_floating_point():
        raise ValueError(f"{prefix}memory is {memory.dtype} in these weights, it must be floats: the file is damaged")
    saved = state.get(f"{prefix}_extra_state")
    if saved is not None:
        _check_addresses(group, saved.tolist())
    elif memory is not None:  # where it is missing with all else, load_state_dict reports that itself
        raise ValueError(
            f"these weights have {prefix}memory but no {prefix}_extra_state, which says what addresses they are for: "
            "load the whole state_dict() of a group"
        )
    if lookup is not None and not lookup.is_meta:
        expected = torch.from_numpy(lookup_array(group.address_map.lookups))
        if lookup.dtype != expected.dtype or not torch.equal(lookup.cpu(), expected):
            raise ValueError(
                f"{prefix}lookup of these weights is not the array that the group's terms read: build it with the same "
                "metadata, or take an undamaged file"
            )


def _check_addresses(group: EmbeddingGroup, saved: Sequence[int]) -> None:
    version, *fingerprint = saved
    if version != HASH_VERSION:
        raise ValueError(
            f"these weights were saved under hash version {version}; this tablefold computes version {HASH_VERSION}: "
            "load them with the release that saved them"
        )
    known = [[FINGERPRINT_VERSION, group.address_map.fingerprint], [group.address_map.fingerprint_0_1]]
    if fingerprint not in known:
        raise ValueError(
            "these weights were saved by a group with other addresses: build it with the same method, tables and seed"
        )


def _unpack_memory(group: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(group, EmbeddingGroup)
    if group.storage != "fp32" and f"{prefix}memory" in state:
        state[f"{prefix}memory"] = unpack({"memory": state[f"{prefix}memory"]})
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
