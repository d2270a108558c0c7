"""The metric of a loss, as methods compute with it."""

from __future__ import annotations

import torch
from torch import Tensor


def roots(metric: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The symmetric square root of a metric and its inverse; directions that cost nothing count a thousandth of the
    dearest, so that there is one."""
    if metric is None:
        return None, None
    values, vectors = torch.linalg.eigh(metric.double())
    values = values.clamp(min=float(values.max()) * 1e-3).sqrt()
    return (vectors * values @ vectors.T).float(), (vectors / values @ vectors.T).float()
