"""What every click model is: a network from dense columns and embedding vectors to a logit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from tablefold.method import EmbeddingGroup
from tablefold.models.features import Features
from tablefold.tables import Column, TableSpec, plain_columns


class Network(nn.Module, ABC):
    """A click model over any group: `forward(dense, ids) -> logits [batch]`.

    A subclass names itself (`name`, what `--model` takes) and takes its sizes as keyword-only arguments with
    the paper's values as defaults; those arguments are its options everywhere. It computes `logits` from the
    vectors that `self.features` gives and knows no method: the features say how many there are and how long
    their vectors are.

    Args:
        group: of the tables that `tables_for` gives, whose vectors the model computes from.
        dense_columns: width of `dense`; 0 for data without dense columns.
        columns: what the matrix of ids holds; an id for every table unless given.
    """

    name: ClassVar[str]
    beside: ClassVar[int] = 0
    """Floats that an id has beside its `dim`, at the end of its vector."""

    def __init__(self, group: EmbeddingGroup, dense_columns: int, columns: Sequence[Column] | None = None) -> None:
        super().__init__()
        if dense_columns < 0:
            raise ValueError(f"dense_columns={dense_columns} must be at least 0")
        self.group = group
        self.dense_columns = dense_columns
        self.columns = tuple(columns or plain_columns(table.name for table in self.read_by(group.tables)))
        self.features = Features(group, self.columns)

    @classmethod
    def tables_for(cls, tables: Sequence[TableSpec]) -> list[TableSpec]:
        """The tables of its group, for those of the data: as much wider as it has floats beside."""
        return [replace(table, dim=table.dim + cls.beside) for table in tables]

    @classmethod
    def read_by(cls, tables: Sequence[TableSpec]) -> list[TableSpec]:
        """The data's tables, given those of its group: undoes `tables_for`."""
        return [replace(table, dim=table.dim - cls.beside) for table in tables]

    def forward(
        self, dense: Float[Tensor, "batch dense_columns"], ids: Int[Tensor, "batch ids"]
    ) -> Float[Tensor, " batch"]:
        """The logit of a click, `[batch]`: its sigmoid is the predicted click rate."""
        return self.logits(dense, self.vectors(ids))

    def vectors(self, ids: Int[Tensor, "batch ids"]) -> Float[Tensor, "batch features dim"]:
        """The vectors that `logits` computes from."""
        vectors: Tensor = self.features(ids, self.group)
        return vectors

    @abstractmethod
    def logits(
        self, dense: Float[Tensor, "batch dense_columns"], vectors: Float[Tensor, "batch features dim"]
    ) -> Float[Tensor, " batch"]:
        """The logit of a click from the dense columns and the vectors: all that `torch.compile` gains by."""

    def split_sides(self) -> tuple[list[int], list[int]]:
        """Which of the features are the user's, and which the item's.

        Raises:
            ValueError: where the columns do not say so of both.
        """
        sides = self.features.sides
        users, items = ([place for place, side in enumerate(sides) if side == one] for one in ("user", "item"))
        if not users or not items or len(users) + len(items) < len(sides):
            raise ValueError("the columns do not say which are the user's and which the item's")
        return users, items

    def score_pairs(
        self, users: Float[Tensor, "users features dim"], items: Float[Tensor, "items features_ dim"]
    ) -> Float[Tensor, "users items"]:
        """The logit of every user with every item, from the vectors of their columns; of a model without dense columns.

        A model whose users and items meet in a product alone computes it as one of matrices.
        """
        places = [place for side in self.split_sides() for place in side]
        both = users.new_empty(len(users), len(items), len(places), users.shape[2])
        both[:, :, places[: users.shape[1]]] = users[:, None]
        both[:, :, places[users.shape[1] :]] = items[None]
        vectors = both.flatten(0, 1)
        return self.logits(vectors.new_empty(len(vectors), 0), vectors).view(len(users), len(items))

    @property
    def num_network_parameters(self) -> int:
        """Parameters outside the embeddings."""
        in_group = {id(parameter) for parameter in self.group.parameters()}
        return sum(parameter.numel() for parameter in self.parameters() if id(parameter) not in in_group)
