"""Linear layers and stacks of them, started from a generator of their own.

`torch.nn.Linear` draws its start from the global random state; here every start is a function of a seed.
Weights are Xavier normal, variance 2 / (inputs + outputs), as in the DLRM reference; biases start at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer `[..., inputs] -> [..., outputs]`: Xavier normal weight, zero bias.

    Raises:
        ValueError: when a width is below 1.

    >>> linear(3, 2, torch.Generator().manual_seed(0)).bias.tolist()
    [0.0, 0.0]
    """
    if inputs < 1 or outputs < 1:
        raise ValueError(f"a layer of {inputs} -> {outputs} is not possible: every width must be at least 1")
    device = torch.get_default_device()
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device=device)  # no draw from the global state
    nn.init.xavier_normal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(widths: Sequence[int], generator: torch.Generator, *, last_relu: bool) -> nn.Sequential:
    """Linear layers with ReLU between: `[batch, widths[0]] -> [batch, widths[-1]]`.

    Args:
        widths: input width, hidden widths, output width; a single width is the identity.
        generator: where the start is drawn from.
        last_relu: whether a ReLU follows the last layer too (no for logits).

    >>> net = mlp([13, 512, 16], torch.Generator().manual_seed(0), last_relu=True)
    >>> net(torch.zeros(4, 13)).shape
    torch.Size([4, 16])
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [linear(inputs, outputs, generator), nn.ReLU()]
    if layers and not last_relu:
        layers.pop()
    return nn.Sequential(*layers)
