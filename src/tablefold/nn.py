"""Drop-ins for `torch.nn.Embedding` and `torch.nn.EmbeddingBag` over a folded table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NoReturn, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tablefold.fields import whole_number
from tablefold.formats import FP32
from tablefold.group import TableView, scale_start
from tablefold.method import EmbeddingGroup, Method
from tablefold.ops.backends import is_recorded
from tablefold.ops.bags import PoolMode, check, check_bags, pool_composed
from tablefold.ops.gather import Outside, read_type
from tablefold.plans import Plan, make_plan
from tablefold.spec import check_choice
from tablefold.starts import FULL_START
from tablefold.tables import TableSpec

_TABLE = "embedding"


@dataclass(frozen=True)
class Folding:
    """How a drop-in's table is folded: the arguments that torch's modules do not have."""

    method: str | Method
    compression: float | None
    budget: int | None
    storage: str | None
    init: float | Literal["torch"]
    outside: Outside
    seed: int

    def build(
        self, table: TableSpec, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> tuple[EmbeddingGroup, Plan]:
        """The group of one table, and the plan that it was built by.

        Raises:
            ValueError: where the arguments do not fit each other or the table.
        """
        check_choice("drop-in", "outside", self.outside, get_args(Outside))
        storage = self.storage
        if storage is None and (torch.get_default_dtype() if dtype is None else dtype) != torch.float32:
            storage = FP32.name  # memory of another type is kept as it is
        plan = make_plan(self.method, [table], budget=self.budget, compression=self.compression, storage=storage)
        deviation = self._deviation()
        group = plan.build(seed=self.seed, device=device, dtype=dtype)
        group.outside = self.outside
        if deviation != FULL_START.std:
            scale_start(group, deviation / FULL_START.std)
        return group, plan

    def _deviation(self) -> float:
        deviation = {"torch": 1.0}.get(str(self.init), self.init)
        if isinstance(deviation, str) or not 0 < deviation < math.inf:
            raise ValueError(f"init={self.init!r} must be a deviation above 0, or 'torch' for 1, that of N(0, 1)")
        return deviation


class Folded(nn.Module):
    """What both drop-ins share: a table of a group, and a padding id whose vector is zero and never learns.

    A drop-in is an instance of torch's module too, for those who look for tables by their class. Its memory is that of
    its group; `weight` is computed.

    Attributes:
        group: of one table, or a group of several that share memory, of which this stands for the table `table`.
        plan, seed: by which the group was built; no plan where somebody built it by hand.
        keeps_padding: the padding id's vector is not zero but what memory holds, as in tables that were trained so.
    """

    group: EmbeddingGroup
    table: str
    padding_idx: int | None
    plan: Plan | None
    seed: int
    keeps_padding: bool
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    _like: Tensor | None

    def _hold(
        self, group: EmbeddingGroup, table: str, padding_idx: int | None, dtype: torch.dtype | None = None
    ) -> None:
        """Become a module that stands for a table of a group, with vectors of some type; of memory's unless given."""
        nn.Module.__init__(self)
        column = group.address_map.index(table)
        if group.address_map.features[column] > 1:
            raise ValueError(
                f"{group.spec} gives {group.address_map.features[column]} vectors for one id, a drop-in returns one: "
                "take another combine, or build a group, which hands them to the model as features"
            )
        self.group, self.table, self.plan, self.seed = group, table, None, 0
        # Not a module of its own, for it owns nothing.
        self._views: tuple[TableView, ...] = () if len(group.tables) == 1 else (group[table],)
        self.num_embeddings, self.embedding_dim = group.tables[column].vocabulary, group.tables[column].dim
        self.padding_idx, self.keeps_padding = _padding(padding_idx, self.num_embeddings), False
        self.max_norm, self.norm_type, self.scale_grad_by_freq = None, 2.0, False
        other = dtype is not None and dtype != read_type(group.arrays)
        device = "cpu" if group.device.type == "meta" else group.device  # it has a type and no values
        like = torch.empty(0, dtype=dtype, device=device) if other else None
        self.register_buffer("_like", like, persistent=False)  # which `to`, `half` and `float` move with the model

    @property
    def num_bytes(self) -> int:
        """Every byte that the group holds."""
        return self.group.num_bytes

    @property
    def vector_type(self) -> torch.dtype:
        """The type of its vectors."""
        return read_type(self.group.arrays) if self._like is None else self._like.dtype

    @property
    def sparse(self) -> bool:
        """Whether gradients are sparse tensors of the rows of memory that were read."""
        return bool(self.group.sparse)

    @sparse.setter
    def sparse(self, value: bool) -> None:
        self.group.sparse = value

    @property
    def weight(self) -> Tensor:
        """The vectors of all ids, `[rows, dim]`, computed anew each time, with a gradient: what torch's module has as a
        parameter. It can be read and computed with; what is written into it in place is lost."""
        return self._vectors(torch.arange(self.num_embeddings, device=self.group.device))

    @weight.setter
    def weight(self, value: Tensor) -> None:
        raise ValueError("a folded table computes its weight: assign to the memory of its group instead")

    @classmethod
    def from_pretrained(cls, *_: object, **__: object) -> NoReturn:
        """Refused: `tablefold.fold` takes trained weights over, of a whole model."""
        raise ValueError(
            "a folded table has no single weight to take: put the weights into a model and tablefold.fold it"
        )

    def reset_parameters(self) -> None:
        """Nothing: memory begins as it was asked for when the module was made."""

    def unfold(self) -> Float[Tensor, "rows dim"]:
        """The table it stands for, `[num_embeddings, embedding_dim]`; the padding id's row is zero."""
        table = self.group.unfold(self.table)
        if self.padding_idx is not None and not self.keeps_padding:
            table[self.padding_idx] = 0
        return table

    def extra_repr(self) -> str:
        """Rows, dim, and the padding id if there is one."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"

    def _vectors(self, ids: Tensor) -> Tensor:
        """Vectors of a flat tensor of ids, the padding id's zero."""
        column = ids.reshape(-1, 1)
        vectors: Tensor = self._views[0](ids.reshape(-1)) if self._views else self.group(column)[:, 0]
        if self.padding_idx is not None:
            padding = column == self.padding_idx
            kept = vectors.detach() if self.keeps_padding else torch.zeros_like(vectors)
            vectors = torch.where(padding, kept, vectors)
        return self._typed(vectors)

    def _typed(self, vectors: Tensor) -> Tensor:
        return vectors if self._like is None else vectors.to(self._like.dtype)

    def _pooled(
        self, ids: Tensor, offsets: Tensor, mode: str, weights: Tensor | None, counted: Tensor | None
    ) -> Tensor:
        """Bags of this table."""
        by, factors = cast(PoolMode, mode), None if weights is None else [weights]
        inner = None if counted is None else [counted]
        if not self._views:
            return self._typed(self.group.pool([ids], [offsets], mode=by, weights=factors, counted=inner)[:, 0])
        view = self._views[0]  # a group pools all its tables at once; this is one
        check_bags([ids], [offsets], by, factors)
        pooled = pool_composed(lambda each: view(each[:, 0]).unsqueeze(1), [1], [ids], [offsets], by, factors, inner)
        return self._typed(pooled[:, 0])


