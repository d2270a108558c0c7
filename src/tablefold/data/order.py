"""In which order an epoch visits the rows of a part.

Shuffling row by row would touch a random page of the disk per row, so rows are shuffled by blocks: the part is cut into
blocks of consecutive rows, the blocks are permuted, and the rows of every `WINDOW_BLOCKS` successive blocks (a window)
are permuted among themselves. A part of up to one window is shuffled perfectly. Window and order depend on
`(seed, epoch)` alone, and any window can be made without those before it: an epoch resumes anywhere at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 8192
WINDOW_BLOCKS = 32


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch over `rows` rows; `seed=None` keeps the order of the files.

    Args:
        rows: rows of the part.
        seed: any non-negative int, or None.
        epoch: each epoch has an order of its own.
    """

    rows: int
    seed: int | None
    epoch: int = 0

    def __post_init__(self) -> None:
        if self.epoch < 0 or (self.seed is not None and self.seed < 0):
            raise ValueError(f"seed={self.seed} and epoch={self.epoch} must not be negative")

    def blocks(self) -> NDArray[np.int64]:
        """Numbers of the blocks of `BLOCK_ROWS` rows, in the order of the epoch; the last block may be short."""
        blocks = np.arange(-(-self.rows // BLOCK_ROWS), dtype=np.int64)
        return blocks if self.seed is None else np.random.default_rng([self.seed, self.epoch]).permutation(blocks)

    def windows(self) -> list[NDArray[np.int64]]:
        """The blocks of each window."""
        blocks = self.blocks()
        return [blocks[first : first + WINDOW_BLOCKS] for first in range(0, len(blocks), WINDOW_BLOCKS)]

    def window_ends(self) -> NDArray[np.int64]:
        """Position in the epoch at which each window ends."""
        sizes = [int(np.minimum(self.rows - blocks * BLOCK_ROWS, BLOCK_ROWS).sum()) for blocks in self.windows()]
        return np.cumsum(sizes, dtype=np.int64)

    def within(self, window: int, size: int) -> NDArray[np.int64]:
        """The order in which to read the `size` rows of `window`."""
        if self.seed is None:
            return np.arange(size, dtype=np.int64)
        return np.random.default_rng([self.seed, self.epoch, 1 + window]).permutation(size)
