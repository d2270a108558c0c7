"""MPE ("Mixed-precision embeddings for large-scale recommendation models", arXiv 2409.20305): bits by groups of ids.

Ids are sorted by how often they are read, in 128 groups of equal size. First training: a vector is the mixture, over 0
to 6 bits, of its quantised forms, in shares that each group learns by softmax, while a penalty on the expected bits
grows until the budget is met. Then each group takes the bits that its shares say, at the budget, and everything is
trained anew with these. The quantiser is uniform, its range learned for each table and number of bits (LSQ's gradient);
an offset of each table is learned beside; 0 bits leave the offset alone.

The bits of an id follow from its rank: where ids are numbered by frequency, an edge where bits change; else a pointer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rival import Rival, Task, bits_for
from torch import Tensor, nn
from torch.nn import functional as F

MOST_BITS = 6
GROUPS = 128
SHARPNESS = 10.0
"""Of the softmax: so that shares can part within a short training."""

RISE, FALL = 1.02, 0.98
"""The penalty's factor for a step above, and one below, where the expected bits should be."""


class Mpe(Rival):
    """The first training.

    Args:
        task: what it is made for.
    """

    group: Tensor
    searches = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.values = task.uniform(task.ids, self.dim, salt=1)
        self.ranges = nn.Parameter(torch.full((len(task.tables), MOST_BITS), 0.035))
        self.offsets = nn.Parameter(torch.zeros(len(task.tables), self.dim))
        self.shares = nn.Parameter(torch.zeros(GROUPS, MOST_BITS + 1))
        counts = np.concatenate(task.counts)
        order = np.argsort(-counts, kind="stable")
        group = np.empty(task.ids, dtype=np.int64)
        group[order] = np.arange(task.ids) * GROUPS // task.ids
        self.register_buffer("group", torch.from_numpy(group))
        self.sizes = torch.bincount(self.group, minlength=GROUPS).double()
        self.penalty, self.step, self.steps = 1e-4, 0, 1

    @classmethod
    def fit(cls, task: Task) -> Mpe:
        """The first training for a budget."""
        return cls(task)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[batch, tables, dim]`."""
        numbers = ids + self.firsts
        values = F.embedding(numbers, self.values)
        shares = self._shares()
        own = shares[self.group[numbers]]
        found = self.offsets.expand_as(values)
        for bits in range(1, MOST_BITS + 1):
            levels = quantised(values, self.ranges[:, bits - 1, None], bits)
            found = found + own[..., bits, None] * levels
        if self.training and found.requires_grad:
            found = _Beside.apply(found, self.penalty * self._expected(shares))
        return found

    @property
    def num_bytes(self) -> int:
        """At the bits that would be chosen now."""
        return num_bytes(self.task, self.chosen()[self.group])

    def after_step(self, step: int) -> None:
        """Let the penalty follow the bits: down to the budget's within two thirds of the training."""
        target = self._target()
        done = min(1.0, step / (self.steps * 2 / 3))
        aim = target + (1 - done) * (MOST_BITS / 2 - target)
        with torch.no_grad():
            now = float(self._expected(self._shares()))
        self.penalty = min(10.0, max(1e-6, self.penalty * (RISE if now > aim else FALL)))

    def chosen(self) -> Tensor:
        """Bits of each group: what its shares make likeliest, at the price of a bit that just meets the budget."""
        with torch.no_grad():
            odds = (SHARPNESS * self.shares).log_softmax(dim=1).double()
        levels, low, high = torch.arange(MOST_BITS + 1), -1000.0, 1000.0
        for _ in range(60):
            price = (low + high) / 2
            fits = self._fits((odds - price * levels).argmax(dim=1))
            low, high = (low, price) if fits else (price, high)
        bits, more = (odds - high * levels).argmax(dim=1), (odds - low * levels).argmax(dim=1)
        for group in range(GROUPS):  # what is left goes to the most frequent
            wider = torch.where(torch.arange(GROUPS) == group, more, bits)
            bits = wider if self._fits(wider) else bits
        return bits

    def second(self) -> Rival:
        """Trained anew with the chosen bits."""
        return Fixed(self.task, self.chosen()[self.group])

    def _fits(self, bits: Tensor) -> bool:
        return num_bytes(self.task, bits[self.group]) <= self.task.budget

    def _shares(self) -> Tensor:
        return (SHARPNESS * self.shares).softmax(dim=1)

    def _expected(self, shares: Tensor) -> Tensor:
        """Bits of a float, the mean over all ids."""
        bits = torch.arange(MOST_BITS + 1, dtype=shares.dtype)
        return (self.sizes.to(shares.dtype) / self.sizes.sum().item()) @ (shares @ bits)

    def _target(self) -> float:
        return 8 * self.task.budget / (self.task.ids * self.dim)


class Fixed(Rival):
    """The second training: each id in its bits.

    Args:
        task: what it is made for.
        bits: of each id.
    """

    bits: Tensor

    def __init__(self, task: Task, bits: Tensor) -> None:
        super().__init__(task)
        self.values = task.uniform(task.ids, self.dim, salt=2)
        self.ranges = nn.Parameter(torch.full((len(task.tables), MOST_BITS + 1), 0.035))
        self.offsets = nn.Parameter(torch.zeros(len(task.tables), self.dim))
        self.register_buffer("bits", bits)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[batch, tables, dim]`."""
        numbers = ids + self.firsts
        values, bits = F.embedding(numbers, self.values), self.bits[numbers]
        ranges = self.ranges[torch.arange(len(self.tables)), bits]
        levels = quantised(values, ranges[..., None], bits[..., None])
        return self.offsets + levels * (bits > 0)[..., None]

    @property
    def num_bytes(self) -> int:
        """At these bits."""
        return num_bytes(self.task, self.bits)

    @property
    def pointer_bytes(self) -> int:
        """The bits of each id."""
        return -(-self.task.ids * bits_for(len(self.bits.unique())) // 8)


def quantised(values: Tensor, ranges: Tensor, bits: int | Tensor) -> Tensor:
    """Values on 2^bits levels, half a step to both sides of zero, within a range. Gradients go straight through to
    values, those beyond the range too (which else stay there), and to the range as LSQ's (Esser et al., ICLR 2020)."""
    ranges = ranges.abs().clamp(min=1e-4)
    most = 2.0 ** (bits - 1)
    scaled = (values / ranges).detach()
    steps = ((scaled * most).floor().clamp(max=most - 1, min=-most) + 0.5) / most
    inside = scaled * (scaled.abs() <= 1)
    return values + (steps * ranges - values).detach() + (ranges - ranges.detach()) * (steps - inside)


class _Beside(torch.autograd.Function):
    """Vectors as they are, and a scalar that is added to the loss."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, scalar: Tensor) -> Tensor:
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, torch.ones((), dtype=gradient.dtype)


def num_bytes(task: Task, bits: Tensor) -> int:
    """Codes of ids in so many bits, ranges, offsets, and where bits change in a dictionary by falling frequency."""
    tables, dim = task.tables, task.tables[0].dim
    codes = -(-int(bits.sum()) * dim // 8)
    parts = bits.split([table.vocabulary for table in tables])
    orders = [torch.from_numpy(np.argsort(-counts, kind="stable")) for counts in task.counts]
    edges = sum(int((part[order].diff() != 0).sum()) for part, order in zip(parts, orders, strict=True))
    return codes + 4 * (len(tables) * (MOST_BITS + 1 + dim) + edges)
