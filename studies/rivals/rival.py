"""What stands where a group of ours stands: `tables`, `sparse`, ids in, vectors out, and bytes counted honestly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from tablefold.formats import FP32, Format
from tablefold.models.network import Network
from tablefold.tables import TableSpec
from tablefold.train.progress import Listener, Progress


@dataclass(frozen=True, eq=False)
class Task:
    """What a rival is made for.

    Args:
        tables: of one dim.
        budget: bytes, without pointers.
        format: what its vectors are kept in, if not as published in float32; masters, as ours.
        counts: how often each id of each table is read in training.
        seed: of start values and hashes.
    """

    tables: tuple[TableSpec, ...]
    budget: int
    format: Format = FP32
    counts: tuple[NDArray[np.int64], ...] = ()
    seed: int = 0

    @property
    def ids(self) -> int:
        """Of all tables."""
        return sum(table.vocabulary for table in self.tables)

    @property
    def firsts(self) -> list[int]:
        """Where each table's ids begin when all are counted through."""
        return np.cumsum([0, *(table.vocabulary for table in self.tables[:-1])]).tolist()

    def uniform(self, *shape: int, salt: int = 0, std: float = 0.02) -> nn.Parameter:
        """Weights as our tables begin."""
        generator = torch.Generator().manual_seed(1000 * self.seed + salt)
        return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * std * 3**0.5)


class Rival(nn.Module):
    """A group of another method.

    Args:
        task: what it is made for.
    """

    firsts: Tensor
    searches = False
    """Whether it is trained for what it learns of the second training: its last state counts then, not its best one."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.tables, self.dim = task, task.tables, task.tables[0].dim
        self.num_features = len(task.tables)
        self.sparse: bool | str = False
        self.optimizer: Optimizer | None = None
        self.steps = self.epoch_steps = 0
        self.register_buffer("firsts", torch.tensor(task.firsts), persistent=False)

    @property
    def num_bytes(self) -> int:
        """What its vectors are read from, without pointers of ids."""
        raise NotImplementedError

    @property
    def pointer_bytes(self) -> int:
        """What it keeps for each id beside that."""
        return 0

    def begin(self, optimizer: Optimizer, steps: int, epoch_steps: int) -> None:
        """Told before the first step."""
        self.optimizer, self.steps, self.epoch_steps = optimizer, steps, epoch_steps

    def after_step(self, step: int) -> None:
        """Told after each step; gradients still stand."""

    def second(self) -> Rival | None:
        """What is trained anew from what this has learned, for methods of two trainings."""
        return None

    def forget(self, parameter: nn.Parameter, rows: Tensor | None = None) -> None:
        """Take what the optimiser remembers of a parameter, or of some rows of it."""
        if self.optimizer is None:
            return
        state = self.optimizer.state.get(parameter, {})
        if rows is None:
            state.clear()
        for value in state.values():
            if isinstance(value, Tensor) and rows is not None and value.ndim:
                value[rows] = 0


class Follower(Listener):
    """Tells a rival of its training."""

    def __init__(self, rival: Rival, optimizer: Optimizer, epochs: int) -> None:
        self.rival, self.optimizer, self.epochs = rival, optimizer, epochs

    def on_start(self, progress: Progress, steps: int) -> None:
        self.rival.begin(self.optimizer, steps, steps // self.epochs)

    def on_step(self, progress: Progress, loss: float) -> None:
        self.rival.after_step(progress.step)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest size that fits, from 1 up to `most`; bytes grow with it."""
    if not fits(1):
        raise ValueError("the budget is below the smallest that this method can have")
    low, high = 1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def seat(model: Network, rival: nn.Module) -> Network:
    """A model of ours that reads a rival instead of its group."""
    model._modules["group"] = rival
    return model


def bits_for(choices: int) -> int:
    """Of a pointer to one of so many."""
    return max(0, choices - 1).bit_length()
