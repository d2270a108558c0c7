"""Scales of tables in few bits that learn while the codes stay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tablefold.formats.codes import SCALE_NAN, Codes, scales_of
from tablefold.formats.format import BLOCK


class LearnedScales:
    """The scales of an array in few bits (as LSQ learns a step; Esser and others, ICLR 2020), whose codes stay:

        read(w_i) = level(code(w_i)) * round(scale * exp(factor))

    An optimiser moves the factors, one for each block. After each step `write` moves the master to where its codes are
    as before and its scales are these, rounded to their byte: what is read while tuning is what is packed afterwards.

    Args:
        kept: the format.
        memory: the master.
    """

    def __init__(self, kept: Codes, memory: nn.Parameter) -> None:
        self.kept, self.memory = kept, memory
        self.packed = kept.encode(memory.detach())
        self.start = scales_of(self.packed[:, 0])
        self.factors = nn.Parameter(torch.zeros_like(self.start))

    @torch.no_grad()
    def take_gradient(self) -> None:
        """Turn the gradient of the master into that of the factors: straight through the rounding."""
        gradient, self.memory.grad = self.memory.grad, None
        if gradient is None:
            return
        rows, values = _by_row(gradient)
        places = rows[:, None] * self.memory.shape[1] + torch.arange(self.memory.shape[1], device=rows.device)
        costs = values * self.kept.decode(self.packed, places)
        blocks = (places // BLOCK).flatten()
        self.factors.grad = torch.zeros_like(self.factors).index_add_(0, blocks, costs.flatten())

    @torch.no_grad()
    def write(self) -> None:
        """Give the master the scales that the factors say; a block that cannot have its own keeps what it has."""
        scales = self.kept.scale_bytes(self.start * self.factors.exp()).clamp(max=SCALE_NAN - 1).to(torch.uint8)
        moved = torch.nonzero((scales != self.packed[:, 0]) & self.start.isfinite()).flatten()
        if not len(moved):
            return
        places = (moved[:, None] * BLOCK + torch.arange(BLOCK, device=moved.device)).flatten()
        places = places[places < self.memory.numel()]  # the last block may be shorter
        packed = torch.cat([scales[moved, None], self.packed[moved, 1:]], dim=1)
        master = self.kept.master(packed, len(places), 1)
        holds = (self.kept.encode(master) == packed).all(dim=1)
        self.packed[moved[holds]] = packed[holds]
        held = holds.repeat_interleave(BLOCK)[: len(places)]
        self.memory.view(-1)[places[held]] = master.view(-1)[held]


def _by_row(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """(the rows that have a gradient, it); a row may stand there twice."""
    if gradient.is_sparse:
        return gradient._indices()[0], gradient._values()
    return torch.arange(len(gradient), device=gradient.device), gradient