def _built(
    num_embeddings: int,
    embedding_dim: int,
    changing_rows: tuple[float | None, float, bool],
    folding: Folding,
    sparse: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> tuple[EmbeddingGroup, Plan]:
    """The group of a new drop-in, and its plan."""
    names, defaults = ("max_norm", "norm_type", "scale_grad_by_freq"), (None, 2.0, False)
    for name, value, default in zip(names, changing_rows, defaults, strict=True):
        if value != default:
            raise ValueError(
                f"{name}={value} changes single rows, which a folded table's ids share: leave {name} at {default}"
            )
    group, plan = folding.build(TableSpec(_TABLE, num_embeddings, embedding_dim), device, dtype)
    group.sparse = sparse
    return group, plan


class Embedding(Folded, nn.Embedding):
    """`torch.nn.Embedding` over a folded table: the same arguments, ids of any shape, plus a method.

    Args:
        num_embeddings: rows of the table it stands for.
        embedding_dim: floats of one vector.
        padding_idx: an id whose vector is zero and gets no gradient.
        max_norm, norm_type, scale_grad_by_freq: torch's defaults only: they change single rows of a full table.
        sparse: make the gradient a sparse tensor of the rows of memory that were read, which `tablefold.optim` and
            `torch.optim.SparseAdam` take; dense otherwise, whatever the size.
        method: how the table is folded, as a spec string or a `Method`.
        compression: how many times smaller than the full table it has to be.
        budget: the bytes that it may take, instead of `compression`.
        storage: the format of its memory: `fp32`, `bf16`, `int8`, `int4` or `int2`. Unless given, the best one measured
            at the size, and float32 without a size.
        init: the deviation that vectors start with, 0.02 unless given, at which click models train fastest (see
            `tablefold.starts`); `torch` starts with 1, as `torch.nn.Embedding` does from N(0, 1).
        outside: what an exported or traced program answers for an id outside the table: `nan`, a vector of NaN; `zero`;
            or `unchecked`, whatever the id's address holds. Everywhere else such an id is refused.
        seed: of hashed addresses and start values.
        device: of the memory.
        dtype: of the memory.

    Raises:
        ValueError: for an argument that a folded table cannot honour, a method that gives several vectors per id, or
            ids outside 0 .. num_embeddings - 1.

    >>> import torch
    >>> embedding = Embedding(1_000_000, 16, method="qr", compression=100)
    >>> embedding(torch.tensor([[3, 999_999]])).shape, embedding.num_bytes
    (torch.Size([1, 2, 16]), 639999)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        method: str | Method,
        compression: float | None = None,
        budget: int | None = None,
        storage: str | None = None,
        init: float | Literal["torch"] = FULL_START.std,
        outside: Outside = "nan",
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        folding = Folding(method, compression, budget, storage, init, outside, seed)
        changing_rows = (max_norm, norm_type, scale_grad_by_freq)
        group, plan = _built(num_embeddings, embedding_dim, changing_rows, folding, sparse, device, dtype)
        self._hold(group, _TABLE, padding_idx)
        self.plan, self.seed = plan, seed

    def forward(self, input: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:  # noqa: A002  (torch's name)
        """The vectors of ids of any shape, `[*shape, embedding_dim]`."""
        return self._vectors(input).reshape(*input.shape, self.embedding_dim)

    @classmethod
    def over(
        cls, group: EmbeddingGroup, table: str, padding_idx: int | None = None, *, dtype: torch.dtype | None = None
    ) -> Embedding:
        """The drop-in of a table of a group that is there already; `dtype` is that of its vectors."""
        self = cls.__new__(cls)
        self._hold(group, table, padding_idx, dtype)
        return self


class EmbeddingBag(Folded, nn.EmbeddingBag):
    """`torch.nn.EmbeddingBag` over a folded table: vectors are composed, then pooled.

    Args:
        num_embeddings: rows of the table it stands for.
        embedding_dim: floats of one vector.
        max_norm, norm_type, scale_grad_by_freq: torch's defaults only: they change single rows of a full table.
        sparse: make the gradient a sparse tensor of the rows of memory that were read, which `tablefold.optim` and
            `torch.optim.SparseAdam` take; dense otherwise, whatever the size.
        mode: `sum`, `mean` or `max` of each bag.
        include_last_offset: offsets end with the number of ids, as in the CSR format.
        padding_idx: an id that counts for nothing in its bag.
        method: how the table is folded, as a spec string or a `Method`.
        compression: how many times smaller than the full table it has to be.
        budget: the bytes that it may take, instead of `compression`.
        storage: the format of its memory: `fp32`, `bf16`, `int8`, `int4` or `int2`. Unless given, the best one measured
            at the size, and float32 without a size.
        init: the deviation that vectors start with, 0.02 unless given, at which click models train fastest (see
            `tablefold.starts`); `torch` starts with 1, as `torch.nn.Embedding` does from N(0, 1).
        outside: what an exported or traced program answers for an id outside the table: `nan`, a vector of NaN; `zero`;
            or `unchecked`, whatever the id's address holds. Everywhere else such an id is refused.
        seed: of hashed addresses and start values.
        device: of the memory.
        dtype: of the memory.

    Raises:
        ValueError: as `Embedding`, and for inputs, offsets or weights that do not fit each other.

    >>> import torch
    >>> bag = EmbeddingBag(1_000_000, 16, mode="sum", method="robe:block=16,floats=10_000")
    >>> bag(torch.tensor([3, 5, 999_999]), torch.tensor([0, 2])).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: PoolMode = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        method: str | Method,
        compression: float | None = None,
        budget: int | None = None,
        storage: str | None = None,
        init: float | Literal["torch"] = FULL_START.std,
        outside: Outside = "nan",
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        folding = Folding(method, compression, budget, storage, init, outside, seed)
        changing_rows = (max_norm, norm_type, scale_grad_by_freq)
        group, plan = _built(num_embeddings, embedding_dim, changing_rows, folding, sparse, device, dtype)
        self._hold(group, _TABLE, padding_idx)
        self.plan, self.seed = plan, seed
        self._pool_by(mode, include_last_offset)

    @classmethod
    def over(
        cls,
        group: EmbeddingGroup,
        table: str,
        padding_idx: int | None = None,
        mode: PoolMode = "mean",
        include_last_offset: bool = False,
        *,
        dtype: torch.dtype | None = None,
    ) -> EmbeddingBag:
        """The drop-in of a table of a group that is there already; `dtype` is that of its vectors."""
        self = cls.__new__(cls)
        self._hold(group, table, padding_idx, dtype)
        self._pool_by(mode, include_last_offset)
        return self

    def _pool_by(self, mode: PoolMode, include_last_offset: bool) -> None:
        check_choice("EmbeddingBag", "mode", mode, get_args(PoolMode))
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(
        self,
        input: Int[Tensor, "..."],  # noqa: A002  (torch's name)
        offsets: Int[Tensor, " bags"] | None = None,
        per_sample_weights: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "bags dim"]:
        """The pooled vector of each bag, `[bags, embedding_dim]`.

        Args:
            input: ids, `[bags, ids per bag]`; or `[ids]` with `offsets`.
            offsets: where each bag begins in a 1-D `input`.
            per_sample_weights: a factor per id, shaped like `input`; for `sum` only.
        """
        self.group.check_device(input, *([] if offsets is None else [offsets]))
        ids, offsets = self._bags(input, offsets)
        weights = per_sample_weights
        if weights is not None:
            if weights.shape != input.shape:
                raise ValueError(
                    f"per_sample_weights {list(weights.shape)} must be shaped like input {list(input.shape)}"
                )
            weights = weights.reshape(-1)
        counted = None
        if self.padding_idx is not None:
            check(ids.shape[0], offsets, self.mode, weights)  # as they were given, before any id is left out
            if is_recorded():
                counted = ids.ne(self.padding_idx)
            else:
                ids, offsets, weights = self._without_padding(ids, offsets, weights)
        return self._pooled(ids, offsets, self.mode, weights, counted)

    def _bags(self, ids: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
        """Flat ids and where each bag begins."""
        if ids.ndim == 2 and offsets is None:
            starts = torch.arange(ids.shape[0], device=ids.device) * ids.shape[1]
            return ids.reshape(-1), starts
        if ids.ndim != 1 or offsets is None:
            given = "without offsets" if offsets is None else "with offsets"
            raise ValueError(f"input must be [bags, ids per bag], or [ids] with offsets; got {list(ids.shape)} {given}")
        if not self.include_last_offset:
            return ids, offsets
        check(ids.shape[0], offsets, self.mode, None)
        if not offsets.shape[0] or not (is_recorded() or int(offsets[-1]) == ids.shape[0]):
            raise ValueError(f"with include_last_offset the last offset must be the number of ids, {ids.shape[0]}")
        return ids, offsets[:-1]

    def _without_padding(
        self, ids: Tensor, offsets: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        kept: Tensor = ids.ne(self.padding_idx or 0)
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return ids[kept], before[offsets], None if weights is None else weights[kept]


def _padding(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    padding_idx = whole_number(padding_idx, "padding_idx")
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx={padding_idx} must be an id, 0 .. {rows - 1}, or count from the end")
    return padding_idx % rows
