"""What a format is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

BLOCK = 32
"""So many consecutive floats of an array share a scale, in formats that have one."""


@dataclass(frozen=True)
class Format(ABC):
    """How an array of memory `[rows, width]` is kept, and what is read of it.

    Args:
        name: the word for it, on the command line and in files.
        bits: of one float's code.
    """

    name: str
    bits: int

    @abstractmethod
    def num_bytes(self, floats: int) -> int:
        """Bytes of an array of so many floats, scales included."""

    @abstractmethod
    def packed_like(self, rows: int, width: int) -> Tensor:
        """An array of `[rows, width]` floats in this format, on the device "meta": its type and shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Of an array in this format."""
        return self.packed_like(1, 1).dtype

    @abstractmethod
    def encode(self, memory: Float[Tensor, "rows width"]) -> Tensor:
        """The master in this format: an array as `packed_like` says."""

    @abstractmethod
    def decode(self, packed: Tensor, places: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The float32 that are read at some places, numbers of floats in an array that `encode` gave."""

    @abstractmethod
    def read(self, memory: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """What is read of a master: `encode`, then `decode`, with a gradient that goes straight through."""
