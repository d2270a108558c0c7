"""What a format is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

BLOCK = 32
"""So many consecutive floats of an array share a scale, in formats that have one."""


Answer = tuple[Bool[Tensor, "*shape"], float]
"""Which ids are outside their table, and the number that their vectors are made of."""


def replaced(vectors: Tensor, answer: Answer | None) -> Tensor:
    """Vectors `[*shape, width]`, those of some made of a number; no number by a sum, which is faster than a choice."""
    if answer is None:
        return vectors
    wild, fill = answer
    if math.isnan(fill):
        return vectors + (0.0 / (~wild).to(vectors.dtype))[..., None]
    return vectors.masked_fill(wild[..., None], fill)


@dataclass(frozen=True)
class Format(ABC):
    """How an array of memory `[rows, width]` is kept, and what is read of it.

    Args:
        name: the word for it, on the command line and in files.
        bits: of one float's code.
    """

    name: str
    bits: int

    @property
    def answers_in_scales(self) -> bool:
        """Whether `lowered_rows` replaces a row by replacing its scale, which costs less than all its floats."""
        return False

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

    def master(self, packed: Tensor, rows: int, width: int) -> Float[Tensor, "rows width"]:
        """A master of `[rows, width]` floats that `encode` packs to this again: a training can go on from it."""
        return self.decode(packed, torch.arange(rows * width, device=packed.device)).view(rows, width)

    def lower(self, packed: Tensor, rows: int, width: int) -> tuple[Tensor, ...]:
        """What an exported program keeps of an array of `[rows, width]` floats that `encode` gave, for `lowered_rows`.

        It is computed once, when a model is exported, of tensor operations whose results are no larger than the array.
        """
        return (packed,)

    @abstractmethod
    def lowered_rows(
        self, kept: tuple[Tensor, ...], numbers: Int64[Tensor, "*shape"], width: int, answer: Answer | None
    ) -> Float[Tensor, "*shape width"]:
        """The rows of some numbers in an exported program, in as few operations as ONNX needs.

        Args:
            kept: what `lower` gave.
            numbers: of the rows.
            width: floats of a row.
            answer: which rows to replace, and by what.
        """

    @abstractmethod
    def read(self, memory: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """What is read of a master: `encode`, then `decode`, with a gradient that goes straight through."""
