"""Product quantisation after training (Jegou, Douze and Schmid, TPAMI 2011): vectors cut into parts, each a code.

    e(x) = concat over parts p of  C_p[code_p(x)]

Full tables are trained, then each part of a table is clustered, weighted by 1 + how often an id is read. Nothing is
retrained. Codes are what an id keeps, so they are in the bytes, with and without pointers: one code in `parts` could be
carried by a numbering, which is what `clusters` does. Of the shapes that the budget has room for, validation chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rival import Rival, Task
from torch import Tensor, nn

from tablefold.clustering import cluster
from tablefold.formats import INT8

PARTS = (1, 2, 4)
BITS = (2, 3, 4, 5, 6, 7, 8)


def num_bytes(task: Task, parts: int, bits: int) -> int:
    """Of codes, and of codebooks in int8."""
    codes = -(-task.ids * parts * bits // 8)
    return codes + len(task.tables) * INT8.num_bytes((1 << bits) * task.tables[0].dim)


def shapes(task: Task) -> list[tuple[int, int]]:
    """(parts, bits of a code): for each number of parts, the most bits that the budget has room for."""
    found = []
    for parts in PARTS:
        fitting = [bits for bits in BITS if num_bytes(task, parts, bits) <= task.budget]
        found += [(parts, max(fitting))] if fitting else []
    return found


class ProductQuantisation(Rival):
    """See above.

    Args:
        task: what it is made for.
        values: trained tables.
        parts: codes of an id.
        bits: of a code.
    """

    codes: Tensor

    def __init__(self, task: Task, values: Sequence[Tensor], parts: int, bits: int) -> None:
        super().__init__(task)
        self.parts, self.bits, books, codes = parts, bits, [], []
        for table, counts in zip(values, task.counts, strict=True):
            own = [
                cluster(part.contiguous(), 1 << bits, weights=1.0 + counts, seed=task.seed, iterations=25)
                for part in table.chunk(parts, dim=1)
            ]
            books.append(torch.stack([each.centroids for each in own]))
            codes.append(torch.stack([torch.from_numpy(each.of).long() for each in own], dim=1))
        self.books = nn.Parameter(torch.stack(books))  # [tables, parts, codes, floats of a part]
        self.register_buffer("codes", torch.cat(codes))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors `[batch, tables, dim]`."""
        books = INT8.read(self.books.flatten(0, 2)).view_as(self.books)
        codes = self.codes[ids + self.firsts]
        tables = torch.arange(len(self.tables))[:, None]
        return books[tables, torch.arange(self.parts), codes].flatten(2)

    @property
    def num_bytes(self) -> int:
        """Of codes and codebooks."""
        return num_bytes(self.task, self.parts, self.bits)
