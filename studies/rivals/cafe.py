"""CAFE (Zhang et al., SIGMOD 2024, arXiv 2312.03256): hot ids own a row, cold ones hash; training tells which are hot.

An id's importance is the sum of the norms of its gradients, decayed now and then. The paper keeps a sketch of it; this
keeps the exact sums, which a sketch approaches. Every `EVERY` steps the most important ids of all tables get the rows;
one that becomes hot begins with its hashed row, one that becomes cold goes back to it. 7 of 10 parts of the memory are
for hot rows. A pointer is the number of a hot id, 4 bytes.
"""

from __future__ import annotations

import torch
from rival import Rival, Task, largest
from torch import Tensor
from torch.nn import functional as F

from tablefold.formats import FP32

HOT = 0.7
EVERY = 64
DECAY = 0.98


class Cafe(Rival):
    """See above.

    Args:
        task: what it is made for.
        rows: hot ones and shared ones together.
    """

    scores: Tensor
    row_of: Tensor
    hashed: Tensor
    owner: Tensor

    def __init__(self, task: Task, rows: int) -> None:
        super().__init__(task)
        self.hot = max(1, int(HOT * rows))
        shared = self._shares(rows - self.hot)
        self.rows = task.uniform(self.hot + sum(shared), self.dim, salt=1)
        generator = torch.Generator().manual_seed(task.seed)
        hashed, base = [], self.hot
        for table, count in zip(task.tables, shared, strict=True):
            hashed.append(base + torch.randint(count, (table.vocabulary,), generator=generator))
            base += count
        self.register_buffer("hashed", torch.cat(hashed))
        self.register_buffer("row_of", torch.cat(hashed))
        self.register_buffer("scores", torch.zeros(task.ids), persistent=False)
        self.register_buffer("owner", torch.full((self.hot,), -1))

    @classmethod
    def fit(cls, task: Task) -> Cafe:
        """As many rows as the budget has room for."""
        fits = lambda rows: task.format.num_bytes(rows * task.tables[0].dim) <= task.budget  # noqa: E731
        least = 1 + len(task.tables)
        return cls(task, max(least, largest(fits, task.ids)))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[batch, tables, dim]`."""
        numbers = ids + self.firsts
        memory = self.rows if self.task.format == FP32 else self.task.format.read(self.rows)
        vectors = F.embedding(self.row_of[numbers], memory)
        if self.training and vectors.requires_grad:
            vectors.register_hook(lambda gradient: self._notice(numbers, gradient))
        return vectors

    @property
    def num_bytes(self) -> int:
        """Of all rows."""
        return self.task.format.num_bytes(self.rows.numel())

    @property
    def pointer_bytes(self) -> int:
        """Which ids are hot."""
        return 4 * self.hot

    def after_step(self, step: int) -> None:
        """Now and then the most important ids get the rows."""
        if step % EVERY == 0:
            self.move()

    @torch.no_grad()
    def move(self) -> None:
        """Give the hot rows to the ids of the highest scores."""
        wanted = torch.topk(self.scores, min(self.hot, len(self.scores))).indices
        wanted = wanted[self.scores[wanted] > 0]
        stays = torch.isin(self.owner, wanted)
        leaving = self.owner[~stays & (self.owner >= 0)]
        self.row_of[leaving] = self.hashed[leaving]
        coming = wanted[~torch.isin(wanted, self.owner)]
        free = torch.nonzero(~stays)[:, 0]
        rows = free[: len(coming)]
        self.rows[rows] = self.rows[self.hashed[coming]]
        self.forget(self.rows, rows)
        self.owner[free] = -1
        self.owner[rows] = coming
        self.row_of[coming] = rows
        self.scores *= DECAY

    def _notice(self, numbers: Tensor, gradient: Tensor) -> None:
        norms = gradient.norm(dim=2)
        self.scores.index_add_(0, numbers.flatten(), (norms * norms.numel() / norms.sum().clamp(min=1e-30)).flatten())

    def _shares(self, rows: int) -> list[int]:
        """Of the shared rows, in proportion to the tables' ids, one at least."""
        return [max(1, rows * table.vocabulary // self.task.ids) for table in self.tables]
