"""How long to train, how far training is, and who is told of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tablefold.fields import settle_fields
from tablefold.quoting import quoted
from tablefold.train.target import Target


@dataclass(frozen=True)
class Schedule:
    """How long to train, in what batches, and when to look.

    Args:
        epochs: passes over the training part.
        batch_size: rows of a batch.
        seed: of the order of the rows; each epoch has its own.
        eval_every: steps between evaluations on the validation part; None evaluates after each epoch.
        until: stop once the validation part reaches this target.
        patience: stop after so many evaluations in a row that did not lower the best validation log loss; the
            weights of the best one are kept. None trains on to the end and keeps the last ones.
        log_every: steps between records of the training loss.
        lr_decay: how the learning rate falls to 0 over all steps: "linear" or "cosine"; None keeps it.

    Raises:
        ValueError: for a number that must be a positive integer and is not, or an unknown decay.
    """

    epochs: int = 1
    batch_size: int = 128
    seed: int = 0
    eval_every: int | None = None
    until: Target | None = None
    patience: int | None = None
    log_every: int = 100
    lr_decay: str | None = None

    def __post_init__(self) -> None:
        settle_fields(self)
        for name in ("epochs", "batch_size", "eval_every", "patience", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.lr_decay not in (None, "linear", "cosine"):
            raise ValueError(f"lr_decay={quoted(self.lr_decay)} must be linear or cosine")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, as a share of the first one's.

        >>> Schedule(lr_decay="linear").rate(75, 100), Schedule(lr_decay="cosine").rate(50, 100)
        (0.25, 0.5)
        """
        left = 1 - min(step, steps - 1) / max(1, steps)
        if self.lr_decay is None:
            return 1.0
        return left if self.lr_decay == "linear" else round((1 - math.cos(math.pi * left)) / 2, 12)

    @property
    def needs_validation(self) -> str | None:
        """The option that cannot do without validation rows, if one is set."""
        return f"until {self.until}" if self.until else f"patience={self.patience}" if self.patience else None


@dataclass
class Progress:
    """How far training is.

    Attributes:
        step: optimiser steps taken.
        epoch: epochs finished.
        batch: batches taken of the current epoch.
        examples: examples trained on, repeats included.
        seconds: spent training; evaluations are not counted.
        first_step: examples and seconds of the first step, which compiles kernels where none are on disk yet.
        target_reached: whether the target ended the training.
        best_logloss: lowest on the validation part so far; kept for `patience` only.
        best_step: after which step.
        looks_since_best: evaluations since.
        out_of_patience: whether that ended the training.

    Raises:
        ValueError: for a count below 0.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    examples: int = 0
    seconds: float = 0.0
    first_step: tuple[int, float] = (0, 0.0)
    target_reached: bool = False
    best_logloss: float | None = None
    best_step: int | None = None
    looks_since_best: int = 0
    out_of_patience: bool = False

    def __post_init__(self) -> None:
        for name in ("step", "epoch", "batch", "examples", "seconds", "looks_since_best"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")

    @property
    def finished(self) -> bool:
        """Whether training ended before its last epoch."""
        return self.target_reached or self.out_of_patience

    @property
    def samples_per_second(self) -> float:
        """Examples trained on per second of training, the first step left out."""
        first_examples, first_seconds = self.first_step if self.step > 1 else (0, 0.0)
        seconds = self.seconds - first_seconds
        return (self.examples - first_examples) / seconds if seconds > 0 else math.nan

    def count(self, examples: int, seconds: float) -> None:
        """One more step, on so many examples, in so much time."""
        self.step += 1
        self.batch += 1
        self.examples += examples
        self.seconds += seconds
        if self.step == 1:
            self.first_step = examples, seconds

    def position(self) -> dict[str, Any]:
        """What records say of it."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "examples": self.examples,
            "seconds": self.seconds,
        }


class Listener:
    """Who is told how training goes; a subclass overrides what it wants to hear."""

    def on_start(self, progress: Progress, steps: int) -> None:
        """Before the first step: where training begins or goes on, and how many steps there are in all."""

    def on_step(self, progress: Progress, loss: float) -> None:
        """After each step: its loss, before the step."""

    def on_record(self, record: dict[str, Any]) -> None:
        """Now and then: a line for `metrics.jsonl`, of the part "train" or "validation"."""

    def on_rest(self, progress: Progress) -> None:
        """After each step and the evaluation that belongs to it: training can go on from here."""

    def on_notice(self, text: str) -> None:
        """Something the user should know."""

    def on_end(self) -> None:
        """After the last step, or when training fails."""
