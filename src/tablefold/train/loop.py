"""The training loop: one model, one optimiser, batches in, figures out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tablefold.data import Batch, Part
from tablefold.models import Network
from tablefold.quoting import quoted
from tablefold.train.compiled_network import Forward, compiled
from tablefold.train.metrics import Meter, Metrics
from tablefold.train.optimizer import build_optimizer
from tablefold.train.precision import check_precision, matrix_products
from tablefold.train.progress import Listener, Progress, Schedule
from tablefold.train.world import World

EVALUATION_BATCH = 4096
"""Rows per batch in every evaluation: one size, so that the same weights give the same figures to the bit."""


class TrainingDivergedError(ValueError):
    """The loss is NaN or infinite; the model keeps the parameters it had before the step that found it."""


class Trainer:
    """Trains a click model: `fit` on one part, `evaluate` on another.

    Args:
        model: `model(dense, ids)` gives logits `[batch]`.
        optimizer: "adagrad", "amsgrad", "sgd" or "rowwise_adagrad".
        lr: learning rate; None takes torch's default for the optimiser.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        precision: of the model's arithmetic: "fp32", "tf32" or "bf16"; see `tablefold.train.precision`.
        compile: train with the model's network compiled by `torch.compile`; it is evaluated as it is, so that the
            saved weights give the same figures to the bit.
        listeners: told of every step and record.
        world: the processes that train together; None joins those that torch's launcher started, if it did.
        negatives_kept: share of the rows of label 0 that the training part has. In training its logarithm is taken off
            the logits (He et al., ADKDD 2014, turned round), so that what the model predicts is of the whole log.

    Raises:
        ValueError: for an unknown optimiser or precision, a learning rate that is not positive, or a device that is
            not there.
    """

    def __init__(
        self,
        model: Network,
        optimizer: str = "adagrad",
        lr: float | None = None,
        *,
        device: str = "auto",
        precision: str = "fp32",
        compile: bool = False,  # noqa: A002  (torch's name)
        listeners: Sequence[Listener] = (),
        world: World | None = None,
        negatives_kept: float = 1.0,
    ) -> None:
        self.device = choose_device(device)
        check_precision(precision, self.device)
        self.precision = precision
        self.world = World.join(self.device) if world is None else world
        self.model = model.to(self.device)
        model.group.sparse = model.group.sparse or "auto"  # all of our optimisers take both forms
        self._forward: Forward = compiled(self.model) if compile else self.model
        self.optimizer = build_optimizer(optimizer, model.parameters(), lr)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.listeners = tuple(listeners)
        self.progress = Progress()
        self.offset = -math.log(negatives_kept)
        self.recent_losses: list[float] = []  # since the last record
        self.best_state: dict[str, Tensor] | None = None  # weights at `progress.best_step`

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
        steps = schedule.epochs * train.num_batches(self.world.share(schedule.batch_size), self.world.size)
        for listener in self.listeners:
            listener.on_start(progress, steps)
        try:
            while progress.epoch < schedule.epochs and not progress.finished:
                self._epoch(train, schedule, validation, steps)
            if self.best_state is not None:
                self.model.load_state_dict(self.best_state)
        finally:
            for listener in self.listeners:
                listener.on_end()
        return progress

    def look(self, validation: Part) -> None:
        """Evaluate the model as it is, for the listeners' records."""
        self._tell({"part": "validation", **self.progress.position(), **self.evaluate(validation).as_dict()})

    def finish(self) -> None:
        """Pack the memory as it is read, and let go of what training alone needs: masters, the weights that were best,
        what the optimiser remembers, and the listeners, of which some refer to the trainer. Nothing is trained after
        that."""
        self.best_state, self.listeners = None, ()
        self.optimizer.state.clear()
        self.optimizer.param_groups.clear()
        self.model.group.freeze()

    def step(self, batch: Batch) -> float:
        """One optimiser step on one batch; gives its mean log loss before the step."""
        batch = batch.to(self.device)
        self.model.train()
        with matrix_products(self.precision):
            logits = self._logits(self._forward, batch)
            loss = _mean_loss(logits + self.offset, batch)
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingDivergedError(self._describe_divergence(value))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        self.world.average_gradients(self.model.parameters())
        self.optimizer.step()
        return value

    def evaluate(self, part: Part) -> Metrics:
        """The model's figures on a part; of several processes each takes every so many-th batch."""
        meter = Meter()
        batches = part.batches(EVALUATION_BATCH)
        self.predict(islice(batches, self.world.rank, None, self.world.size), meter.update)
        return self.world.merge(meter).compute() if self.world.size > 1 else meter.compute()

    @torch.inference_mode()
    def predict(self, batches: Iterable[Batch], receive: Callable[[Tensor, Tensor], None]) -> None:
        """Hand logits and labels of each batch to `receive`, in order."""
        self.model.eval()
        for batch in batches:
            with matrix_products(self.precision):
                logits = self._logits(self.model, batch)
            receive(logits, batch.label)

    def _logits(self, forward: Forward, batch: Batch) -> Tensor:
        """Float32 `[batch]`, computed in the trainer's precision."""
        dense, ids = batch.dense.to(self.device), batch.ids.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits: Tensor = forward(dense, ids)
        return logits.float()

    def _check(self, train: Part, schedule: Schedule, validation: Part | None) -> None:
        if not train.rows:
            raise ValueError("the training part has no rows")
        if schedule.needs_validation and not (validation and validation.rows):
            raise ValueError(f"{schedule.needs_validation} needs a validation part with rows")

    def _epoch(self, train: Part, schedule: Schedule, validation: Part | None, steps: int) -> None:
        """The rest of the current epoch, or up to the target; there are so many steps in all epochs."""
        progress = self.progress
        batches = train.batches(
            self.world.share(schedule.batch_size),
            seed=schedule.seed,
            epoch=progress.epoch,
            start=progress.batch,
            rank=self.world.rank,
            world=self.world.size,
        )
        began = time.perf_counter()
        for batch in batches:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * schedule.rate(progress.step, steps)
            loss = self.step(batch)
            progress.count(len(batch.label) * self.world.size, time.perf_counter() - began)
            self._tell_step(loss, schedule)
            if schedule.eval_every and progress.step % schedule.eval_every == 0:
                self._look(schedule, validation)
            for listener in self.listeners:
                listener.on_rest(progress)
            if progress.finished:
                return
            began = time.perf_counter()
        progress.epoch += 1
        progress.batch = 0
        if not (schedule.eval_every and progress.step % schedule.eval_every == 0):
            self._look(schedule, validation)

    def _look(self, schedule: Schedule, validation: Part | None) -> None:
        if not (validation and validation.rows):
            return
        metrics = self.evaluate(validation)
        progress = self.progress
        self._tell({"part": "validation", **progress.position(), **metrics.as_dict()})
        progress.target_reached = bool(schedule.until and schedule.until.reached(metrics))
        if schedule.patience:
            self._keep_best(metrics.logloss, schedule.patience)

    def _keep_best(self, logloss: float, patience: int) -> None:
        progress = self.progress
        if progress.best_logloss is None or logloss < progress.best_logloss:
            progress.best_logloss, progress.best_step, progress.looks_since_best = logloss, progress.step, 0
            self.best_state = {name: value.clone() for name, value in self.model.state_dict().items()}
        else:
            progress.looks_since_best += 1
            progress.out_of_patience = progress.looks_since_best >= patience

    def _tell_step(self, loss: float, schedule: Schedule) -> None:
        self.recent_losses.append(loss)
        for listener in self.listeners:
            listener.on_step(self.progress, loss)
        if self.progress.step % schedule.log_every == 0:
            mean = self.world.mean(sum(self.recent_losses) / len(self.recent_losses))
            self.recent_losses.clear()
            rate = self.progress.samples_per_second
            self._tell({"part": "train", **self.progress.position(), "loss": mean, "samples_per_second": rate})

    def _tell(self, record: dict[str, Any]) -> None:
        for listener in self.listeners:
            listener.on_record(record)

    def _describe_divergence(self, loss: float) -> str:
        """Where, and which parameter's last gradient was the largest."""
        progress = self.progress
        norms = {
            name: float(_values(parameter.grad).norm())
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        where = f"loss is {loss} at step {progress.step + 1} (epoch {progress.epoch + 1}, batch {progress.batch + 1})"
        if not norms:
            return f"{where}, before any update: look at the data and the start values"
        largest = max(norms, key=lambda name: math.inf if math.isnan(norms[name]) else norms[name])
        norm = f"{norms[largest]:.3g}"
        return f"{where}; the largest gradient of the step before is that of {largest}, norm {norm}: lower the lr"


def _mean_loss(logits: Tensor, batch: Batch) -> Tensor:
    """The mean log loss of a batch, by the rows' weights where they have some."""
    if batch.weight is None:
        return F.binary_cross_entropy_with_logits(logits, batch.label)
    losses = F.binary_cross_entropy_with_logits(logits, batch.label, batch.weight, reduction="sum")
    total: Tensor = losses / batch.weight.sum().clamp(min=torch.finfo(losses.dtype).tiny)
    return total


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def check_device(name: str) -> None:
    """Refuse, with `ValueError`, what names no device on any machine."""
    kind, colon, _ = name.partition(":")
    if kind not in (("cpu", "cuda") if colon else ("auto", "cpu", "cuda")):
        raise ValueError(f"unknown device {quoted(name)}; choose auto, cpu or cuda")


def choose_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" (or "cuda:1") names.

    Raises:
        ValueError: for another name, CUDA on a machine without it, or a number that no device has.
    """
    check_device(name)
    kind, colon, number = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("this machine has no CUDA device that torch can use; choose --device cpu or auto")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu" and not colon:
        return torch.device("cpu")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not colon:  # of several processes on one machine each takes its own
        number = os.environ.get("LOCAL_RANK", "0")
    if not (number.isascii() and number.isdecimal() and len(number) < 4 and int(number) < count):
        there = f"{kind} device, {kind}:0" if count == 1 else f"{kind} devices, {kind}:0 to {kind}:{count - 1}"
        raise ValueError(f"there is no device {quoted(f'{kind}:{number}')}: this machine has {count} {there}")
    return torch.device("cpu" if kind == "cpu" else f"cuda:{int(number)}")
