"""The vectors that a model computes from: one for every column of ids, lists pooled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tablefold.method import EmbeddingGroup
from tablefold.tables import NOTHING, Column


class Features(nn.Module):
    """The vectors of a batch, `[batch, features, dim]`: those of every column of one id, then one for every list.

    A list's vectors are pooled after they are composed; an empty one gives zeros. It owns nothing: the weights are the
    group's.

    Args:
        group: has the tables.
        columns: what the matrix of ids holds; lists come after the others.

    Raises:
        ValueError: for a table that the group does not have, or dims that differ.

    >>> from tablefold import TableSpec, parse
    >>> from tablefold.tables import Column
    >>> group = parse("full").build([TableSpec("user", 50, 8), TableSpec("item", 20, 8)])
    >>> columns = [Column("user", "user"), Column("item", "item"), Column("history", "item", length=3)]
    >>> Features(group, columns)(torch.tensor([[7, 1, 4, 5, -1], [8, 2, -1, -1, -1]]), group).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, group: EmbeddingGroup, columns: Sequence[Column]) -> None:
        super().__init__()
        names = [column.table for column in columns if column.length is None]
        self.lists = [column for column in columns if column.length is not None]
        self.singles = len(names)
        own = [table.name for table in group.tables]
        self.is_whole = names == own  # the group itself gives them, and is called as what it then is in its model
        self.view = None if not names or self.is_whole else group.view(names)
        self.views = nn.ModuleList(group[column.table] for column in self.lists)
        views = [view for view in (group if self.is_whole else self.view, *self.views) if view is not None]
        if len({view.dim for view in views}) > 1:
            raise ValueError("the vectors of these columns have different dims: they cannot stand side by side")
        self.dim: int = views[0].dim
        self.num_features: int = sum(view.num_features for view in views)
        of = dict(zip(own, group.address_map.features, strict=True))
        singles = [column for column in columns if column.length is None]
        self.sides = [column.side for column in (*singles, *self.lists) for _ in range(of[column.table])]

    def forward(self, ids: Int[Tensor, "batch ids"], group: nn.Module) -> Float[Tensor, "batch features dim"]:
        """The vectors of a batch, read from the group, or what stands in its place."""
        view = group if self.is_whole else self.view
        if not self.lists and view is not None:
            vectors: Tensor = view(ids)
            return vectors
        width = self.singles + sum(column.width for column in self.lists)
        if ids.ndim != 2 or ids.shape[1] != width:
            raise ValueError(f"ids must be [batch, {width}]; got {list(ids.shape)}")
        parts, first = [], self.singles
        if view is not None:
            parts.append(view(ids[:, :first]))
        for column, view in zip(self.lists, self.views, strict=True):
            parts.append(_pooled(view, ids[:, first : first + column.width], column.pool))
            first += column.width
        return torch.cat(parts, dim=1)


def _pooled(view: nn.Module, ids: Int[Tensor, "batch length"], pool: str) -> Float[Tensor, "batch features dim"]:
    """The vectors of each row's ids, pooled; `NOTHING` does not count."""
    given = ids != NOTHING
    vectors: Tensor = view(torch.where(given, ids, 0))
    vectors = vectors.view(*ids.shape, -1, vectors.shape[-1])
    weights = given.to(vectors.dtype)
    if pool == "mean":
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,blfd->bfd", weights, vectors)
