"""Two towers, for retrieval: a vector of the user and one of the item, and their dot product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tablefold.method import EmbeddingGroup
from tablefold.models.mlp import linear, mlp
from tablefold.models.network import Network
from tablefold.tables import Column


class TwoTower(Network):
    """The dot product of a user's and an item's vector, and a bias.

        logit = b + <user tower(user's columns, dense columns), item tower(item's columns)>

    A tower of no layers adds up the vectors of its columns: of a user and an item alone that is matrix factorisation;
    with the user's history (a list of items, pooled) it is FISM (Kabbur et al., KDD 2013) with a vector of the user.
    With layers it is an MLP over its columns' vectors (Covington et al., RecSys 2016; Yi et al., RecSys 2019), whose
    last layer is linear. Every item's vector can be computed beforehand: all items are ranked by one matrix product.

    Args:
        group: any embedding group.
        dense_columns: width of the dense input, which the user's tower reads; 0 for none.
        columns: what the matrix of ids holds, and which of it is the item's (`side`). Unless they say, the first column
            is the user's, and all others the item's.
        user_mlp: hidden widths of the user's tower; `dim` follows them. Without any: the sum of the vectors.
        item_mlp: those of the item's tower.
        seed: of the network's start.

    Raises:
        ValueError: where either side has no column.
    """

    name: ClassVar[str] = "two_tower"

    def __init__(
        self,
        group: EmbeddingGroup,
        dense_columns: int = 0,
        *,
        columns: Sequence[Column] | None = None,
        user_mlp: Sequence[int] = (),
        item_mlp: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(group, dense_columns, columns)
        generator = torch.Generator().manual_seed(seed)
        self.places = self.split_sides()
        dim = self.features.dim
        self.user = _tower(len(self.places[0]) * dim + dense_columns, user_mlp, dim, generator) if user_mlp else None
        self.item = _tower(len(self.places[1]) * dim, item_mlp, dim, generator) if item_mlp else None
        self.dense = linear(dense_columns, dim, generator) if dense_columns and not user_mlp else None
        self.bias = nn.Parameter(torch.zeros(1))

    def logits(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Logits `[batch]`; see the class."""
        user, item = (vectors[:, places] for places in self.places)
        return (self.users(dense, user) * self.items(item)).sum(dim=1) + self.bias

    def split_sides(self) -> tuple[list[int], list[int]]:
        """As of any model; where nothing is said, the first feature is the user's, all others the item's."""
        if any(self.features.sides):
            return super().split_sides()
        places = list(range(self.features.num_features))
        if len(places) < 2:
            raise ValueError("two_tower needs a column of the user and one of the item; this data has one column alone")
        return places[:1], places[1:]

    def score_pairs(
        self, users: Float[Tensor, "users features dim"], items: Float[Tensor, "items features_ dim"]
    ) -> Float[Tensor, "users items"]:
        """One product of matrices."""
        return self.users(users.new_empty(len(users), 0), users) @ self.items(items).T + self.bias

    def users(
        self, dense: Float[Tensor, "batch dense"], vectors: Float[Tensor, "batch features dim"]
    ) -> Float[Tensor, "batch dim"]:
        """The user's vector, from the vectors of the user's columns."""
        if self.user is not None:
            tower: Tensor = self.user(torch.cat([dense, vectors.flatten(1)], dim=1))
            return tower
        summed = vectors.sum(dim=1)
        return summed if self.dense is None else summed + self.dense(dense)

    def items(self, vectors: Float[Tensor, "batch features dim"]) -> Float[Tensor, "batch dim"]:
        """The item's vector, from the vectors of the item's columns."""
        tower: Tensor = vectors.sum(dim=1) if self.item is None else self.item(vectors.flatten(1))
        return tower


def _tower(inputs: int, hidden: Sequence[int], dim: int, generator: torch.Generator) -> nn.Module:
    return mlp([inputs, *hidden, dim], generator, last_relu=False)
