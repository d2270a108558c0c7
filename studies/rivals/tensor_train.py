"""TT-Rec (Yin, Acun, Liu and Wu, MLSys 2021, arXiv 2101.11714): a table as a product of three small cores.

    e(x) = G1[i1] G2[i2] G3[i3],   x = (i1 n2 + i2) n3 + i3,   G1: [n1, d1, R], G2: [n2, R, d2, R], G3: [n3, R, d3]

with d1 d2 d3 = dim. Cores start such that the product has a full table's deviation, as the paper asks. No pointers.
"""

from __future__ import annotations

import math

import torch
from rival import Rival, Task, largest
from torch import Tensor, nn

from tablefold.tables import TableSpec

START = 0.02


def factors(count: int) -> tuple[int, int, int]:
    """Three numbers near each other, their product at least `count`."""
    first = math.ceil(count ** (1 / 3))
    second = math.ceil(math.sqrt(count / first))
    return first, second, math.ceil(count / (first * second))


def widths(dim: int) -> tuple[int, int, int]:
    """Three numbers whose product is dim, the largest in the middle."""
    found = [1, 1, 1]
    rest, turn = dim, (1, 0, 2)
    for step in range(64):
        prime = next((each for each in range(2, rest + 1) if rest % each == 0), 1)
        found[turn[step % 3]] *= prime
        rest //= prime
    return found[0], found[1], found[2]


def floats(table: TableSpec, rank: int) -> int:
    """Of the three cores."""
    (n1, n2, n3), (d1, d2, d3) = factors(table.vocabulary), widths(table.dim)
    return rank * (n1 * d1 + rank * n2 * d2 + n3 * d3)


class TensorTrain(Rival):
    """See above.

    Args:
        task: what it is made for.
        rank: R.
    """

    def __init__(self, task: Task, rank: int) -> None:
        super().__init__(task)
        self.rank, self.shapes = rank, [factors(table.vocabulary) for table in task.tables]
        d1, d2, d3 = widths(self.dim)
        std = (START / rank) ** (1 / 3)  # of R^2 products, each of three factors
        cores = []
        for column, (n1, n2, n3) in enumerate(self.shapes):
            shapes = ((n1, d1 * rank), (n2, rank * d2 * rank), (n3, rank * d3))
            cores += [task.uniform(*shape, salt=10 * column + n, std=std) for n, shape in enumerate(shapes)]
        self.cores = nn.ParameterList(cores)

    @classmethod
    def fit(cls, task: Task) -> TensorTrain:
        """The largest rank that the budget has room for."""

        def fits(rank: int) -> bool:
            return task.format.num_bytes(sum(floats(table, rank) for table in task.tables)) <= task.budget

        return cls(task, largest(fits, 1024))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[batch, tables, dim]`."""
        d1, d2, d3 = widths(self.dim)
        rank, found = self.rank, []
        for column, (_, n2, n3) in enumerate(self.shapes):
            own = ids[:, column]
            digits = own // (n2 * n3), own // n3 % n2, own % n3
            cores = self.cores[3 * column : 3 * column + 3]
            read = [self.task.format.read(core)[digit] for core, digit in zip(cores, digits, strict=True)]
            left = torch.bmm(read[0].view(-1, d1, rank), read[1].view(-1, rank, d2 * rank))
            whole = torch.bmm(left.view(-1, d1 * d2, rank), read[2].view(-1, rank, d3))
            found.append(whole.flatten(1))
        return torch.stack(found, dim=1)

    @property
    def num_bytes(self) -> int:
        """Of all cores."""
        return sum(self.task.format.num_bytes(core.numel()) for core in self.cores)
