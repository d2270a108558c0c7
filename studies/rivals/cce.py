"""CCE (Tsang and Ahle, "Clustering the sketch", NeurIPS 2023, arXiv 2210.05974), clusters learned while training.

    e(x) = concat over 4 chunks c of  T0_c[h0_c(x)] + T1_c[h1_c(x)]

Both h begin as random hashes. At the end of each epoch until half of the training, the current chunks of all ids are
clustered: h0 becomes the cluster, T0 the centroids, T1 zero, and h1 is drawn anew. h0 is a pointer for each id and
chunk; the paper counts the floats of T0 and T1 alone.
"""

from __future__ import annotations

import torch
from rival import Rival, Task, bits_for, largest
from torch import Tensor
from torch.nn import functional as F

from tablefold.clustering import cluster

CHUNKS = 4
ITERATIONS = 25


class Cce(Rival):
    """See above.

    Args:
        task: what it is made for.
        rows: of T0 and of T1, for each table and chunk.
    """

    h0: Tensor
    h1: Tensor
    places: Tensor

    def __init__(self, task: Task, rows: int) -> None:
        super().__init__(task)
        self.rows, self.width, parts = rows, self.dim // CHUNKS, len(task.tables) * CHUNKS
        self.generator = torch.Generator().manual_seed(task.seed)
        self.t0 = task.uniform(parts * rows, self.width, salt=1, std=0.02 / 2**0.5)
        self.t1 = task.uniform(parts * rows, self.width, salt=2, std=0.02 / 2**0.5)
        self.register_buffer("h0", self._hashes())
        self.register_buffer("h1", self._hashes())
        places = torch.arange(parts).view(len(task.tables), CHUNKS) * rows
        self.register_buffer("places", places, persistent=False)

    @classmethod
    def fit(cls, task: Task) -> Cce:
        """As many rows as the budget has room for."""
        floats = 2 * len(task.tables) * task.tables[0].dim
        rows = largest(lambda rows: task.format.num_bytes(floats * rows) <= task.budget, 1 << 24)
        return cls(task, min(rows, max(table.vocabulary for table in task.tables)))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[batch, tables, dim]`."""
        numbers = ids + self.firsts
        kept = self.task.format
        first = F.embedding(self.h0[numbers] + self.places, kept.read(self.t0))
        second = F.embedding(self.h1[numbers] + self.places, kept.read(self.t1))
        return (first + second).flatten(2)

    @property
    def num_bytes(self) -> int:
        """Of both tables."""
        return self.task.format.num_bytes(self.t0.numel() + self.t1.numel())

    @property
    def pointer_bytes(self) -> int:
        """Of h0; h1 is a hash."""
        return -(-self.task.ids * CHUNKS * bits_for(self.rows) // 8)

    def after_step(self, step: int) -> None:
        """Cluster at the end of an epoch in the first half."""
        if step % self.epoch_steps == 0 and step <= self.steps / 2:
            self.cluster()

    @torch.no_grad()
    def cluster(self) -> None:
        """h0, T0 from the current vectors; T1 and h1 begin anew."""
        first = 0
        for column, table in enumerate(self.tables):
            own = slice(first, first + table.vocabulary)
            first += table.vocabulary
            for chunk in range(CHUNKS):
                base = int(self.places[column, chunk])
                rows = slice(base, base + self.rows)
                read = self.task.format.read
                values = read(self.t0)[rows][self.h0[own, chunk]] + read(self.t1)[rows][self.h1[own, chunk]]
                clusters = min(self.rows, table.vocabulary)
                found = cluster(values, clusters, seed=self.task.seed + chunk, iterations=ITERATIONS)
                self.h0[own, chunk] = torch.from_numpy(found.of).long()
                self.t0[rows][:clusters] = found.centroids
        self.t1.zero_()
        self.h1.copy_(self._hashes())
        self.forget(self.t0)
        self.forget(self.t1)

    def _hashes(self) -> Tensor:
        return torch.randint(self.rows, (self.task.ids, CHUNKS), generator=self.generator)
