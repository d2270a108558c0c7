"""Room in large pages."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALIGNED_BYTES = 256
"""Arrays begin at addresses that are multiples of it: at whole cache lines, and at whole blocks of every format."""


def in_large_pages(like: Tensor, device: torch.device) -> Tensor:
    """Room for a tensor of the type and shape of `like`, not filled; on a CPU in large pages.

    numpy asks the system for large pages, torch does not: where each of the rows that a batch reads from gigabytes lies
    on a page of its own, finding the pages takes as long as the rows.
    """
    if device.type != "cpu":
        return torch.empty_like(like, device=device)
    array = np.empty(like.nbytes + ALIGNED_BYTES, dtype=np.uint8)
    first = -array.ctypes.data % ALIGNED_BYTES
    return torch.from_numpy(array[first : first + like.nbytes]).view(like.dtype).view(like.shape)
