"""The best that any model can reach on a synthetic log: what the model that drew its labels reaches.

It is kept beside the raw log, in `LOG.best.json`, goes into the dataset's schema with it, and lets every run report how
far above it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tablefold.data.schema import PARTS, read_best
from tablefold.data.split import Split
from tablefold.files import new_file
from tablefold.json_files import load_json

_BINS = 1 << 16


class BestReachable:
    """Log loss and AUC, per part, of the true probabilities of a log that is read once, in order."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._row = 0
        self._loss = dict.fromkeys(PARTS, 0.0)
        self._bins = {part: np.zeros((2, _BINS), dtype=np.int64) for part in PARTS}

    def add(self, label: NDArray[Any], probability: NDArray[np.float64]) -> None:
        """The next rows of the log."""
        bins = (probability * _BINS).astype(np.int64)
        loss = -np.log(np.where(label == 1, probability, 1 - probability))
        for part, piece in self._split.pieces(self._row, self._row + len(label)):
            self._loss[part] += float(loss[piece].sum())
            for value in (0, 1):
                chosen = bins[piece][label[piece] == value]
                self._bins[part][value] += np.bincount(chosen, minlength=_BINS)
        self._row += len(label)

    def result(self) -> dict[str, dict[str, float]]:
        """The "logloss" (natural log) and "auc" of every part; a part without both labels has no "auc"."""
        result = {}
        for part, first, last in zip(PARTS, self._split.bounds[:-1], self._split.bounds[1:], strict=True):
            if last > first:
                result[part] = {"logloss": self._loss[part] / (last - first)}
                negatives, positives = self._bins[part]
                if negatives.any() and positives.any():
                    result[part]["auc"] = _auc(negatives, positives)
        return result

    def save(self, log: Path) -> None:
        """Write `LOG.best.json` beside the log."""
        with new_file(best_file(log)) as file:
            file.write_text(json.dumps(self.result(), indent=1) + "\n", encoding="utf-8")


def best_file(log: str | Path) -> Path:
    """Where the best reachable figures of a raw log are kept."""
    return Path(f"{log}.best.json")


def load_best(files: tuple[str, ...]) -> dict[str, dict[str, float]] | None:
    """The figures kept beside a single raw log; None for a log that has none.

    Raises:
        ValueError: where the file is damaged.
    """
    if len(files) != 1 or not best_file(files[0]).is_file():
        return None
    return read_best(load_json(best_file(files[0])))


def _auc(negatives: NDArray[np.int64], positives: NDArray[np.int64]) -> float:
    """The share of (positive, negative) pairs in the right order; pairs in one bin count one half."""
    below = np.cumsum(negatives) - negatives
    pairs = float(negatives.sum()) * float(positives.sum())
    return float((positives * (below + 0.5 * negatives)).sum() / pairs)
