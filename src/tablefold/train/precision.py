"""In what arithmetic a model computes; its parameters, its optimiser and the loss are float32 in each.

| name   | matrix products                                                    | where                       |
|--------|--------------------------------------------------------------------|-----------------------------|
| `fp32` | float32                                                            | everywhere                  |
| `tf32` | float32 rounded to 10 bits of mantissa, summed in float32          | CUDA, from Ampere on        |
| `bf16` | bfloat16, 7 bits of mantissa, summed in float32 (torch's autocast) | CUDA, CPUs (fast with AMX)  |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("fp32", "tf32", "bf16")


def check_precision(name: str, device: torch.device | None = None) -> None:
    """Refuse a precision that is unknown, or that the device, if it is known, does not have.

    Raises:
        ValueError: with what can be chosen instead.
    """
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}; choose one of {', '.join(PRECISIONS)}")
    if name == "tf32" and device is not None and device.type != "cuda":
        raise ValueError(f"precision tf32 needs a CUDA device, and this is the {device.type}; choose fp32 or bf16")


def nearest_precision(name: str, device: torch.device) -> str:
    """The precision of a run, or where the device does not have it the finer one that it has.

    >>> nearest_precision("tf32", torch.device("cpu"))
    'fp32'
    """
    return "fp32" if name == "tf32" and device.type != "cuda" else name


@contextmanager
def matrix_products(name: str) -> Iterator[None]:
    """Let torch round the operands of float32 matrix products to TF32 for `tf32`, and to nothing for the others.

    The setting is torch's, for the whole process: it is as before when the block ends.

    >>> with matrix_products("tf32"):
    ...     torch.get_float32_matmul_precision()
    'high'
    >>> torch.get_float32_matmul_precision()
    'highest'
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
