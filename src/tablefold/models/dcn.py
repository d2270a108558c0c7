"""DCN: the deep and cross network of Wang et al. (ADKDD 2017, arXiv 1708.05123)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from tablefold.method import EmbeddingGroup
from tablefold.models.mlp import linear, mlp
from tablefold.models.network import Network
from tablefold.tables import Column


class CrossLayers(nn.Module):
    """Rank-one cross layers: x_{l+1} = x_0 (x_l . w_l) + b_l + x_l, `[batch, width] -> [batch, width]`.

    Each w_l starts at N(0, 1/width), so that x_l . w_l starts at the scale of one entry of x_l; b_l at zero.
    """

    def __init__(self, width: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.randn(layers, width, generator=generator) / math.sqrt(width)
        self.weight = nn.Parameter(start)
        self.bias = nn.Parameter(torch.zeros(layers, width))

    def forward(self, inputs: Tensor) -> Tensor:
        """The crossed features, `[batch, width]`."""
        crossed = inputs
        for weight, bias in zip(self.weight, self.bias, strict=True):
            crossed = torch.addcmul(crossed + bias, inputs, (crossed @ weight).unsqueeze(1))
        return crossed


class DCN(Network):
    """Cross layers and a deep MLP side by side over all columns, then one linear layer.

    Both read the dense columns and all vectors side by side; the logit is linear in their two outputs.
    Defaults are those of the KDD 2020 experiments: deep 512-256-64, 6 cross layers.

    Args:
        group: any embedding group.
        dense_columns: width of the dense input; 0 for none.
        columns: what the matrix of ids holds; an id for every table unless given.
        deep_mlp: widths of the deep MLP.
        cross_layers: how many cross layers.
        seed: of the network's start.

    Raises:
        ValueError: for fewer than 1 cross layer.
    """

    name: ClassVar[str] = "dcn"

    def __init__(
        self,
        group: EmbeddingGroup,
        dense_columns: int = 13,
        *,
        columns: Sequence[Column] | None = None,
        deep_mlp: Sequence[int] = (512, 256, 64),
        cross_layers: int = 6,
        seed: int = 0,
    ) -> None:
        super().__init__(group, dense_columns, columns)
        if cross_layers < 1:
            raise ValueError(f"cross_layers={cross_layers} must be at least 1")
        generator = torch.Generator().manual_seed(seed)
        width = dense_columns + self.features.num_features * self.features.dim
        deep_widths = [width, *deep_mlp]
        self.cross = CrossLayers(width, cross_layers, generator)
        self.deep = mlp(deep_widths, generator, last_relu=True)
        self.output = linear(width + deep_widths[-1], 1, generator)

    def logits(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Logits `[batch]`; see the class."""
        inputs = torch.cat([dense, vectors.flatten(1)], dim=1)
        hidden = torch.cat([self.cross(inputs), self.deep(inputs)], dim=1)
        logits: Tensor = self.output(hidden)
        return logits.squeeze(1)
