"""NeuMF with one tower, for interaction data (after He et al., WWW 2017, arXiv 1708.05031)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from tablefold.method import EmbeddingGroup
from tablefold.models.mlp import mlp
from tablefold.models.network import Network
from tablefold.tables import Column


class NeuMF(Network):
    """All vectors and their element-wise product into one MLP.

    The paper joins a matrix factorisation and an MLP, each with tables of its own; here both read the same
    vectors: for a user vector u and an item vector v the MLP reads (u, v, u * v). In general: all features,
    their product over features, and the dense columns.

    Args:
        group: any embedding group.
        dense_columns: width of the dense input; 0 for none.
        columns: what the matrix of ids holds; an id for every table unless given.
        top_mlp: hidden widths of the MLP; the logit follows them.
        seed: of the MLP's start.
    """

    name: ClassVar[str] = "neumf"

    def __init__(
        self,
        group: EmbeddingGroup,
        dense_columns: int = 0,
        *,
        columns: Sequence[Column] | None = None,
        top_mlp: Sequence[int] = (512, 256),
        seed: int = 0,
    ) -> None:
        super().__init__(group, dense_columns, columns)
        generator = torch.Generator().manual_seed(seed)
        width = dense_columns + (self.features.num_features + 1) * self.features.dim
        self.top = mlp([width, *top_mlp, 1], generator, last_relu=False)

    def logits(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Logits `[batch]`; see the class."""
        inputs = torch.cat([dense, vectors.flatten(1), vectors.prod(dim=1)], dim=1)
        logits: Tensor = self.top(inputs)
        return logits.squeeze(1)
