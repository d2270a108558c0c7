"""The quality whose cost a study asks for: `auc=0.8025`, or relative to the full tables, `auc=full-0.005`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tablefold.train.target import RISING


@dataclass(frozen=True)
class Quality:
    """A figure of the validation part and the value to reach.

    Args:
        figure: "auc" or "logloss".
        value: to reach, or to add to what the full tables reach.
        relative: whether `value` is relative to the full tables.

    >>> Quality.parse("auc=full-0.005")
    Quality(figure='auc', value=-0.005, relative=True)
    >>> str(Quality.parse("logloss=0.45"))
    'logloss=0.45'
    """

    figure: str
    value: float
    relative: bool = False

    @classmethod
    def parse(cls, text: str) -> Quality:
        """The quality that a study's `target` names; `str` inverts it.

        Raises:
            ValueError: for anything else.
        """
        match = re.fullmatch(r"(auc|logloss)=(full)?([+-]?\d*\.?\d+)?", text.replace(" ", ""))
        if match is None or not (match[2] or match[3]):
            raise ValueError(f"target {text!r} must be auc=NUMBER, auc=full or auc=full-NUMBER (or logloss)")
        found = cls(match[1], float(match[3] or 0), bool(match[2]))
        least, most = (-1.0 if found.relative else 0.0), (1.0 if found.relative or found.figure == "auc" else 1e6)
        if not least <= found.value <= most:
            raise ValueError(f"target {text!r} can never be: its number must lie in {least:g} .. {most:g}")
        return found

    def __str__(self) -> str:
        if not self.relative:
            return f"{self.figure}={self.value:g}"
        return f"{self.figure}=full{f'{self.value:+g}' if self.value else ''}"

    def against(self, full_curves: Sequence[Sequence[dict[str, Any]]]) -> Quality | None:
        """This quality as a plain value: relative to the mean of the best that each full run reached on its way.

        None where that cannot be known: there are no full runs, or none has a curve.
        """
        if not self.relative:
            return self
        choose = max if RISING[self.figure] else min
        best = [choose(values) for curve in full_curves if (values := _known(curve, self.figure))]
        return Quality(self.figure, fmean(best) + self.value) if best else None

    def reached(self, curve: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """The first look at which a run was as good as this; None if it never was."""
        sign = 1 if RISING[self.figure] else -1
        good = (look for look in curve if sign * look[self.figure] >= sign * self.value)
        return next(good, None)


def _known(curve: Sequence[dict[str, Any]], figure: str) -> list[float]:
    """The figure at every look where it is defined."""
    return [look[figure] for look in curve if not math.isnan(look[figure])]
