"""Drop-ins for `torch.nn.Embedding` and `torch.nn.EmbeddingBag` over a folded table."""

from __future__ import annotations

from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tablefold.method import EmbeddingGroup, Method, parse
from tablefold.ops.pooling import PoolMode
from tablefold.placement import Placement
from tablefold.spec import check_choice
from tablefold.storage import Storage
from tablefold.tables import TableSpec

_TABLE = "embedding"


class _Folded(nn.Module):
    """What both drop-ins share: a group of one table, and a padding id whose vector is zero and never learns."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        unsupported: dict[str, tuple[object, object]],
        method: str | Method,
        storage: Storage,
        seed: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        for name, (value, default) in unsupported.items():
            if value != default:
                raise ValueError(
                    f"{name}={value} changes single rows, which a folded table's ids share: leave {name} at {default}"
                )
        table = TableSpec(_TABLE, num_embeddings, embedding_dim)
        spec = parse(method) if isinstance(method, str) else method
        self.group: EmbeddingGroup = Placement(spec, storage=storage).build([table], seed=seed, device=device)
        if dtype is not None:
            self.group.to(dtype)
        if self.group.num_features > 1:
            raise ValueError(
                f"{spec} gives {self.group.num_features} vectors for one id, a drop-in returns one: take another "
                "combine, or build a group, which hands them to the model as features"
            )
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = _padding(padding_idx, num_embeddings)

    @property
    def num_bytes(self) -> int:
        """Every byte the folded table holds."""
        return self.group.num_bytes

    def unfold(self) -> Float[Tensor, "rows dim"]:
        """The table it stands for, `[num_embeddings, embedding_dim]`; the padding id's row is zero."""
        table = self.group.unfold(_TABLE)
        if self.padding_idx is not None:
            table[self.padding_idx] = 0
        return table

    def extra_repr(self) -> str:
        """Rows, dim, and the padding id if there is one."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"

    def _vectors(self, ids: Tensor) -> Tensor:
        """Vectors of a flat tensor of ids, the padding id's zero."""
        vectors: Tensor = self.group(ids.reshape(-1, 1))[:, 0]
        if self.padding_idx is not None:
            vectors = vectors.masked_fill((ids.reshape(-1, 1) == self.padding_idx), 0.0)
        return vectors


class Embedding(_Folded):
    """`torch.nn.Embedding` over a folded table: the same arguments, ids of any shape, plus a method.

    Args:
        num_embeddings: rows of the table it stands for.
        embedding_dim: floats of one vector.
        padding_idx: an id whose vector is zero and gets no gradient.
        max_norm, norm_type, scale_grad_by_freq, sparse: torch's defaults only: they change single rows of a full table.
        method: how the table is folded, as a spec string or a `Method`.
        storage: the format of its memory, see `tablefold.storage`.
        seed: of hashed addresses and start values.
        device, dtype: of the memory.

    Raises:
        ValueError: for an argument that a folded table cannot honour, a method that gives several vectors per id, or
            ids outside 0 .. num_embeddings - 1.

    >>> import torch
    >>> embedding = Embedding(1_000_000, 16, method="qr:collisions=100")
    >>> embedding(torch.tensor([[3, 999_999]])).shape, embedding.num_bytes
    (torch.Size([1, 2, 16]), 646400)
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
        storage: Storage = "fp32",
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        unsupported: dict[str, tuple[object, object]] = {
            "max_norm": (max_norm, None),
            "norm_type": (norm_type, 2.0),
            "scale_grad_by_freq": (scale_grad_by_freq, False),
            "sparse": (sparse, False),
        }
        super().__init__(num_embeddings, embedding_dim, padding_idx, unsupported, method, storage, seed, device, dtype)

    def forward(self, input: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]:  # noqa: A002  (torch's name)
        """The vectors of ids of any shape, `[*shape, embedding_dim]`."""
        return self._vectors(input).reshape(*input.shape, self.embedding_dim)


class EmbeddingBag(_Folded):
    """`torch.nn.EmbeddingBag` over a folded table: vectors are composed, then pooled.

    Args:
        num_embeddings: rows of the table it stands for.
        embedding_dim: floats of one vector.
        max_norm, norm_type, scale_grad_by_freq, sparse: torch's defaults only: they change single rows of a full table.
        mode: `sum`, `mean` or `max` of each bag.
        include_last_offset: offsets end with the number of ids, as in the CSR format.
        padding_idx: an id that counts for nothing in its bag.
        method: how the table is folded, as a spec string or a `Method`.
        storage: the format of its memory, see `tablefold.storage`.
        seed: of hashed addresses and start values.
        device, dtype: of the memory.

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
        storage: Storage = "fp32",
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        unsupported: dict[str, tuple[object, object]] = {
            "max_norm": (max_norm, None),
            "norm_type": (norm_type, 2.0),
            "scale_grad_by_freq": (scale_grad_by_freq, False),
            "sparse": (sparse, False),
        }
        super().__init__(num_embeddings, embedding_dim, padding_idx, unsupported, method, storage, seed, device, dtype)
        check_choice("EmbeddingBag", "mode", mode, get_args(PoolMode))
        self.mode = mode
        self.include_last_offset = include_last_offset

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
        ids, offsets = self._bags(input, offsets)
        if per_sample_weights is not None:
            if per_sample_weights.shape != input.shape:
                raise ValueError(
                    f"per_sample_weights {list(per_sample_weights.shape)} must be shaped like input {list(input.shape)}"
                )
            per_sample_weights = per_sample_weights.reshape(-1)
        if self.padding_idx is not None:
            ids, offsets, per_sample_weights = self._without_padding(ids, offsets, per_sample_weights)
        weights = None if per_sample_weights is None else [per_sample_weights]
        return self.group.pool([ids], [offsets], mode=self.mode, weights=weights)[:, 0]

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
        if not offsets.shape[0] or int(offsets[-1]) != ids.shape[0]:
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
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx={padding_idx} must be an id, 0 .. {rows - 1}, or count from the end")
    return padding_idx % rows
