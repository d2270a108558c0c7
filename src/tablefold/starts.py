"""How memory begins: every composed vector starts with the deviation of a full table's, whatever composes it.

A full table starts uniform with standard deviation 0.02 (`FULL_START`). Where a vector is composed of k parts,
the parts start such that the composed vector has that same deviation:

- alone, concatenated, or as features of their own: each part as the full table;
- added: each part with 1/sqrt(k) of it;
- multiplied: the part with the most rows as the full table, every other factor with mean square 1. A product of k
  small factors would begin near zero and starve every factor's gradient, which is the product of all the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CombineOption = Literal["mul", "add", "concat", "features"]
"""How the vectors of a table's partitions become its embedding."""

InitOption = Literal["matched", "paper"]
"""`matched`: as this module says. `paper`: U(sqrt(1/rows), 1) for every part, as the 2020 paper's code has it."""


@dataclass(frozen=True)
class Start:
    """How a region of memory begins: `mean + std * u`, u uniform with variance 1; with `signs`, times a random +-1.

    `exact` gives what was drawn the mean square it should have, and the mean 0 if that is the mean: a region of a few
    rows would miss them by chance.

    >>> Start(std=0.25).square
    0.0625
    """

    std: float
    mean: float = 0.0
    signs: bool = False
    exact: bool = True

    @property
    def square(self) -> float:
        """The mean square of one weight, E[w^2] = mean^2 + std^2."""
        return self.mean**2 + self.std**2


FULL_START = Start(std=0.02)
"""How a full table begins.

Chosen by experiment: of deviations 0.25 (1/sqrt(dim)), 0.1, 0.02, 0.01 and 0.003 the last three train alike and the
larger ones far slower, since every example first has to unlearn what its vectors happened to say. It does not depend on
the number of rows (as DLRM's U(-1/sqrt(rows), 1/sqrt(rows)) does): a folded table's rows are shared by many ids.
"""

FACTOR = Start(mean=math.sqrt(0.99), std=0.1, signs=True)
"""How the further factors of a product begin: mean square 1, random signs (ids that share the first factor then
begin uncorrelated, where positive factors would make them begin alike), and no two of them equal."""


def part_starts(combine: CombineOption, sizes: Sequence[int]) -> tuple[Start, ...]:
    """The starts of parts of so many rows each, whose composition has the full table's deviation."""
    k = len(sizes)
    if k == 1 or combine in ("concat", "features"):
        return (FULL_START,) * k
    if combine == "add":
        return (Start(std=FULL_START.std / math.sqrt(k)),) * k
    largest = sizes.index(max(sizes))
    return tuple(FULL_START if number == largest else FACTOR for number in range(k))


def paper_start(rows: int) -> Start:
    """U(sqrt(1/rows), 1), the start of the 2020 paper's code for every part of a table of `rows` ids."""
    low = math.sqrt(1 / rows)
    return Start(mean=(1 + low) / 2, std=(1 - low) / math.sqrt(12), exact=False)
