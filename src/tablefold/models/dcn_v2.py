"""DCN-V2: cross layers with a matrix, full or of low rank (Wang et al., WWW 2021, arXiv 2008.13535)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from tablefold.method import EmbeddingGroup
from tablefold.models.mlp import linear, mlp
from tablefold.models.network import Network
from tablefold.tables import Column


class MatrixCross(nn.Module):
    """One cross layer: x_{l+1} = x_0 * (W x_l + b) + x_l, `[batch, width] -> [batch, width]`.

    With `rank` > 0, W = U V with U `[width, rank]` and V `[rank, width]`.
    """

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = [width, rank, width] if rank else [width, width]
        layers = [linear(inputs, outputs, generator) for inputs, outputs in pairwise(widths)]
        if rank:
            layers[0].register_parameter("bias", None)
        self.weight = nn.Sequential(*layers)

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """x_{l+1} from x_0 (`first`) and x_l (`crossed`)."""
        return torch.addcmul(crossed, first, self.weight(crossed))


class DCNv2(Network):
    """Matrix cross layers, then a deep MLP over their output (the paper's stacked form, its best on Criteo).

    Args:
        group: any embedding group.
        dense_columns: width of the dense input; 0 for none.
        columns: what the matrix of ids holds; an id for every table unless given.
        deep_mlp: widths of the deep MLP.
        cross_layers: how many cross layers.
        cross_rank: rank of each cross matrix; 0 keeps it full. A quarter of the width costs next to no
            accuracy.
        seed: of the network's start.

    Raises:
        ValueError: for fewer than 1 cross layer or a negative rank.
    """

    name: ClassVar[str] = "dcn_v2"

    def __init__(
        self,
        group: EmbeddingGroup,
        dense_columns: int = 13,
        *,
        columns: Sequence[Column] | None = None,
        deep_mlp: Sequence[int] = (512, 256, 64),
        cross_layers: int = 3,
        cross_rank: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(group, dense_columns, columns)
        if cross_layers < 1:
            raise ValueError(f"cross_layers={cross_layers} must be at least 1")
        if cross_rank < 0:
            raise ValueError(f"cross_rank={cross_rank} must be at least 0 (0 keeps the matrices full)")
        generator = torch.Generator().manual_seed(seed)
        width = dense_columns + self.features.num_features * self.features.dim
        self.cross = nn.ModuleList(MatrixCross(width, cross_rank, generator) for _ in range(cross_layers))
        self.deep = mlp([width, *deep_mlp, 1], generator, last_relu=False)

    def logits(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Logits `[batch]`; see the class."""
        first = torch.cat([dense, vectors.flatten(1)], dim=1)
        crossed = first
        for layer in self.cross:
            crossed = layer(first, crossed)
        logits: Tensor = self.deep(crossed)
        return logits.squeeze(1)
