"""DeepFM: a factorisation machine and an MLP over the same vectors (Guo et al., IJCAI 2017, arXiv 1703.04247)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from tablefold.method import EmbeddingGroup
from tablefold.models.mlp import linear, mlp
from tablefold.models.network import Network
from tablefold.tables import Column


class DeepFM(Network):
    """First-order weights, dot products of all pairs of vectors, and a deep MLP, added up.

    For vectors v_i and weights w_i of the F features, and dense columns x:

        logit = b + <w, x> + sum_i w_i + sum_{i<j} <v_i, v_j> + MLP(v_1, ..., v_F, x)

    The weight w_i of an id is the last float of its row, which has dim + 1: one read gives both, and a method folds
    both under one budget. Dense columns take part in the first order and in the MLP. The sum over pairs is
    ((sum v)^2 - sum v^2) / 2. Default widths are those of the paper's experiments on Criteo: 400-400-400.

    Args:
        group: any embedding group of the tables that `tables_for` gives.
        dense_columns: width of the dense input; 0 for none.
        columns: what the matrix of ids holds; an id for every table unless given.
        deep_mlp: hidden widths of the MLP; the logit follows them.
        seed: of the network's start.
    """

    name: ClassVar[str] = "deepfm"
    beside: ClassVar[int] = 1

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
        self.linear = linear(dense_columns, 1, generator) if dense_columns else None
        width = dense_columns + self.features.num_features * (self.features.dim - 1)
        self.deep = mlp([width, *deep_mlp, 1], generator, last_relu=False)

    def logits(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Logits `[batch]`; see the class."""
        weights, vectors = vectors[:, :, -1], vectors[:, :, :-1]
        pairs = (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1) / 2
        deep: Tensor = self.deep(torch.cat([dense, vectors.flatten(1)], dim=1))
        logits = weights.sum(dim=1) + pairs + deep.squeeze(1)
        return logits if self.linear is None else logits + self.linear(dense).squeeze(1)
