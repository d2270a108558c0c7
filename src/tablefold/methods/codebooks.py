"""Codebooks whose rows are added to stand for vectors: found a stage at a time, then improved together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tablefold.clustering import SCORES, cluster, for_each, nearest
from tablefold.formats import Format
from tablefold.formats.fitting import fitted
from tablefold.method import Trained
from tablefold.methods.metric import roots

BEAM = 4
"""Sums that are kept for a vector at each stage (Babenko and Lempitsky, CVPR 2014). On Gowalla's trained users 4 stages
of 256 rows leave 13 % less error than the nearest row at each stage, both improved; 8 stages of 16 rows 20 % less, and
a quarter less with 8 sums, which such codebooks have: they take a sixteenth of the time."""

BEAM_OF_SMALL, SMALL = 8, 32

BEAM_OF_MANY, MANY = 2, 1 << 20
"""Sums that are kept where rows are placed of a table that has more: 8 % more error, in half the time."""


class Codebooks:
    """Codebooks of some rows.

    Where errors have a metric M, everything is computed on rows times its square root: the plain square there is the
    cost here. Codebooks are rounded to their format as they are found, so that later stages make up for it; end to end,
    as they are kept, for a block may lie across two.

    Args:
        trained: the rows.
        kept: the format of the codebooks.
        seed: of what is drawn.
    """

    def __init__(self, trained: Trained, kept: Format, seed: int) -> None:
        self.kept, self.seed = kept, seed
        self.root, self.inverse = roots(trained.metric)
        self.values = self.searched(trained.values)
        self.weights = torch.from_numpy(trained.weights)
        self.sums = _empty(self.values)
        self.exact: list[Float[Tensor, "rows dim"]] = []  # codebooks before they are rounded
        self.master = torch.empty(0)  # of all of them
        self.turned: list[Tensor] = []  # what is read of each, times the root

    @property
    def masters(self) -> tuple[Float[Tensor, "rows dim"], ...]:
        """The codebooks as they are kept."""
        return torch.split(self.master, [len(each) for each in self.exact])

    @property
    def found(self) -> tuple[Tensor, list[Tensor], _Sums]:
        """The stages as they are now: codebooks, as they are kept and as they are searched, and pointers."""
        return self.master, list(self.turned), self.sums

    @property
    def left(self) -> Float[Tensor, "vectors dim"]:
        """What the best sums leave."""
        return self.sums.best().left[:, 0]

    def add_stage(self, rows: int, iterations: int = 12) -> None:
        """Clusters of what the stages so far leave."""
        seed = self.seed + len(self.turned)
        found = cluster(self.left, rows, weights=self.weights.numpy(), seed=seed, iterations=iterations)
        self._set(len(self.turned), found.centroids)
        self.sums = _extended(self.sums, self.turned[-1:])

    def improve(self) -> None:
        """The rows of each stage anew, given the others; then all pointers."""
        best = self.sums.best()
        left = best.left[:, 0].clone()
        for stage, of in enumerate(best.of[:, 0].T.long()):
            left += self.turned[stage][of]
            self._set(stage, self._means(stage, of, left))
            left -= self.turned[stage][of]
        self.sums = _extended(_empty(self.values), self.turned)

    def sort(self) -> None:
        """Number the rows of the last codebook by falling weight of what reads them."""
        rows = self.exact[-1] if self.root is None else self.exact[-1] @ self.root
        weights = torch.zeros(len(rows), dtype=torch.float64)
        weights.index_add_(0, self.sums.best().of[:, 0, -1].long(), self.weights)
        self._set(len(self.turned) - 1, rows[weights.argsort(descending=True, stable=True)])
        self.sums = _extended(_empty(self.values), self.turned)

    def error(self) -> float:
        """The weighted mean of what is left."""
        return self._mean(self.left.square().sum(dim=1, dtype=torch.float64))

    def error_of_rows(self, count: int) -> float:
        """That of the only codebook if so many of its rows, the first, were there."""
        return self._mean(torch.from_numpy(nearest(self.values, self.turned[0][:count])[1]))

    def _mean(self, costs: Float[Tensor, " vectors"]) -> float:
        return float((self.weights @ costs) / self.weights.sum())

    def place(self, values: Tensor, count: int) -> list[NDArray[np.int64]]:
        """The pointers of rows to the codebooks as they are, one array per stage; of a table of so many rows."""
        beam = BEAM_OF_MANY if count > MANY else None
        of = _extended(_empty(self.searched(values)), self.turned, last=1, beam=beam).of[:, 0]
        return [each.numpy().astype(np.int64) for each in of.T]

    def pointers(self) -> list[NDArray[np.int64]]:
        """Those of the rows that codebooks are learned from, likewise."""
        return [each.numpy().astype(np.int64) for each in self.sums.best().of[:, 0].T]

    def take(self, found: tuple[Tensor, list[Tensor], _Sums]) -> None:
        """Go back to what was found before."""
        self.master, self.turned, self.sums = found

    def _means(self, stage: int, of: Tensor, left: Tensor) -> Tensor:
        before = self.turned[stage]
        totals = torch.zeros(len(before), dtype=torch.float64).index_add_(0, of, self.weights)
        sums = torch.zeros(before.shape, dtype=torch.float64)
        sums.index_add_(0, of, left.double() * self.weights[:, None])
        means, held = before.clone(), totals > 0
        means[held] = (sums[held] / totals[held, None]).float()
        return means

    def searched(self, values: Tensor) -> Tensor:
        """Rows as they are compared: times the root of the metric."""
        return values if self.root is None else values @ self.root

    def _set(self, stage: int, turned: Tensor) -> None:
        """Take over the rows of a stage, and round all to the format."""
        self.exact[stage : stage + 1] = [turned if self.inverse is None else turned @ self.inverse]
        self.master = fitted(torch.cat(self.exact), self.kept)
        read = self.searched(self.kept.read(self.master))
        self.turned = list(torch.split(read, [len(each) for each in self.exact]))


@dataclass(frozen=True, eq=False)
class _Sums:
    """For each vector some sums of a row per stage that come near it.

    Args:
        left: what each leaves, `[vectors, sums, dim]`.
        costs: its square, `[vectors, sums]`.
        of: the rows that are added, int32 `[vectors, sums, stages]`.
    """

    left: Float[Tensor, "vectors sums dim"]
    costs: Float[Tensor, "vectors sums"]
    of: Tensor

    def best(self) -> _Sums:
        """The nearest alone."""
        if self.costs.shape[1] == 1:
            return self
        own = self.costs.argmin(dim=1, keepdim=True)
        return self.picked(own)

    def picked(self, own: Tensor) -> _Sums:
        """Some of each vector's sums, by their numbers `[vectors, count]`."""
        left, of = (each.gather(1, own[..., None].expand(-1, -1, each.shape[2])) for each in (self.left, self.of))
        return _Sums(left, self.costs.gather(1, own), of)

    def cut(self, begin: int, end: int) -> _Sums:
        """Those of some vectors."""
        return _Sums(self.left[begin:end], self.costs[begin:end], self.of[begin:end])


