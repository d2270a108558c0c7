"""Storage: in how many bits the floats of memory are kept.

A format is a grid of values that memory may take. While a group works its memory is float32, every value on the grid;
saved, it takes the format's bytes:

    fp32    any float32                                                            4 bytes a float
    bf16    8 significant bits                                                     2
    fp16    11 significant bits, up to 65,504                                      2
    int8    an integer of -127 .. 127 times a power of two that `BLOCK` floats     1 + 1/32
            share (as MXINT8 of the Open Compute Project's Microscaling Formats, 2023)

What an optimiser has moved off the grid is rounded at random to one of its two neighbours, more often to the nearer, so
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
from tablefold.ops.rounding import BLOCK, grid_step, power_of_two, round_memory
from tablefold.tables import FLOAT_BYTES

Storage = Literal["fp32", "bf16", "fp16", "int8"]
"""The format of memory."""

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
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


def pack(memory: Tensor, storage: Storage) -> dict[str, Tensor]:
    """Memory on the grid of `storage` as it is saved; `unpack` inverts it exactly."""
    if storage == "int8":
        blocks = _blocks(memory)
        step = grid_step(blocks, storage)
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
    if {codes.dtype, exponents.dtype} != {torch.int8}:
        raise ValueError(f"int8 memory is saved as int8; got {codes.dtype} and {exponents.dtype}: the file is damaged")
    blocks = _blocks(codes.float()) * power_of_two(exponents.view(-1, 1))
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
        if memory.is_meta or _version(memory) == self._version:
            return
        key = derive_key(self._seed, _ROUNDING_STREAM, int(self.rounds))
        if round_memory(memory, self._moved_rows(memory), self.storage, key):
            self.rounds += 1
        memory.moved = []  # type: ignore[attr-defined]  # `tablefold.optim` appends to it
        self._version = _version(memory)

    def _moved_rows(self, memory: nn.Parameter) -> Tensor | None:
        """The rows that may have moved; None for all."""
        version, moved = self._version, []
        for before, after, rows in getattr(memory, "moved", []):
            if before != version or rows is None:
                return None
            version = after
            moved.append(rows)
        if not moved or version != _version(memory):
            return None
        several: Tensor = torch.unique(torch.cat(moved)) if len(moved) > 1 else moved[0]
        return several


def _version(memory: Tensor) -> int:
    """Torch's count of edits; what is made under inference mode has none, and is rounded once."""
    return 0 if memory.is_inference() else memory._version
