"""The module that stands for tables: one memory, one gather, all tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tablefold.formats import FP32
from tablefold.formats.pages import in_large_pages
from tablefold.hashing import HASH_VERSION, derive_key
from tablefold.ops import WildIdError, look_up
from tablefold.ops.backends import is_recorded, is_transformed
from tablefold.ops.bags import PoolMode, can_pool, check_bags, pool_bags, pool_composed
from tablefold.ops.gather import Memory, Outside, answer_outside, are_wild, read_type, refuse_gradients
from tablefold.ops.program import program_of
from tablefold.ops.reference import check_master, starts_of
from tablefold.partitions import Edges, FoundEdges, Lookup, Pointers, narrowest_integer
from tablefold.starts import Start
from tablefold.tables import common_dim, full_bytes, show_bytes
from tablefold.terms import AddressMap, Array

FINGERPRINT_VERSION = 2
"""Of how addresses are fingerprinted; release 0.1 saved none, and its own fingerprint."""

SPARSE_FLOATS = 1 << 22
"""16 MB: to clear, update and read that much anew takes a few milliseconds a step."""

SPARSE_ARRAY = 1 << 20
"""Floats of an array, of several that have so many together: an id reads one of them, or few."""

SPARSE_WIDTH = 4
"""Each row of a sparse gradient carries its number, 8 bytes: narrower rows, several at a read, would be more number
than gradient."""


class EmbeddingGroup(nn.Module):
    """The module that stands for a list of tables: one memory, read by terms.

    Called with int64 ids `[batch, tables]` (int32 is taken too) it returns vectors `[batch, features, dim]`; `features`
    is the number of tables unless the method gives several vectors for one.

    Args:
        address_map: where every weight lives, and in how many bits.
        seed: of the start values.
        device: where the memory lives; torch's default device unless given.
        dtype: of the memory; torch's default type unless given. float32 where memory is kept in fewer bits.
        transform: for methods that compute after the gather: called with the gathered vectors `[batch, features, dim]`
            and the ids, it returns the vectors, of the same shape.
        spec: what the group is printed as, such as `qr:collisions=4`.

    Attributes:
        memory: the learnable arrays `[rows, width]` by name, such as `rows_16`: one for each role, width and format,
            the tables stacked in it. Where the format is in few bits this is the float32 master, until `freeze()`.
        lookup: all lookup arrays of the terms, concatenated; None without any. Part of the state dict.
        edges: all edges of the terms, likewise.
        sparse: make memory's gradients sparse tensors of the rows that a batch has read, which `tablefold.optim` and
            `torch.optim.SparseAdam` take; `"auto"` does so for the arrays where it makes steps faster. Those of
            projections, which every id reads whole, stay dense. False at first.
        outside: what an exported or traced program answers for an id outside its table: `nan` (at first), a vector of
            NaN; `zero`; or `unchecked`, whatever the id's address holds. Everywhere else such an id is refused.

    Raises:
        ValueError: when called with ids of another shape or type, or an id outside its table.
    """

    memory: nn.ParameterDict
    lookup: Tensor | None
    edges: Tensor | None

    def __init__(
        self,
        address_map: AddressMap,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        transform: nn.Module | None = None,
        spec: str = "",
    ) -> None:
        super().__init__()
        _refuse_larger_than_full(address_map, transform)
        self.address_map = address_map
        self.tables = address_map.tables
        self.dims = {table.dim for table in self.tables}
        self.num_features = sum(address_map.features)
        self.spec = spec
        self.sparse: bool | Literal["auto"] = False
        self.outside: Outside = "nan"
        self._is_frozen = False
        self._sparse_pays = sparse_pays(address_map)
        self.program = program_of(address_map)
        device = torch.get_default_device() if device is None else torch.device(device)
        memory = start_memory(address_map, seed, device)
        self.memory = nn.ParameterDict(memory.items())  # which would sort the keys of a dict
        for name, index in index_arrays(address_map).items():
            self.register_buffer(name, torch.from_numpy(index) if index.size else None)
        self.transform = transform
        self._loads: list[str] | None = None
        self._absent: str | None = None
        self.register_state_dict_post_hook(_save_once)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_forgive_absence)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_note_load)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_take_over)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_check_state)  # type: ignore[no-untyped-call]
        self.to(device, dtype=torch.get_default_dtype() if dtype is None else dtype)
        for array, own in zip(address_map.arrays, self.arrays, strict=True):
            check_master(array, own)

    def forward(self, ids: Int[Tensor, "batch tables"]) -> Float[Tensor, "batch features dim"]:
        """The vectors of a batch, `[batch, features, dim]`."""
        arrays = self.arrays
        self._check_kind(ids, arrays[0].device)
        if len(self.dims) > 1:
            _ = self.dim  # which says why there is none
        try:
            indices = self._buffers  # see `arrays`
            vectors = self.gather(arrays, indices["lookup"], ids, indices["edges"])
        except WildIdError as error:
            raise self._explain(error) from None
        if self.transform is None:
            return vectors
        computed: Tensor = self.transform(vectors, ids.to(torch.int64))
        if not is_recorded():
            return computed
        return answer_outside(self.program, computed, are_wild(self.program, ids), self.outside)

    def place_edges(self, edges: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Set the edges that a clustering has found, by their names; the others stay.

        Raises:
            ValueError: for edges that are not as many as there are, or do not rise within the ids.
        """
        for each, first in starts_of(self.address_map.edges).items():
            if not isinstance(each, FoundEdges) or each.name not in edges:
                continue
            found = np.asarray(edges[each.name], dtype=np.int64)
            if not each.takes(found):
                raise ValueError(
                    f"edges {each.name!r} must be {len(each.firsts)} that rise from 1 to {each.rows - 1} at most; got "
                    f"{len(found)}"
                )
            assert self.edges is not None
            if not self.edges.is_meta:
                self.edges[first : first + len(found)] = torch.from_numpy(found).to(self.edges)

    @property
    def dim(self) -> int:
        """Floats of one vector.

        Raises:
            ValueError: where the tables' dims differ.
        """
        return common_dim(self.tables, "one tensor of all tables' vectors (group[name] gives those of one)")

    def __getitem__(self, name: str) -> TableView:
        """The module of one table, by its name; `ValueError` where there is none.

        >>> import torch
        >>> from tablefold import TableSpec, parse
        >>> group = parse("full").build([TableSpec("user", 1000, 16), TableSpec("country", 20, 4)])
        >>> group["country"](torch.tensor([[3, 19]])).shape
        torch.Size([1, 2, 4])
        """
        return TableView(self, name)

    def view(self, names: Sequence[str]) -> TablesView:
        """The module of some tables of one dim; `ValueError` for a name that is not there, or dims that differ."""
        return TablesView(self, names)

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        """The arrays of `memory`, in the order of the address map's."""
        # Attributes of modules take a microsecond each, a tenth of the lookup of one example.
        return tuple(self._modules["memory"]._parameters.values())  # type: ignore[union-attr, arg-type]

    def param_groups(self) -> list[dict[str, Any]]:
        """The parameters as an optimiser takes them, a group for each array and one for the transform's.

        Each says what it is: `name`, and `role` ("rows" of vectors, learned "weights", "projections", "transform"), so
        that they can be given learning rates of their own.

        >>> import torch
        >>> from tablefold import TableSpec, parse
        >>> group = parse("hash_embeddings:floats=1000").build([TableSpec("user", 10_000, 16)])
        >>> rates = {"rows": 1e-2, "weights": 1e-3}
        >>> optimizer = torch.optim.SGD([{**each, "lr": rates[each["role"]]} for each in group.param_groups()])
        """
        arrays = zip(self.address_map.arrays, self.arrays, strict=True)
        groups = [{"params": [memory], "name": array.name, "role": array.role} for array, memory in arrays]
        if self.transform is not None:
            groups.append({"params": list(self.transform.parameters()), "name": "transform", "role": "transform"})
        return groups

    @property
    def device(self) -> torch.device:
        """Where memory is."""
        return self.arrays[0].device

    @property
    def is_frozen(self) -> bool:
        """Whether `freeze()` was called: memory is packed and learns no more."""
        return self._is_frozen

    def freeze(self) -> EmbeddingGroup:
        """Keep memory as its formats pack it, and drop the float32 masters; it learns no more. Returns the group.

        What is read stays the same, to the bit. An optimiser that was made before still holds the masters.
        """
        for array, memory in zip(self.address_map.arrays, self.arrays, strict=True):
            packed = self.packed(array, memory.detach())
            self.memory[array.name] = nn.Parameter(packed, requires_grad=False)
        self._is_frozen = True
        return self

    def packed(self, array: Array, memory: Tensor) -> Tensor:
        """An array as its format packs it, which it may be already."""
        packed = array.format.packed_like(*array.shape)
        if array.format == FP32 or memory.dtype == packed.dtype:
            return memory
        return packed if memory.is_meta else array.format.encode(memory)

    def adopt(self, state: dict[str, Any], prefix: str = "") -> None:
        """Turn weights that were saved otherwise into this group's, in place: those of release 0.1; masters into packed
        arrays, or the other way round. `load_state_dict` begins with it.

        Args:
            state: a state dict.
            prefix: of the group's names in it, such as `group.`.

        Raises:
            ValueError: for weights that hold another number of floats.
        """
        state.update({f"{prefix}memory.{name}": array for name, array in _memory_0_1(self, state, prefix).items()})
        _adopt_packed(self, state, prefix)

    def gather(
        self, memory: Memory, lookup: Tensor | None, ids: Int[Tensor, "batch tables"], edges: Tensor | None = None
    ) -> Float[Tensor, "batch features dim"]:
        """The vectors of a batch before `transform` computes on them, read from any memory, lookup arrays and edges."""
        sparse = self._sparse_arrays(self.address_map.arrays)
        vectors = look_up(self.program, memory, lookup, ids, edges, sparse=sparse, outside=self.outside)
        return self._refusing(vectors)

    def _refusing(self, vectors: Tensor) -> Tensor:
        """Vectors whose gradient is refused, where somebody could want one of frozen memory."""
        refuses = self._wants_gradients and not vectors.requires_grad
        return refuse_gradients(vectors) if refuses and not (is_recorded() or is_transformed()) else vectors

    @property
    def _wants_gradients(self) -> bool:
        """Whether somebody could ask for gradients of memory that is frozen."""
        return self.training and torch.is_grad_enabled() and self.is_frozen

    def _sparse_arrays(self, arrays: Sequence[Array]) -> Sequence[bool]:
        if self.sparse is False or self._is_frozen:
            return ()
        if self.sparse is True:
            return [array.role != "projections" for array in arrays]
        return [array.name in self._sparse_pays for array in arrays]

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
        if not plain or self._wants_gradients or not can_pool(self.program, self.arrays, values, mode, weights):
            return pool_composed(self, self.address_map.features, values, offsets, mode, weights, counted)
        try:
            work = (self.program, self.arrays, self.lookup, self.edges, values, begins, mode, weights)
            return pool_bags(*work, sparse=self._sparse_arrays(self.address_map.arrays))
        except WildIdError as error:
            raise self._explain(error) from None

    def _check_kind(self, ids: Tensor, device: torch.device) -> None:
        if ids.ndim != 2 or ids.shape[1] != len(self.tables):
            raise ValueError(f"ids must be [batch, {len(self.tables)}], one column per table; got {list(ids.shape)}")
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32; got {ids.dtype}")
        _check_device(device, ids)

    def check_device(self, *tensors: Tensor) -> None:
        """Refuse, with `ValueError`, ids and offsets on another device than memory."""
        _check_device(self.device, *tensors)

    def _explain(self, wild: WildIdError) -> ValueError:
        table = self.tables[wild.column]
        return ValueError(
            f"table {table.name!r}: id {wild.id} (example {wild.example} of the batch) is outside "
            f"0 .. {table.vocabulary - 1}; declare more rows, or map unseen values to an id of their own"
        )

    @property
    def num_bytes(self) -> int:
        """Every byte that the group ships: memory in its formats, other parameters, lookup arrays, edges.

        The description of the terms (a few numbers each, rebuilt from the spec) is not counted.
        """
        held: list[Tensor] = [] if self.transform is None else list(self.transform.parameters())
        held += [array for array in (self.lookup, self.edges) if array is not None]
        memory = zip(self.address_map.arrays, self.arrays, strict=True)
        own = sum(each.nbytes if array.format == FP32 else array.num_bytes for array, each in memory)
        return own + sum(array.nbytes for array in held)

    @property
    def num_parameters(self) -> int:
        """Learnable floats, as many as the masters hold where memory is packed."""
        other = [] if self.transform is None else self.transform.parameters()
        return self.address_map.floats + sum(parameter.numel() for parameter in other)

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
        view = self[name]
        rows = view.table.vocabulary
        shape = (view.features, view.table.dim)
        full = torch.empty(rows, *shape, dtype=read_type(self.arrays), device=self.device)
        for begin in range(0, rows, chunk):
            end = min(begin + chunk, rows)
            full[begin:end] = view(torch.arange(begin, end, device=self.device)).view(-1, *shape)
        return full.squeeze(1) if view.features == 1 else full

    def get_extra_state(self) -> Tensor:
        """What the saved weights mean: versions of the hash and of the fingerprint, and the addresses' fingerprint."""
        return torch.tensor([HASH_VERSION, FINGERPRINT_VERSION, self.address_map.fingerprint], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to restore: `_check_state` has compared it before anything was copied."""

    def extra_repr(self) -> str:
        """Method, tables, dim, bytes, and how much smaller than the full tables they are."""
        words = [self.spec] if self.spec else []
        words += [
            f"{len(self.tables)} tables",
            f"dim={', '.join(map(str, sorted(self.dims)))}",
            show_bytes(self.num_bytes),
        ]
        if all(table.rows is not None for table in self.tables):
            words.append(f"{full_bytes(self.tables) / self.num_bytes:.3g}x smaller than full")
        formats = {array.format.name for array in self.address_map.arrays} - {FP32.name}
        words += [f"in {name}" for name in sorted(formats)]
        return ", ".join(words)


class TablesView(nn.Module):
    """The module of some tables of a group: ids `[batch, tables]` in, their vectors out, `[batch, features, dim]`.

    It owns nothing: its weights are the group's, and so are their gradients, whoever else reads them. In a model that
    has several views of a group, each weight is one parameter for `parameters()` and one entry of the state dict, under
    the first view. FSDP must take them all in one unit (`fully_shard` of the module that has them): torch refuses to
    shard the second view for itself.

    Args:
        group: has the tables.
        names: the tables' names, in the order of the columns of ids. Their dims are equal.

    Raises:
        ValueError: for a name that the group does not have, or dims that differ; when called, as the group.

    >>> import torch
    >>> from tablefold import TableSpec, parse
    >>> group = parse("full").build([TableSpec("user", 50, 8), TableSpec("age", 7, 1), TableSpec("city", 20, 8)])
    >>> TablesView(group, ["city", "user"])(torch.tensor([[19, 3]])).shape
    torch.Size([1, 2, 8])
    """

    def __init__(self, group: EmbeddingGroup, names: Sequence[str]) -> None:
        super().__init__()
        self.group = group
        self.columns = [group.address_map.index(name) for name in names]
        self.tables = tuple(group.tables[column] for column in self.columns)
        self.dim = common_dim(self.tables, "one tensor of these tables' vectors")
        self.num_features = sum(group.address_map.features[column] for column in self.columns)
        address_map = group.address_map.only(*names)
        self.program = program_of(address_map)
        self._arrays = tuple(array.name for array in address_map.arrays)
        self._lookups = _spans(group.address_map.lookups, address_map.lookups)
        self._edges = _spans(group.address_map.edges, address_map.edges)

    def forward(self, ids: Int[Tensor, "batch tables"]) -> Float[Tensor, "batch features dim"]:
        """The vectors of a batch, `[batch, features, dim]`."""
        if ids.ndim != 2 or ids.shape[1] != len(self.tables):
            raise ValueError(f"ids must be [batch, {len(self.tables)}], one column per table; got {list(ids.shape)}")
        return self._read(ids)

    def _read(self, ids: Int[Tensor, "batch tables"]) -> Float[Tensor, "batch features dim"]:
        group = self.group
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32; got {ids.dtype}")
        _check_device(group.device, ids)
        try:
            return self._of_all(ids) if group.transform is not None else self._own(ids)
        except WildIdError as error:
            raise group._explain(WildIdError(error.id, error.example, self.columns[error.column])) from None

    def _own(self, ids: Int[Tensor, "batch tables"]) -> Float[Tensor, "batch features dim"]:
        """By reading what these tables read alone."""
        group = self.group
        memory = [group.memory[name] for name in self._arrays]
        sparse = group._sparse_arrays(self.program.arrays)
        lookup, edges = _taken(group.lookup, self._lookups), _taken(group.edges, self._edges)
        vectors = look_up(self.program, memory, lookup, ids, edges, sparse=sparse, outside=group.outside)
        return group._refusing(vectors)

    def _of_all(self, ids: Int[Tensor, "batch tables"]) -> Float[Tensor, "batch features dim"]:
        """By way of the group, whose transform computes on the vectors of all its tables."""
        all_ids = ids.new_zeros(ids.shape[0], len(self.group.tables))
        all_ids[:, self.columns] = ids
        features = self.group.address_map.features
        first = [sum(features[:column]) for column in self.columns]
        places = [
            place for at, column in zip(first, self.columns, strict=True) for place in range(at, at + features[column])
        ]
        vectors: Tensor = self.group(all_ids)
        return vectors[:, places[0] : places[-1] + 1] if _is_run(places) else vectors[:, places]

    def extra_repr(self) -> str:
        """Each table's name, rows and dim."""
        return "; ".join(f"{table.name!r}, {table.rows}, {table.dim}" for table in self.tables)


class TableView(TablesView):
    """The module of one table of a group: ids of any shape in, their vectors out, `[*shape, dim]`.

    Args:
        group: has the table.
        name: the table's name.

    Raises:
        ValueError: for a name that the group does not have; when called, as the group.
    """

    def __init__(self, group: EmbeddingGroup, name: str) -> None:
        super().__init__(group, [name])
        (self.table,) = self.tables
        self.features = self.num_features

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:
        """The vectors of ids, `[*shape, dim]`; `[*shape, features, dim]` where the method gives several for one id."""
        vectors = self._read(ids.reshape(-1, 1))
        shape = ids.shape if self.features == 1 else (*ids.shape, self.features)
        return vectors.reshape(*shape, self.table.dim)


def _is_run(places: Sequence[int]) -> bool:
    return list(places) == list(range(places[0], places[0] + len(places)))


def _spans(
    arrays: Sequence[Lookup] | Sequence[Edges], wanted: Sequence[Lookup] | Sequence[Edges]
) -> list[tuple[int, int]]:
    """(first entry, entries) of some of the arrays that lie end to end."""
    starts = starts_of(arrays)
    return [(starts[each], len(each.array)) for each in wanted]


def _taken(arrays: Tensor | None, spans: Sequence[tuple[int, int]]) -> Tensor | None:
    """Some of the arrays that lie end to end, end to end."""
    if arrays is None or not spans:
        return None
    parts = [arrays[start : start + entries] for start, entries in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _check_device(own: torch.device, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.device != own and tensor.device.type != own.type:
            raise ValueError(f"ids are on {tensor.device}, memory is on {own}: move one to the other")


def sparse_pays(address_map: AddressMap) -> frozenset[str]:
    """The arrays whose sparse gradients make steps faster: where all take more than 16 MB, those of more than 4 MB in
    rows that are read one at a time, or are not much narrower than the row numbers that go with them."""
    arrays = [array for array in address_map.arrays if array.role != "projections"]
    if sum(array.floats for array in arrays) <= SPARSE_FLOATS:
        return frozenset()
    large = [array for array in arrays if array.floats > SPARSE_ARRAY]
    return frozenset(
        array.name for array in large if array.name in address_map.read_singly or array.width >= SPARSE_WIDTH
    )


def start_memory(address_map: AddressMap, seed: int, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """Memory as training begins, float32 `[rows, width]` by the arrays' names: every region drawn from its `Start`, the
    same on every device."""
    device = torch.device("cpu" if device is None else device)
    if device.type == "meta":
        return {
            array.name: torch.empty(array.shape, dtype=torch.float32, device=device) for array in address_map.arrays
        }
    memory = {}
    for array in address_map.arrays:
        memory[array.name] = in_large_pages(FP32.packed_like(*array.shape), torch.device("cpu"))
        flat, base = memory[array.name].view(-1), 0
        for number in array.regions:
            region = address_map.regions[number]
            generator = torch.Generator("cpu").manual_seed(derive_key(seed, number))
            _draw(flat[base : base + region.floats], region.start, generator)
            base += region.floats
    return {name: values.to(device) for name, values in memory.items()}


def _draw(values: Tensor, start: Start, generator: torch.Generator) -> None:
    half_width = math.sqrt(3) * start.std  # of a uniform distribution with that deviation
    values.uniform_(start.mean - half_width, start.mean + half_width, generator=generator)
    if start.signs:
        signs = torch.randint(0, 2, values.shape, generator=generator, dtype=torch.int8, device="cpu")
        values *= signs * 2 - 1
    if start.exact and start.mean == 0 and values.numel() > 1:
        values -= values.mean()
    if start.exact:
        values *= math.sqrt(start.square / float(values.square().mean()))


@torch.no_grad()
def scale_start(group: EmbeddingGroup, factor: float) -> None:
    """Scale the vectors that a new group composes, by scaling what of its memory they are proportional to.

    Further factors of a product, learned weights and projections stay as they are: they only turn what others begin as.
    """
    regions = group.address_map.regions
    for array, memory in zip(group.address_map.arrays, group.arrays, strict=True):
        flat, base = memory.view(-1), 0
        for number in array.regions:
            if not regions[number].start.signs and array.role != "projections":
                flat[base : base + regions[number].floats] *= factor
            base += regions[number].floats


def lookup_array(lookups: Sequence[Lookup]) -> np.ndarray[Any, Any]:
    """All lookup arrays end to end, in the narrowest integer type that holds them; empty where there are none."""
    if not lookups:
        return np.empty(0, dtype=np.uint8)
    highest = max(lookup.highest for lookup in lookups)
    return np.concatenate([lookup.buckets for lookup in lookups]).astype(narrowest_integer(highest))


def edge_array(edges: Sequence[Edges]) -> np.ndarray[Any, Any]:
    """All edges end to end, in 64 bits if some are; empty where there are none."""
    return np.concatenate([each.firsts for each in edges] or [np.empty(0, dtype=np.int32)])


def index_arrays(address_map: AddressMap) -> dict[str, np.ndarray[Any, Any]]:
    """What terms look up and search, by the names of a group's buffers; their bytes count."""
    return {"lookup": lookup_array(address_map.lookups), "edges": edge_array(address_map.edges)}


def index_bytes(address_map: AddressMap) -> int:
    """Bytes of the lookup arrays and edges of an address map."""
    return sum(array.nbytes for array in index_arrays(address_map).values())


def _refuse_larger_than_full(address_map: AddressMap, transform: nn.Module | None) -> None:
    if any(table.rows is None for table in address_map.tables):
        return
    full = full_bytes(address_map.tables)
    folded = address_map.num_bytes + index_bytes(address_map)
    if transform is not None:
        folded += sum(parameter.nbytes for parameter in transform.parameters())
    if folded > full:
        raise ValueError(
            f"the fold would take {folded} bytes, more than the full tables' {full}: choose a smaller size, or keep "
            "small tables full with a threshold"
        )


def _check_state(group: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Refuse weights of other addresses, of no floating type, or with other lookup arrays or edges than the terms'."""
    assert isinstance(group, EmbeddingGroup)
    found = {name: state[f"{prefix}memory.{name}"] for name in group.memory if f"{prefix}memory.{name}" in state}
    for array in group.address_map.arrays:
        if array.name not in found:
            continue
        own, given = group.memory[array.name].dtype, found[array.name].dtype
        if given != own and not (own.is_floating_point and given.is_floating_point):
            must = "floats" if own.is_floating_point else own
            raise ValueError(
                f"{prefix}memory.{array.name} is {given} in these weights, it must be {must}: the file is damaged"
            )
    saved = state.get(f"{prefix}_extra_state")
    if saved is not None:
        _check_addresses(group, saved.tolist())
    elif found:  # where it is missing with all else, load_state_dict reports that itself
        raise ValueError(
            f"these weights have {prefix}memory but no {prefix}_extra_state, which says what addresses they are for: "
            "load the whole state_dict() of a group"
        )
    for name, own in index_arrays(group.address_map).items():
        saved = state.get(f"{prefix}{name}")
        if saved is None or saved.is_meta:
            continue
        arrays = group.address_map.lookups if name == "lookup" else group.address_map.edges
        expected = _with_found(own, arrays, saved)
        if saved.dtype != expected.dtype or not torch.equal(saved.cpu(), expected):
            raise ValueError(
                f"{prefix}{name} of these weights is not the array that the group's terms read: build it with the same "
                "metadata, or take an undamaged file"
            )


def _with_found(own: np.ndarray[Any, Any], arrays: Sequence[Lookup] | Sequence[Edges], saved: Tensor) -> Tensor:
    """Lookup arrays or edges, end to end, with what was saved where a fold finds them and it can be that."""
    expected, first = torch.from_numpy(own), 0
    for each in arrays:
        end = first + len(each.array)
        found = saved[first:end].to("cpu", expected.dtype)
        if isinstance(each, (Pointers, FoundEdges)) and each.takes(found.numpy()):
            expected[first:end] = found
        first = end
    return expected


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


def _take_over(group: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(group, EmbeddingGroup)
    group.adopt(state, prefix)


def _adopt_packed(group: EmbeddingGroup, state: dict[str, Any], prefix: str) -> None:
    for array, own in zip(group.address_map.arrays, group.arrays, strict=True):
        given, like = state.get(f"{prefix}memory.{array.name}"), array.format.packed_like(*array.shape)
        if given is None or array.format == FP32 or given.is_meta:
            continue
        if own.dtype == like.dtype and given.dtype == torch.float32 and given.shape == array.shape:
            state[f"{prefix}memory.{array.name}"] = array.format.encode(given)
        elif own.dtype == torch.float32 and given.dtype == like.dtype and given.shape == like.shape:
            state[f"{prefix}memory.{array.name}"] = array.format.master(given, *array.shape)


def _memory_0_1(group: EmbeddingGroup, state: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """The arrays of the one memory that release 0.1 saved, in float32, in halves, or as int8 with a power of two for
    every 32 floats."""
    flat = state.pop(f"{prefix}memory", None)
    state.pop(f"{prefix}rounding.rounds", None)
    codes, exponents = (state.pop(f"{prefix}memory_{name}", None) for name in ("codes", "exponents"))
    if codes is not None and exponents is not None:
        if exponents.numel() != -(-codes.numel() // 32):
            raise ValueError(
                f"int8 memory of {codes.numel()} numbers needs an exponent for each 32 of them; "
                f"the saved weights hold {exponents.numel()}: the file is damaged"
            )
        powers = exponents.view(-1).to(torch.int32)
        scales = torch.ldexp(torch.ones_like(powers, dtype=torch.float64), powers).float().repeat_interleave(32)
        flat = codes.view(-1).float() * scales[: codes.numel()]
    if flat is None:
        return {}
    address_map = group.address_map
    if flat.numel() != address_map.floats:
        raise ValueError(f"{prefix}memory holds {flat.numel()} floats, this group reads {address_map.floats}")
    flat = flat.reshape(-1).to(read_type(group.arrays))
    found = {}
    for array in address_map.arrays:
        spans = [(address_map.bases[number], address_map.regions[number].floats) for number in array.regions]
        found[array.name] = torch.cat([flat[base : base + floats] for base, floats in spans]).view(array.shape)
    return found


def _save_once(group: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Leave a group out of a state dict that has it already, under another view."""
    own = [name for name in state if name.startswith(prefix)]
    memory = [_storage(state[name]) for name in own if name.startswith(f"{prefix}memory.")]
    if any(_storage(value) in memory for name, value in state.items() if name not in own):
        for name in own:
            del state[name]


def _storage(value: Any) -> int | None:
    return value.untyped_storage()._cdata if isinstance(value, Tensor) else None


def _note_load(group: nn.Module, state: Mapping[str, Any], prefix: str, *told: Any) -> None:
    """Remember whether a state has this group, which may be under several views, or has had it before."""
    assert isinstance(group, EmbeddingGroup)
    missing: list[str] = told[2]
    group._absent = None
    if any(name.startswith(prefix) for name in state):
        group._loads = missing  # one list for one call of load_state_dict
    elif group._loads is missing:
        group._absent = prefix


def _forgive_absence(group: nn.Module, keys: Any) -> None:
    """Weights that were loaded under one view are not missing under another."""
    assert isinstance(group, EmbeddingGroup)
    if group._absent is not None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if not name.startswith(group._absent)]
