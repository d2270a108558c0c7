"""How rows are dealt to train, test and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tablefold.data.schema import PARTS

DAYS = 7


@dataclass(frozen=True)
class Split:
    """Parts of a log by order: rows `bounds[0] .. bounds[1] - 1` train, then test, then validation."""

    bounds: tuple[int, int, int, int]

    @classmethod
    def by_order(cls, rows: int) -> Split:
        """First 6/7 train, first half of the rest test, second half validation.

        As if the log were cut into seven days of equal length, the first ones a row longer where it does not divide.

        >>> Split.by_order(45_840_617).bounds
        (0, 39291958, 42566288, 45840617)
        """
        train = (DAYS - 1) * (rows // DAYS) + min(rows % DAYS, DAYS - 1)
        return cls((0, train, train + (rows - train + 1) // 2, rows))

    @classmethod
    def last_file(cls, files: Sequence[str], rows: Sequence[int]) -> Split:
        """All files but the last train; the last one's first half tests, its second half validates.

        Args:
            files: of each shard, the file it is from.
            rows: of each shard.
        """
        total = sum(rows)
        last = sum(count for file, count in zip(files, rows, strict=True) if file == files[-1])
        return cls((0, total - last, total - last + (last + 1) // 2, total))

    @property
    def train_rows(self) -> int:
        """Rows of the training part."""
        return self.bounds[1]

    def pieces(self, start: int, stop: int) -> list[tuple[str, slice]]:
        """How rows `start .. stop - 1` fall into parts: the part's name and a slice relative to `start`."""
        pieces = []
        for part, first, last in zip(PARTS, self.bounds[:-1], self.bounds[1:], strict=True):
            begin, end = max(start, first), min(stop, last)
            if begin < end:
                pieces.append((part, slice(begin - start, end - start)))
        return pieces