def _empty(vectors: Tensor) -> _Sums:
    """Sums of nothing."""
    of = torch.empty(len(vectors), 1, 0, dtype=torch.int32)
    return _Sums(vectors[:, None], vectors.square().sum(dim=1, keepdim=True), of)


def _extended(sums: _Sums, codebooks: Sequence[Tensor], last: int | None = None, beam: int | None = None) -> _Sums:
    """Sums with a row of each codebook added: the `beam` nearest, after the last codebook `last`.

    Vectors are taken a piece at a time, each piece through all stages: what is compared stays in a core's cache.
    """
    most = max(len(each) for each in codebooks)
    kept = beam or (BEAM_OF_SMALL if most <= SMALL else BEAM)
    step = max(1, SCORES // (kept * most))
    found: list[_Sums] = [sums] * -(-len(sums.left) // step)

    def extend(number: int) -> None:
        piece = sums.cut(number * step, (number + 1) * step)
        for stage, codebook in enumerate(codebooks):
            ends = stage == len(codebooks) - 1 and last is not None
            piece = _added(piece, codebook, last if ends and last is not None else kept)
        found[number] = piece

    for_each(extend, range(len(found)))
    return _Sums(*(torch.cat([getattr(piece, name) for piece in found]) for name in ("left", "costs", "of")))


def _added(sums: _Sums, codebook: Float[Tensor, "rows dim"], most: int) -> _Sums:
    """The nearest of all sums with a row of a codebook added."""
    vectors, held, dim = sums.left.shape
    rows = len(codebook)
    products = torch.addmm(codebook.square().sum(dim=1), sums.left.reshape(-1, dim), codebook.T, alpha=-2)
    costs = (products.view(vectors, held, rows) + sums.costs[..., None]).flatten(1)
    costs, chosen = costs.topk(min(most, held * rows), dim=1, largest=False, sorted=False)
    before, row = sums.picked(chosen // rows), chosen % rows
    return _Sums(before.left - codebook[row], costs, torch.cat([before.of, row[..., None].int()], dim=2))
