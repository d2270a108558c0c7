"""Storage: in how many bits the floats of memory are kept.

A format is a grid of values that memory may take. While a group works its memory is float32, every value on the grid;
saved, it takes the format's bytes:

    fp32    any float32                                                            4 bytes a float
    bf16    8 significant bits                                                     2
    fp16    11 significant bits, up to 65,504                                      2
    int8    an integer of -127 .. 127 times a power of two that `BLOCK` floats     1 + 1/32
            share (as MXINT8 of the Open Compute Project's Microscaling Formats, 2023)

What an optimiser has moved off the grid is rounded at random to one of its two neighbours, the nearer the likelier, so
that the expected value is the exact one: a step far smaller than the grid still counts on average, where rounding to
the nearest would lose it (Gupta et al., ICML 2015). Values on the grid stay as they are. A power of two as the
shared scale means that a block whose largest value grows or shrinks within a factor of two keeps its grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tablefold.hashing import derive_key
from tablefold.tables import FLOAT_BYTES

Storage = Literal["fp32", "bf16", "fp16", "int8"]
"""The format of memory."""

BLOCK = 32
"""Consecutive floats of int8 memory that share a power of two."""

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_BITS = {"bf16": (7, -126), "fp16": (10, -14)}  # fraction bits, smallest exponent of a normal number
_LARGEST_INTEGER = 127
_LARGEST_HALF = 65_504.0
_CHANCES = 1 << 12  # with 12 random bits, a sum with an integer of 11 bits is exact in float32
_ROUNDING_STREAM = 1 << 33  # far from the small numbers under which groups derive seeds


def check_storage(storage: str) -> None:
    """Refuse a word that names no format.

    Raises:
        ValueError: names the formats.
    """
    if storage not in get_args(Storage):
        raise ValueError(f"storage={storage!r} must be one of {', '.join(get_args(Storage))}")


def in_storage(method: str, storage: str) -> str:
    """A method's name in tables and plots: with the format of its memory, where that is not float32.

    >>> in_storage("robe:block=4", "int8")
    'robe:block=4 in int8'
    """
    return method if storage == "fp32" else f"{method} in {storage}"


def stored_bytes(floats: int, storage: Storage) -> int:
    """Bytes of so many floats of memory.

    >>> [stored_bytes(1000, storage) for storage in ("fp32", "bf16", "int8")]
    [4000, 2000, 1032]
    """
    if storage == "int8":
        return floats + -(-floats // BLOCK)
    return floats * (FLOAT_BYTES if storage == "fp32" else 2)


def most_floats(num_bytes: int, storage: Storage) -> int:
    """The most floats of memory that fit into `num_bytes`.

    >>> most_floats(1032, "int8")
    1000
    """
    if storage == "int8":
        whole, rest = divmod(num_bytes, BLOCK + 1)
        return whole * BLOCK + max(0, rest - 1)
    return num_bytes // (FLOAT_BYTES if storage == "fp32" else 2)


def round_at_random(values: Tensor, storage: Storage, generator: torch.Generator) -> Tensor:
    """`values`, each on the grid of a format: itself, or one of its two neighbours such that the mean is exact.

    Args:
        values: float32; for int8 `[blocks, BLOCK]`.
        storage: the format.
        generator: of the device of `values`.
    """
    if storage == "fp32":
        return values
    step = _step(values, storage)
    chance = torch.randint(_CHANCES, values.shape, generator=generator, device=values.device, dtype=torch.float32)
    number = torch.floor(values / step + (chance + 0.5) / _CHANCES)
    if storage == "int8":
        number.clamp_(-_LARGEST_INTEGER, _LARGEST_INTEGER)
    rounded = number * step
    return rounded.clamp_(-_LARGEST_HALF, _LARGEST_HALF) if storage == "fp16" else rounded


def _step(values: Tensor, storage: Storage) -> Tensor:
    """The distance of grid points around each value (int8: of each block), a power of two."""
    if storage == "int8":
        share, exponent = torch.frexp(values.abs().amax(dim=-1, keepdim=True) / _LARGEST_INTEGER)
        exponent = (exponent - (share == 0.5).to(exponent.dtype)).clamp_(-126, 120)
    else:
        fraction, smallest = _BITS[storage]
        exponent = (torch.frexp(values).exponent - 1).clamp_(min=smallest) - fraction
        exponent.clamp_(min=-126)
    return _power_of_two(exponent)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent for exponents of normal float32 numbers, by their bits: exact on every device."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)


def pack(memory: Tensor, storage: Storage) -> dict[str, Tensor]:
    """Memory on the grid of `storage` as it is saved; `unpack` inverts it exactly."""
    if storage == "int8":
        blocks = _blocks(memory)
        step = _step(blocks, storage)
        codes = (blocks / step).to(torch.int8).view(-1)[: memory.numel()].view_as(memory)
        return {"memory_codes": codes, "memory_exponents": (torch.frexp(step).exponent - 1).to(torch.int8).view(-1)}
    return {"memory": memory.to(_HALF[storage]) if storage in _HALF else memory}


def unpack(packed: Mapping[str, Tensor]) -> Tensor:
    """The float32 memory that `pack` was given.

    Raises:
        ValueError: where codes and exponents do not fit each other.
    """
    if "memory" in packed:
        return packed["memory"].float()
    codes, exponents = packed["memory_codes"], packed["memory_exponents"]
    if -(-codes.numel() // BLOCK) != exponents.numel():
        raise ValueError(
            f"int8 memory of {codes.numel()} numbers needs an exponent for each {BLOCK} of them; "
            f"the saved weights hold {exponents.numel()}: the file is damaged"
        )
    blocks = _blocks(codes.float()) * _power_of_two(exponents.view(-1, 1))
    return blocks.view(-1)[: codes.numel()].view_as(codes)


def _blocks(memory: Tensor) -> Tensor:
    """`[blocks, BLOCK]`, the last one filled up with zeros."""
    flat = memory.detach().reshape(-1)
    return F.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)


class Rounding(nn.Module):
    """Keeps a memory on the grid of its format, whatever optimiser moves it.

    `settle` is called before memory is read or saved. It rounds the rows that `tablefold.optim` says it has moved, and
    all of memory after a step of another optimiser or one with a dense gradient.

    Args:
        storage: the format.
        seed: of the random roundings.

    Attributes:
        rounds: how often memory was rounded, int64; part of the state dict, so that a resumed training draws on.
    """

    rounds: Tensor

    def __init__(self, storage: Storage, seed: int) -> None:
        super().__init__()
        self.storage: Storage = storage
        self._seed = seed
        self._version = -1  # of memory when it was last known to be on the grid
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def settle(self, memory: nn.Parameter) -> None:
        """Round what has moved since the last call, in place."""
        if memory._version == self._version or memory.is_meta:
            return
        rows = self._moved_rows(memory)
        generator = torch.Generator(memory.device).manual_seed(
            derive_key(self._seed, _ROUNDING_STREAM, int(self.rounds))
        )
        if rows is None:
            blocks = _blocks(memory) if self.storage == "int8" else memory.detach()
            rounded = round_at_random(blocks, self.storage, generator).view(-1)[: memory.numel()].view_as(memory)
            if not torch.equal(rounded, memory):
                memory.copy_(rounded)
                self.rounds += 1
        else:
            self._round_rows(memory, rows, generator)
            self.rounds += 1
        memory.moved = []  # type: ignore[attr-defined]  # `tablefold.optim` appends to it
        self._version = memory._version

    def _moved_rows(self, memory: nn.Parameter) -> Tensor | None:
        """The rows that may have moved; None for all."""
        version, moved = self._version, []
        for before, after, rows in getattr(memory, "moved", []):
            if before != version or rows is None:
                return None
            version = after
            moved.append(rows)
        return torch.unique(torch.cat(moved)) if moved and version == memory._version else None

    def _round_rows(self, memory: nn.Parameter, rows: Tensor, generator: torch.Generator) -> None:
        if self.storage != "int8":
            memory[rows] = round_at_random(memory[rows], self.storage, generator)
            return
        flat, width = memory.view(-1), memory.shape[1]
        first, last = rows * width // BLOCK, (rows * width + width - 1) // BLOCK
        reach = torch.arange(-(-width // BLOCK) + 1, device=rows.device)
        blocks = torch.unique(torch.minimum(first[:, None] + reach, last[:, None]))
        places = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=rows.device)
        there = places < flat.numel()
        values = flat[places.clamp(max=flat.numel() - 1)] * there
        flat[places[there]] = round_at_random(values, self.storage, generator)[there]
