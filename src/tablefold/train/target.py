"""A quality to train to: `auc=0.75`, `logloss=0.45`."""

from __future__ import annotations

from dataclasses import dataclass

from tablefold.train.metrics import Metrics

RISING = {"auc": True, "logloss": False, "normalized_entropy": False}
"""The figures that can be a target, and whether more is better."""


@dataclass(frozen=True)
class Target:
    """A figure and the value it should reach on the validation part.

    Raises:
        ValueError: for a figure that cannot be a target.

    >>> Target.parse("auc=0.75")
    Target(figure='auc', value=0.75)
    """

    figure: str
    value: float

    def __post_init__(self) -> None:
        if self.figure not in RISING:
            raise ValueError(f"cannot train to {self.figure!r}; a target is one of {', '.join(RISING)}")

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target that `figure=value` names; `str` inverts it."""
        figure, _, value = text.partition("=")
        try:
            return cls(figure.strip(), float(value))
        except ValueError as error:
            if figure.strip() not in RISING:
                raise
            raise ValueError(f"target {text!r} must be {figure}=NUMBER, such as auc=0.75") from error

    def __str__(self) -> str:
        return f"{self.figure}={self.value}"

    def reached(self, metrics: Metrics) -> bool:
        """Whether `metrics` are as good as the target."""
        value: float = getattr(metrics, self.figure)
        return value >= self.value if RISING[self.figure] else value <= self.value
