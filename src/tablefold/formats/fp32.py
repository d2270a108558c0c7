"""float32: memory as it is computed with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from tablefold.formats.format import Answer, Format, replaced


@dataclass(frozen=True)
class Exact(Format):
    """What is read is what the optimiser moves, whatever its type: 4 bytes a float in float32."""

    def num_bytes(self, floats: int) -> int:
        """4 bytes a float."""
        return 4 * floats

    def packed_like(self, rows: int, width: int) -> Tensor:
        """float32 `[rows, width]`."""
        return torch.empty(rows, width, dtype=torch.float32, device="meta")

    def encode(self, memory: Float[Tensor, "rows width"]) -> Tensor:
        """The memory itself."""
        return memory

    def decode(self, packed: Tensor, places: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The floats at some places."""
        return packed.reshape(-1)[places]

    def lowered_rows(
        self, kept: tuple[Tensor, ...], numbers: Int64[Tensor, "*shape"], width: int, answer: Answer | None
    ) -> Float[Tensor, "*shape width"]:
        """Gathered whole."""
        return replaced(F.embedding(numbers, kept[0]), answer)

    def read(self, memory: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """The memory itself."""
        return memory


FP32 = Exact("fp32", 32)
