"""The training loop: one model, one optimiser, batches in, figures out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tablefold.data import Batch, Part
from tablefold.train.metrics import Meter, Metrics
from tablefold.train.optim import build_optimizer
from tablefold.train.target import Target

EVALUATION_BATCH = 4096
"""Rows per batch in every evaluation: one size, so that the same weights give the same figures to the bit."""


class TrainingDivergedError(ValueError):
    """The loss is NaN or infinite; the model keeps the parameters it had before the step that found it."""


@dataclass
class Progress:
    """How far training is.

    Attributes:
        step: optimiser steps taken.
        epoch: epochs finished.
        batch: batches taken of the current epoch.
        examples: examples trained on, repeats included.
        seconds: spent training; evaluations are not counted.
        target_reached: whether the target ended the training.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    examples: int = 0
    seconds: float = 0.0
    target_reached: bool = False

    @property
    def samples_per_second(self) -> float:
        """Examples trained on per second of training."""
        return self.examples / self.seconds if self.seconds else math.nan


class Listener(Protocol):
    """Who is told how training goes."""

    def on_start(self, progress: Progress, steps: int) -> None:
        """Before the first step: where training begins or goes on, and how many steps there are in all."""

    def on_step(self, progress: Progress, loss: float) -> None:
        """After each step: its loss."""

    def on_record(self, record: dict[str, Any]) -> None:
        """Now and then: a line for `metrics.jsonl`, of the part "train" or "validation"."""

    def on_end(self) -> None:
        """After the last step, or when training fails."""


@dataclass(frozen=True)
class Schedule:
    """How long to train, in what batches, and when to look.

    Args:
        epochs: passes over the training part.
        batch_size: rows of a batch.
        seed: of the order of the rows; each epoch has its own.
        eval_every: steps between evaluations on the validation part; None evaluates after each epoch.
        until: stop once the validation part reaches this target.
        log_every: steps between records of the training loss.

    Raises:
        ValueError: for a number that must be positive and is not.
    """

    epochs: int = 1
    batch_size: int = 128
    seed: int = 0
    eval_every: int | None = None
    until: Target | None = None
    log_every: int = 100

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every", "log_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")


class Trainer:
    """Trains a click model: `fit` on one part, `evaluate` on another.

    Args:
        model: `model(dense, ids)` gives logits `[batch]`.
        optimizer: "adagrad", "amsgrad" or "sgd".
        lr: learning rate; None takes torch's default for the optimiser.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        listeners: told of every step and record.

    Raises:
        ValueError: for an unknown optimiser, a learning rate that is not positive, or a device that is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: str = "adagrad",
        lr: float | None = None,
        *,
        device: str = "auto",
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device)
        self.optimizer = build_optimizer(optimizer, model.parameters(), lr)
        self.listeners = tuple(listeners)
        self.progress = Progress()
        self._recent_loss: list[float] = []

    def fit(self, train: Part, schedule: Schedule, validation: Part | None = None) -> Progress:
        """Train on `train` as `schedule` says, from where `self.progress` is.

        Args:
            train: the rows to learn from, shuffled anew for each epoch.
            schedule: how long, in what batches.
            validation: evaluated on the way; needed for a target.

        Raises:
            TrainingDivergedError: when the loss is NaN or infinite.
            ValueError: for a target without validation rows, or an empty training part.
        """
        self._check(train, schedule, validation)
        progress = self.progress
        for listener in self.listeners:
            listener.on_start(progress, schedule.epochs * train.num_batches(schedule.batch_size))
        try:
            while progress.epoch < schedule.epochs and not progress.target_reached:
                self._epoch(train, schedule, validation)
        finally:
            for listener in self.listeners:
                listener.on_end()
        return progress

    def step(self, batch: Batch) -> float:
        """One optimiser step on one batch; gives its mean log loss before the step."""
        batch = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        self.model.train()
        logits: Tensor = self.model(batch.dense, batch.ids)
        loss = F.binary_cross_entropy_with_logits(logits, batch.label)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDivergedError(self._describe_divergence(value))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def evaluate(self, part: Part) -> Metrics:
        """The model's figures on a part."""
        meter = Meter()
        self.predict(part, meter.update)
        return meter.compute()

    @torch.inference_mode()
    def predict(self, part: Part, receive: Callable[[Tensor, Tensor], None]) -> None:
        """Hand logits and labels of each batch of a part to `receive`, in the part's order."""
        self.model.eval()
        for batch in part.batches(EVALUATION_BATCH):
            logits = self.model(batch.dense.to(self.device), batch.ids.to(self.device))
            receive(logits, batch.label)

    def _check(self, train: Part, schedule: Schedule, validation: Part | None) -> None:
        if not train.rows:
            raise ValueError("the training part has no rows")
        if schedule.until and not (validation and validation.rows):
            raise ValueError(f"until {schedule.until} needs a validation part with rows")

    def _epoch(self, train: Part, schedule: Schedule, validation: Part | None) -> None:
        """The rest of the current epoch, or up to the target."""
        progress = self.progress
        batches = train.batches(schedule.batch_size, seed=schedule.seed, epoch=progress.epoch, start=progress.batch)
        began = time.perf_counter()
        for batch in batches:
            loss = self.step(batch)
            progress.step += 1
            progress.batch += 1
            progress.examples += len(batch.label)
            now = time.perf_counter()
            progress.seconds += now - began
            began = now
            self._tell_step(loss, schedule)
            if schedule.eval_every and progress.step % schedule.eval_every == 0:
                self._look(schedule, validation)
                began = time.perf_counter()
                if progress.target_reached:
                    return
        progress.epoch += 1
        progress.batch = 0
        if not (schedule.eval_every and progress.step % schedule.eval_every == 0):
            self._look(schedule, validation)

    def _look(self, schedule: Schedule, validation: Part | None) -> None:
        if not (validation and validation.rows):
            return
        metrics = self.evaluate(validation)
        self._tell({"part": "validation", **asdict(self.progress), **metrics.as_dict()})
        self.progress.target_reached = bool(schedule.until and schedule.until.reached(metrics))

    def _tell_step(self, loss: float, schedule: Schedule) -> None:
        self._recent_loss.append(loss)
        for listener in self.listeners:
            listener.on_step(self.progress, loss)
        if self.progress.step % schedule.log_every == 0:
            mean = sum(self._recent_loss) / len(self._recent_loss)
            self._recent_loss.clear()
            rate = self.progress.samples_per_second
            self._tell({"part": "train", **asdict(self.progress), "loss": mean, "samples_per_second": rate})

    def _tell(self, record: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener.on_record(record)

    def _describe_divergence(self, loss: float) -> str:
        """Where, and which parameter's last gradient was the largest."""
        progress = self.progress
        norms = {
            name: float(parameter.grad.norm())
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        where = f"loss is {loss} at step {progress.step + 1} (epoch {progress.epoch + 1}, batch {progress.batch + 1})"
        if not norms:
            return f"{where}, before any update: look at the data and the start values"
        largest = max(norms, key=lambda name: math.inf if math.isnan(norms[name]) else norms[name])
        norm = f"{norms[largest]:.3g}"
        return f"{where}; the largest gradient of the step before is that of {largest}, norm {norm}: lower the lr"


def choose_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" (or "cuda:1") names.

    Raises:
        ValueError: for another name, or CUDA on a machine without it.
    """
    kind = name.partition(":")[0]
    if name != "auto" and kind not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; choose auto, cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("this machine has no CUDA device that torch can use; choose --device cpu or auto")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
