"""DeepFM: a factorisation machine and an MLP over the same vectors (Guo et al., IJCAI 2017, arXiv 1703.04247)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tablefold.method import EmbeddingGroup
from tablefold.models.features import Features
from tablefold.models.mlp import linear, mlp
from tablefold.models.network import Network
from tablefold.tables import Column, TableSpec

FIRST_ORDER = " first order"
"""After a table's name: the table of its ids' weights."""


class DeepFM(Network):
    """First-order weights, dot products of all pairs of vectors, and a deep MLP, added up.

    For vectors v_i and weights w_i of the F features, and dense columns x:

        logit = b + <w, x> + sum_i w_i + sum_{i<j} <v_i, v_j> + MLP(v_1, ..., v_F, x)

    The weights w_i are tables of dim 1 in the same group, so that a method folds them under the same budget; dense
    columns take part in the first order and in the MLP. The sum over pairs is ((sum v)^2 - sum v^2) / 2. Default widths
    are those of the paper's experiments on Criteo: 400-400-400.

    Args:
        group: any embedding group of the tables that `tables_for` names.
        dense_columns: width of the dense input; 0 for none.
        columns: what the matrix of ids holds; an id for every table unless given.
        deep_mlp: hidden widths of the MLP; the logit follows them.
        seed: of the network's start.
    """

    name: ClassVar[str] = "deepfm"

    def __init__(
        self,
        group: EmbeddingGroup,
        dense_columns: int = 13,
        *,
        columns: Sequence[Column] | None = None,
        deep_mlp: Sequence[int] = (400, 400, 400),
        seed: int = 0,
    ) -> None:
        super().__init__(group, dense_columns, columns)
        generator = torch.Generator().manual_seed(seed)
        self.weights = Features(group, self.columns, FIRST_ORDER)
        self.linear = linear(dense_columns, 1, generator) if dense_columns else None
        width = dense_columns + self.features.num_features * self.features.dim
        self.deep = mlp([width, *deep_mlp, 1], generator, last_relu=False)

    @classmethod
    def tables_for(cls, tables: Sequence[TableSpec]) -> list[TableSpec]:
        """Those of the data, then one of dim 1 for each: the weights of its ids."""
        return [*tables, *(TableSpec(table.name + FIRST_ORDER, table.rows, 1) for table in tables)]

    @classmethod
    def read_by(cls, tables: Sequence[TableSpec]) -> list[TableSpec]:
        """The first half."""
        return list(tables[: len(tables) // 2])

    def vectors(self, ids: Int[Tensor, "batch ids"]) -> Float[Tensor, "batch features floats"]:
        """The vectors, and behind each its weight."""
        return torch.cat([self.features(ids, self.group), self.weights(ids, self.group)], dim=2)

    def logits(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Logits `[batch]`; see the class."""
        weights, vectors = vectors[:, :, -1], vectors[:, :, :-1]
        pairs = (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1) / 2
        deep: Tensor = self.deep(torch.cat([dense, vectors.flatten(1)], dim=1))
        logits = weights.sum(dim=1) + pairs + deep.squeeze(1)
        return logits if self.linear is None else logits + self.linear(dense).squeeze(1)
