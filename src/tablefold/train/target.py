"""A quality to train to: `auc=0.75`, `logloss=0.45`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tablefold.quoting import quoted
from tablefold.train.metrics import Metrics

RISING = {"auc": True, "logloss": False, "normalized_entropy": False}
"""The figures that can be a target, and whether more is better."""

LARGEST = {"auc": 1.0, "logloss": math.inf, "normalized_entropy": math.inf}
"""The most that a figure can be."""


@dataclass(frozen=True)
class Target:
    """A figure and the value it should reach on the validation part.

    Raises:
        ValueError: for a figure that cannot be a target, or a value that it cannot have.

    >>> Target.parse("auc=0.75")
    Target(figure='auc', value=0.75)
    """

    figure: str
    value: float

    def __post_init__(self) -> None:
        if self.figure not in RISING:
            raise ValueError(f"cannot train to {quoted(self.figure)}; a target is one of {', '.join(RISING)}")
        most = LARGEST[self.figure]
        if not 0 < self.value <= most or math.isinf(self.value):
            bounds = "greater than 0 and finite" if math.isinf(most) else f"greater than 0 and at most {most:g}"
            raise ValueError(f"target {self.figure}={self.value:g}: {self.figure} must be {bounds}")

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target that `figure=value` names; `str` inverts it."""
        figure, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            if figure.strip() in RISING:
                raise ValueError(f"target {quoted(text)} must be {figure}=NUMBER, such as auc=0.75") from None
            number = 1.0  # the figure is what is wrong
        return cls(figure.strip(), number)

    def __str__(self) -> str:
        return f"{self.figure}={self.value}"

    def reached(self, metrics: Metrics) -> bool:
        """Whether `metrics` are as good as the target."""
        value: float = getattr(metrics, self.figure)
        return value >= self.value if RISING[self.figure] else value <= self.value
