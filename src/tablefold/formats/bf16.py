"""bfloat16: float32 cut to 8 significant bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.formats.format import Answer, Format, replaced


@dataclass(frozen=True)
class Brain(Format):
    """Each float rounded to the nearest bfloat16, ties to even: 2 bytes a float."""

    def num_bytes(self, floats: int) -> int:
        """2 bytes a float."""
        return 2 * floats

    def packed_like(self, rows: int, width: int) -> Tensor:
        """bfloat16 `[rows, width]`."""
        return torch.empty(rows, width, dtype=torch.bfloat16, device="meta")

    def encode(self, memory: Float[Tensor, "rows width"]) -> Tensor:
        """Rounded to the nearest."""
        return memory.to(torch.bfloat16)

    def decode(self, packed: Tensor, places: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The floats at some places."""
        return packed.reshape(-1)[places].float()

    def lowered_rows(
        self, kept: tuple[Tensor, ...], numbers: Int64[Tensor, "*shape"], width: int, answer: Answer | None
    ) -> Float[Tensor, "*shape width"]:
        """Gathered whole."""
        return replaced(F.embedding(numbers, kept[0]).float(), answer)

    def read(self, memory: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Rounded; torch's own casts hand the gradient straight through, but in bfloat16."""
        zero = torch.nan_to_num(memory.detach() - memory, nan=0.0)  # what is infinite stays so, as in `encode`
        return memory.detach().to(torch.bfloat16).to(memory.dtype) - zero


BF16 = Brain("bf16", 16)
