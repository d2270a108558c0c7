"""Several processes that train one model: who they are, and what they tell each other.

Every process holds the whole model (folded tables are small: that is the point), reads its own rows of each global
batch, and adds its gradient to the others'. Equal start, equal gradients, equal steps: the models stay equal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from tablefold.train.metrics import Meter


class RankLostError(ValueError):
    """Another process of this training has died or cannot be reached."""


@dataclass(frozen=True)
class World:
    """The processes of a training: this one's number, and how many there are."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> World:
        """The world that torch's launcher describes in the environment; a world of one without it.

        Raises:
            RankLostError: when the other processes do not answer.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            try:
                dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            except (RuntimeError, dist.DistError) as error:
                raise _lost(error) from error
        return cls(dist.get_rank(), size)

    def leave(self) -> None:
        """Leave the process group."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Rows that each process takes of a global batch.

        Raises:
            ValueError: when they cannot take equally many.
        """
        if batch_size % self.size:
            raise ValueError(f"batch_size={batch_size} must be a multiple of the {self.size} processes")
        return batch_size // self.size

    def average_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replace every gradient by its mean over the processes.

        Dense gradients travel in one message; of sparse ones (rows of large memories) only the rows do.
        """
        if self.size == 1:
            return
        held = [parameter for parameter in parameters if parameter.grad is not None]
        dense = [parameter.grad for parameter in held if not parameter.grad.is_sparse]  # type: ignore[union-attr]
        try:
            if dense:
                self._average_dense(dense)  # type: ignore[arg-type]
            for parameter in held:
                assert parameter.grad is not None
                if parameter.grad.is_sparse:
                    parameter.grad = self._average_rows(parameter.grad)
        except RuntimeError as error:
            raise _lost(error) from error

    def mean(self, value: float) -> float:
        """The mean of a number over the processes."""
        return sum(self.gather(value)) / self.size if self.size > 1 else value

    def merge(self, meter: Meter) -> Meter:
        """What all processes have seen together, the same in each."""
        merged = Meter()
        for one in self.gather(meter):
            merged.merge(one)
        return merged

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            raise _lost(error) from error
        return values

    def _average_dense(self, gradients: list[Tensor]) -> None:
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def _average_rows(self, gradient: Tensor) -> Tensor:
        gradient = gradient.coalesce()
        rows, values = gradient.indices().contiguous(), gradient.values().contiguous()
        counts = self.gather(rows.shape[1])
        most = max(counts)
        padded_rows = torch.nn.functional.pad(rows, (0, most - rows.shape[1]))
        padded_values = torch.nn.functional.pad(values, (0, 0, 0, most - values.shape[0]))
        all_rows = [torch.empty_like(padded_rows) for _ in counts]
        all_values = [torch.empty_like(padded_values) for _ in counts]
        dist.all_gather(all_rows, padded_rows)
        dist.all_gather(all_values, padded_values)
        found = [part[:, :count] for part, count in zip(all_rows, counts, strict=True)]
        sums = [part[:count] for part, count in zip(all_values, counts, strict=True)]
        mean = torch.cat(sums) / self.size
        total = torch.sparse_coo_tensor(torch.cat(found, 1), mean, gradient.shape, check_invariants=False)
        return total.coalesce()


def _lost(error: Exception) -> RankLostError:
    return RankLostError(
        "another process of this training has died or cannot be reached "
        f"({str(error).splitlines()[0]}); give the same command again to go on from the last checkpoint"
    )
