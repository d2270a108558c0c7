"""Methods and the groups they build. Read this first.

A `Method` is a frozen spec: how tables are represented, and at what size. It emits terms over one memory
(`address_map`), and from these everything else follows: how many bytes it promises, the module it builds, whether every
id is unique, which size meets a budget. Its text form, `qr:collisions=4,combine=mul`, is used everywhere: on the
command line, in results and in plots.

An `EmbeddingGroup` is the module: one memory, one gather, all tables.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tablefold import spec
from tablefold.hashing import HASH_VERSION, derive_key
from tablefold.ops import Gather
from tablefold.partitions import narrowest_integer
from tablefold.tables import FLOAT_BYTES, TableSpec, check_tables, full_bytes
from tablefold.terms import AddressMap, Region


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
    size_options: ClassVar[tuple[str, ...]] = ()
    """The options that set the size, of which one is given; `for_budget` sets the first and clears the others."""

    @abstractmethod
    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """The terms and memory of `tables`; `seed` moves hashed addresses.

        Raises:
            ValueError: where an option does not fit the tables.
        """

    def size_range(self, tables: Sequence[TableSpec]) -> tuple[int, int]:
        """The smallest and largest useful value of the first size option for `tables`; bytes grow with it."""
        raise NotImplementedError  # only reached by a method with size options

    def num_parameters(self, tables: Sequence[TableSpec]) -> int:
        """Learnable floats that `build(tables)` will allocate. Nothing is allocated to find out."""
        return self.address_map(tables).floats

    def num_bytes(self, tables: Sequence[TableSpec]) -> int:
        """Bytes that `build(tables)` will hold: learnable floats (float32) and lookup arrays."""
        lookups = self.address_map(tables).lookups
        return self.num_parameters(tables) * FLOAT_BYTES + _lookup_array(lookups).nbytes

    def smallest_bytes(self, tables: Sequence[TableSpec]) -> int:
        """Bytes for `tables` at the smallest size: no budget below it can be met."""
        smallest = self._sized(self.size_range(tables)[0]) if self.size_options else self
        return smallest.num_bytes(tables)

    def for_budget(self, tables: Sequence[TableSpec], num_bytes: int) -> Self:
        """This method at the largest size whose bytes for `tables` stay within `num_bytes`.

        Raises:
            ValueError: if even the smallest size is larger; names the smallest budget possible.

        >>> from tablefold import Hash, TableSpec
        >>> str(Hash().for_budget([TableSpec("user", rows=1_000_000, dim=16)], num_bytes=64_000))
        'hash:max_rows=1000'
        """
        tables = check_tables(tables)
        if (smallest := self.smallest_bytes(tables)) > num_bytes:
            raise ValueError(
                f"a budget of {num_bytes} bytes is below the smallest possible for {self.name}, {smallest} bytes: "
                "raise the budget, or choose another method"
            )
        if not self.size_options:
            return self
        low, high = self.size_range(tables)
        while low < high:
            middle = (low + high + 1) // 2
            if self._sized(middle).num_bytes(tables) <= num_bytes:
                low = middle
            else:
                high = middle - 1
        return self._sized(low)

    def _sized(self, size: int) -> Self:
        cleared: dict[str, Any] = dict.fromkeys(self.size_options)
        return replace(self, **{**cleared, self.size_options[0]: size})

    def build(
        self, tables: Sequence[TableSpec], seed: int = 0, *, device: torch.device | str | None = None
    ) -> EmbeddingGroup:
        """The module that stands for `tables`.

        Args:
            tables: all of one `dim`.
            seed: of hashed addresses and start values; equal seeds give equal groups on every device.
            device: where the memory lives; "meta" allocates nothing.

        Raises:
            ValueError: where an option does not fit the tables, or the fold would take more bytes than the full tables.
        """
        tables = check_tables(tables)
        return EmbeddingGroup(self.address_map(tables, seed), seed=seed, device=device)

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
        kind = _method_class(str(options.pop("method")))
        spec.check_names(kind, kind.name, options)
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        return kind(**lists)


def all_methods() -> dict[str, type[Method]]:
    """Every method of `tablefold.methods` by name: a new file there is all it takes to be listed."""
    package = importlib.import_module("tablefold.methods")
    found: dict[str, type[Method]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Method) and "name" in vars(kind):
                found[kind.name] = kind
    return found


def parse(text: str) -> Method:
    """The method that a spec string names: `name:option=value,option=value`.

    Raises:
        ValueError: for an unknown method or option (with the nearest known one), or a value that does not fit.

    >>> parse("robe:block=16")
    Robe(block=16, sign=False, floats=None)
    """
    name, _, options = text.partition(":")
    kind = _method_class(name.strip())
    return kind(**spec.read(kind, kind.name, options))


def _method_class(name: str) -> type[Method]:
    known = all_methods()
    if name not in known:
        raise ValueError(f"no method {name!r}{spec.nearest(name, known)}; methods: {', '.join(sorted(known))}")
    return known[name]


class EmbeddingGroup(nn.Module):
    """The module that stands for a list of tables: one memory, read by terms.

    Called with int64 ids `[batch, tables]` (int32 is taken too) it returns vectors `[batch, features, dim]`; `features`
    is the number of tables unless the method gives several vectors for one.

    Args:
        address_map: where every weight lives.
        seed: of the start values.
        device: where the memory lives.

    Attributes:
        memory: the one learnable array, `[floats / unit, unit]`: flat memory cut into rows of the largest width that
            every address is a multiple of.
        lookup: all lookup arrays of the terms, concatenated; None without any. Part of the state dict.

    Raises:
        ValueError: when called with ids of another shape or type, or an id outside its table.
    """

    memory: nn.Parameter
    lookup: Tensor | None
    _rows: Tensor

    def __init__(self, address_map: AddressMap, *, seed: int = 0, device: torch.device | str | None = None) -> None:
        super().__init__()
        _refuse_larger_than_full(address_map)
        self.address_map = address_map
        self.tables = address_map.tables
        self.dim = self.tables[0].dim
        self.num_features = sum(address_map.features)
        memory = start_memory(address_map.regions, seed, device)
        self.memory = nn.Parameter(memory.view(-1, address_map.unit))
        lookup = _lookup_array(address_map.lookups)
        self.register_buffer("lookup", torch.from_numpy(lookup) if lookup.size else None)
        self.gather = Gather(address_map)
        limits = [0 if table.rows is None else table.rows for table in self.tables]
        self.register_buffer("_rows", torch.tensor(limits), persistent=False)
        self.register_load_state_dict_pre_hook(_check_addresses)  # type: ignore[no-untyped-call]
        if device is not None:
            self.to(device)

    def forward(self, ids: Int[Tensor, "batch tables"]) -> Float[Tensor, "batch features dim"]:
        """The vectors of a batch, `[batch, features, dim]`."""
        # Tracers cannot branch on data; a traced model's ids are checked by whoever feeds it.
        if not torch.compiler.is_compiling():
            self._check(ids)
        vectors: Tensor = self.gather(self.memory, self.lookup, ids.to(torch.int64))
        return vectors

    def _check(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.shape[1] != len(self.tables):
            raise ValueError(f"ids must be [batch, {len(self.tables)}], one column per table; got {list(ids.shape)}")
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32; got {ids.dtype}")
        wild = ((ids < 0) | (ids >= self._rows)) & (self._rows > 0)
        if bool(wild.any()):
            place, column = (int(index) for index in wild.nonzero()[0])
            table = self.tables[column]
            raise ValueError(
                f"table {table.name!r}: id {int(ids[place, column])} (example {place} of the batch) is outside "
                f"0 .. {table.vocabulary - 1}; declare more rows, or map unseen values to an id of their own"
            )

    @property
    def num_bytes(self) -> int:
        """Every byte the group holds: memory and lookup arrays.

        The description of the terms (a few numbers each, rebuilt from the spec) is not counted.
        """
        held = [*self.parameters(), *([] if self.lookup is None else [self.lookup])]
        return sum(array.nbytes for array in held)

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
    memory = torch.empty(floats)
    base = 0
    for index, region in enumerate(regions):
        generator = torch.Generator().manual_seed(derive_key(seed, index))
        values = memory[base : base + region.floats]
        half_width = math.sqrt(3) * region.start.std  # of a uniform distribution with that deviation
        values.uniform_(region.start.mean - half_width, region.start.mean + half_width, generator=generator)
        if region.start.signs:
            values *= torch.randint(0, 2, values.shape, generator=generator, dtype=torch.int8) * 2 - 1
        if region.start.exact:
            values *= math.sqrt(region.start.square / float(values.square().mean()))
        base += region.floats
    return memory if device is None else memory.to(device)


def _lookup_array(lookups: Sequence[Any]) -> np.ndarray[Any, Any]:
    if not lookups:
        return np.empty(0, dtype=np.uint8)
    highest = max(int(lookup.buckets.max()) for lookup in lookups)
    return np.concatenate([lookup.buckets for lookup in lookups]).astype(narrowest_integer(highest))


def _refuse_larger_than_full(address_map: AddressMap) -> None:
    if any(table.rows is None for table in address_map.tables):
        return
    full = full_bytes(address_map.tables)
    folded = address_map.floats * FLOAT_BYTES + _lookup_array(address_map.lookups).nbytes
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
