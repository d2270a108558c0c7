"""DLRM: the deep learning recommendation model of Naumov et al. (2019, arXiv 1906.00091)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from tablefold.method import EmbeddingGroup
from tablefold.models.mlp import mlp
from tablefold.models.network import Network
from tablefold.tables import Column


class DLRM(Network):
    """Dot products of all pairs of vectors, then an MLP.

    A bottom MLP turns the dense columns into one more vector of length `dim`. With F vectors v_1 .. v_F (that
    one included), the top MLP reads the bottom vector and the F(F - 1)/2 dot products v_i . v_j, i > j, and
    gives the logit. Without dense columns there is no bottom MLP and no bottom vector.

    The default sizes are those of the KDD 2020 experiments: bottom 13-512-256-64-16, top 512-256-1 at dim 16.

    Args:
        group: any embedding group.
        dense_columns: width of the dense input; 0 for none.
        columns: what the matrix of ids holds; an id for every table unless given.
        bottom_mlp: hidden widths of the bottom MLP; `dim` follows them.
        top_mlp: hidden widths of the top MLP; the logit follows them.
        seed: of the MLPs' start.

    Raises:
        ValueError: when there is a single vector and nothing to interact.
    """

    name: ClassVar[str] = "dlrm"

    def __init__(
        self,
        group: EmbeddingGroup,
        dense_columns: int = 13,
        *,
        columns: Sequence[Column] | None = None,
        bottom_mlp: Sequence[int] = (512, 256, 64),
        top_mlp: Sequence[int] = (512, 256),
        seed: int = 0,
    ) -> None:
        super().__init__(group, dense_columns, columns)
        generator = torch.Generator().manual_seed(seed)
        vectors = self.features.num_features + (dense_columns > 0)
        if vectors < 2:
            raise ValueError("dlrm needs two vectors to interact; got one table and no dense columns")
        bottom_width = self.features.dim if dense_columns else 0
        self.bottom = (
            mlp([dense_columns, *bottom_mlp, self.features.dim], generator, last_relu=True) if dense_columns else None
        )
        self.top = mlp([bottom_width + vectors * (vectors - 1) // 2, *top_mlp, 1], generator, last_relu=False)
        first, second = torch.tril_indices(vectors, vectors, offset=-1)
        self.pairs: Tensor
        self.register_buffer("pairs", first * vectors + second, persistent=False)

    def logits(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Logits `[batch]`; see the class."""
        if self.bottom is None:
            inputs = self._interact(vectors)
        else:
            bottom = self.bottom(dense)
            vectors = torch.cat([bottom.unsqueeze(1), vectors], dim=1)
            inputs = torch.cat([bottom, self._interact(vectors)], dim=1)
        logits: Tensor = self.top(inputs)
        return logits.squeeze(1)

    def _interact(self, vectors: Tensor) -> Tensor:
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return products.index_select(1, self.pairs)
