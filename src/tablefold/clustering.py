"""Clusters of vectors: weighted k-means (Lloyd, 1982), for as many vectors and clusters as tables have.

Up to `FLAT` clusters each vector is compared with all of them. Beyond, a first k-means finds sqrt(k) *cells*; each cell
gets clusters of its own, the more the larger its error is, and a vector is compared with the clusters of the cells near
its own alone.

Everything is drawn under a seed, and sums are formed in the order of the vectors: equal input gives equal bits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

FLAT = 1024
"""Up to so many clusters, all are compared with every vector."""

SAMPLE = 64
"""Vectors per cluster that clusters are learned from."""

NEAR = 16
"""Cells whose clusters a vector is compared with. Of a mixture in 16 dimensions, 1,024 clusters in 32 cells leave 16 %,
8 % and 1 % more error than clusters that all are compared with, for 8, 16 and 32 cells near each."""

SCORES = 1 << 18
"""Compared at a time: 1 MB, which a core keeps to itself."""

_PIECE = 1 << 18
_ROUNDS = 16  # of drawing the first centroids: 64 take up to twice as long and leave no less
_THREADS: ContextVar[int] = ContextVar("threads", default=0)  # that torch had before it was told to take one

Vectors = Callable[[int, int], Float[Tensor, "count dim"]]
"""Gives the vectors from one number up to another."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """Which cluster each vector is in, and where the clusters are.

    Args:
        centroids: float32 `[clusters, dim]`, each the weighted mean of its vectors.
        of: int32 `[vectors]`, the number of each vector's cluster.
        error: the weighted mean of the squared distance between a vector and its centroid.
    """

    centroids: Float[Tensor, "clusters dim"]
    of: NDArray[np.int32]
    error: float


def cluster(
    vectors: Tensor | Vectors,
    clusters: int,
    *,
    weights: NDArray[np.float64] | None = None,
    count: int | None = None,
    seed: int = 0,
    iterations: int = 8,
) -> Clustering:
    """Weighted k-means: sum_i weights[i] * |vectors[i] - centroids[of[i]]|^2, made small.

    Args:
        vectors: `[vectors, dim]`; or, where they do not fit into memory, a function that gives those from one number up
            to another, and `count`.
        clusters: how many; some stay empty where fewer vectors differ by more than float32 can tell.
        weights: how much each vector counts, `[vectors]`; all alike unless given.
        count: how many vectors a function has.
        seed: of the first centroids and of the vectors that are learned from.
        iterations: rounds of moving vectors to the nearest centroid and centroids to the mean.

    Raises:
        ValueError: for more clusters than vectors, weights that do not fit, or a vector with a NaN or an infinity.

    >>> found = cluster(torch.tensor([[0.0], [0.1], [5.0], [5.1], [5.2]]), 2)
    >>> found.of[0] == found.of[1], found.of[1] == found.of[2]
    (np.True_, np.False_)
    >>> sorted(round(float(each), 2) for each in found.centroids)
    [0.05, 5.1]
    """
    pieces = _Pieces(vectors, count, weights)
    if not 1 <= clusters <= pieces.count:
        raise ValueError(f"{clusters} clusters of {pieces.count} vectors: ask for 1 .. {pieces.count}")
    random = np.random.default_rng(seed)
    sample, masses = pieces.sample(SAMPLE * clusters, random)
    cells = _learn_cells(sample, masses, clusters, iterations, random)
    return _place_all(pieces, cells)


def spans(count: int) -> Iterator[slice]:
    """All vectors, some at a time: what is computed of them then takes little memory.

    >>> list(spans(300_000))
    [slice(0, 262144, None), slice(262144, 300000, None)]
    """
    for begin in range(0, count, _PIECE):
        yield slice(begin, min(begin + _PIECE, count))


class _Pieces:
    """All vectors, a piece at a time, and their weights."""

    def __init__(self, vectors: Tensor | Vectors, count: int | None, weights: NDArray[np.float64] | None) -> None:
        if isinstance(vectors, Tensor):
            count, held = vectors.shape[0], vectors
            self._read: Vectors = lambda begin, end: held[begin:end]
        else:
            self._read = vectors
        assert count is not None
        self.count = count
        self.weights = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
        fits = self.weights.shape == (count,) and bool(np.isfinite(self.weights).all()) and self.weights.min() >= 0
        if not fits or not self.weights.sum() > 0:
            raise ValueError(f"weights must be {count} finite numbers of 0 or more, one for each vector, not all 0")

    def read(self, begin: int, end: int) -> Float[Tensor, "count dim"]:
        """The vectors from one number up to another, float32."""
        found = self._read(begin, end).detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(found).all()):
            wild = int(torch.nonzero(~torch.isfinite(found).all(dim=1))[0])
            raise ValueError(f"vector {begin + wild} is not finite: its training has diverged, or its file is damaged")
        return found

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for some in spans(self.count):
            yield some.start, self.read(some.start, some.stop)

    def sample(self, wanted: int, random: np.random.Generator) -> tuple[Tensor, NDArray[np.float64]]:
        """(about so many vectors, the heavier the likelier; what each stands for)."""
        if self.count <= wanted:
            return torch.cat([piece for _, piece in self]), self.weights
        odds = _odds(self.weights, wanted)
        chosen = np.flatnonzero(random.random(self.count) < odds)
        ends = np.searchsorted(chosen, np.arange(0, self.count + _PIECE, _PIECE))
        parts = [piece[chosen[ends[n] : ends[n + 1]] - begin] for n, (begin, piece) in enumerate(self)]
        return torch.cat(parts), self.weights[chosen] / odds[chosen]


def _odds(weights: NDArray[np.float64], wanted: int) -> NDArray[np.float64]:
    """How likely each is taken, in proportion to its weight and at most 1, so that about `wanted` are."""
    sure = np.zeros(len(weights), dtype=bool)
    while True:
        factor = (wanted - sure.sum()) / weights[~sure].sum()
        more = ~sure & (weights * factor >= 1)
        if not more.any():
            return np.where(sure, 1.0, weights * factor)
        sure |= more


@dataclass(frozen=True, eq=False)
class _Cells:
    """Clusters by cells: those of cell c are numbers starts[c] .. starts[c + 1] - 1."""

    middles: Tensor
    starts: NDArray[np.int64]
    centroids: Tensor
    near: NDArray[np.int64]

    def candidates(self, cell: int) -> Int64[Tensor, " candidates"]:
        """The clusters of the cells near one."""
        parts = [np.arange(self.starts[other], self.starts[other + 1]) for other in self.near[cell]]
        return torch.from_numpy(np.sort(np.concatenate(parts)))


def _learn_cells(
    sample: Tensor, masses: NDArray[np.float64], clusters: int, iterations: int, random: np.random.Generator
) -> _Cells:
    if clusters <= FLAT:
        centroids = _lloyd(sample, masses, clusters, iterations, random)
        return _one_cell(centroids)
    count = math.isqrt(clusters)
    middles = _lloyd(sample, masses, count, iterations, random)
    home, distances = nearest(sample, middles)
    order, ends = _by_group(home, count)
    errors = np.bincount(home, masses * distances, count)
    shares = _share_out(clusters, errors ** (sample.shape[1] / (sample.shape[1] + 2)), np.diff(ends))
    parts = []
    for cell in range(count):
        own = order[ends[cell] : ends[cell + 1]]
        parts.append(_lloyd(sample[own], masses[own], int(shares[cell]), iterations // 2, random))
    near = nearest_of(middles, min(NEAR, count))
    cells = _Cells(middles, np.concatenate([[0], np.cumsum(shares)]), torch.cat(parts), near)
    for _ in range(iterations - iterations // 2):
        of, distances = _place(sample, home, cells)
        cells = _Cells(middles, cells.starts, _means(sample, masses, of, distances, cells.centroids), near)
    return cells


def _one_cell(centroids: Tensor) -> _Cells:
    starts = np.array([0, len(centroids)])
    return _Cells(centroids.mean(dim=0, keepdim=True), starts, centroids, np.zeros((1, 1), dtype=np.int64))


def _lloyd(
    points: Tensor, masses: NDArray[np.float64], clusters: int, iterations: int, random: np.random.Generator
) -> Tensor:
    """Centroids after some rounds."""
    if clusters >= len(points):
        return torch.cat([points, points[-1:].expand(clusters - len(points), -1)])
    centroids = _spread(points, masses, clusters, random)
    for _ in range(iterations):
        of, distances = nearest(points, centroids)
        centroids = _means(points, masses, of, distances, centroids)
    return centroids


def _spread(points: Tensor, masses: NDArray[np.float64], count: int, random: np.random.Generator) -> Tensor:
    """Points to begin with, each drawn by its mass times its squared distance to those before it (k-means++, Arthur and
    Vassilvitskii, SODA 2007; some at a time, as in Bahmani et al., VLDB 2012)."""
    chosen = np.empty(0, dtype=np.int64)
    distances = np.ones(len(points))
    while len(chosen) < count:
        reached = np.cumsum(masses * distances)
        wanted = min(-(-count // _ROUNDS), count - len(chosen))
        drawn = np.searchsorted(reached, random.random(wanted) * reached[-1], side="right")
        drawn = np.minimum(drawn, len(points) - 1)
        _, apart = nearest(points, points[drawn])
        distances = np.minimum(distances, apart) if len(chosen) else apart
        chosen = np.concatenate([chosen, drawn])
    return points[chosen]


def _means(
    points: Tensor, masses: NDArray[np.float64], of: NDArray[np.int64], distances: NDArray[np.float64], before: Tensor
) -> Tensor:
    """The mean of the points of each cluster; a cluster without any goes where a point is farthest from its own."""
    totals = np.bincount(of, masses, len(before))
    columns = [np.bincount(of, masses * column, len(before)) for column in points.double().numpy().T]
    held = totals > 0
    means = before.clone()
    means[torch.from_numpy(held)] = torch.from_numpy(np.stack(columns, axis=1)[held] / totals[held, None]).float()
    empty = np.flatnonzero(~held)
    if len(empty):
        costs = masses * distances
        farthest = np.argsort(-costs, kind="stable")[: len(empty)]
        farthest = farthest[costs[farthest] > 0]
        means[empty[: len(farthest)]] = points[farthest]
    return means


def nearest(
    points: Float[Tensor, "points dim"], centroids: Float[Tensor, "clusters dim"]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(the nearest centroid of each point, the squared distance to it)."""
    halves, turned = centroids.square().sum(dim=1) / -2, centroids.T.contiguous()
    step = max(1, SCORES // len(centroids))
    of, distances = np.empty(len(points), dtype=np.int64), np.empty(len(points))

    def compare(begin: int) -> None:
        some = points[begin : begin + step]
        scores = torch.addmm(halves, some, turned).numpy()
        found = scores.argmax(axis=1)  # numpy's has vector instructions, torch's has not
        best = np.take_along_axis(scores, found[:, None], axis=1)[:, 0].astype(np.float64)
        squares = some.double().square_().sum(dim=1).numpy()
        of[begin : begin + step], distances[begin : begin + step] = found, np.maximum(squares - 2 * best, 0)

    for_each(compare, range(0, len(points), step))
    return of, distances


def for_each(work: Callable[[int], None], numbers: Sequence[int]) -> None:
    """Do the work of each number; where there are many, in as many threads as torch has, each taking the next."""
    with one_thread_each() as threads:
        if threads == 1 or len(numbers) < 2 * threads:
            for number in numbers:
                work(number)
        else:
            with ThreadPoolExecutor(threads) as pool:
                deque(pool.map(work, numbers), maxlen=0)


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Let torch compute in one thread, and give the threads that it had: several that wait for each other after every
    small product take ten times as long on a machine that is busy; threads that take the next piece do not wait.

    >>> with one_thread_each() as outer, one_thread_each() as inner:
    ...     print(torch.get_num_threads(), outer == inner)
    1 True
    """
    if known := _THREADS.get():
        yield known
        return
    threads = torch.get_num_threads()
    token = _THREADS.set(threads)
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
        _THREADS.reset(token)


def nearest_of(centroids: Float[Tensor, "clusters dim"], count: int) -> NDArray[np.int64]:
    """For each centroid the nearest ones, itself the first, `[clusters, count]`."""
    halves = centroids.square().sum(dim=1) / -2
    scores = torch.addmm(halves, centroids, centroids.T).fill_diagonal_(math.inf)
    return scores.topk(count, dim=1).indices.numpy()


def _by_group(groups: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the members of all groups, one group after the other; where each group begins, one more at the end)."""
    order = np.argsort(groups, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=count))])


def _share_out(total: int, claims: NDArray[np.floating], most: NDArray[np.int64]) -> NDArray[np.int64]:
    """`total` shared out by claims: each that has members gets at least one and at most as many as it has."""
    shares = np.minimum(most, 1)
    while (left := total - int(shares.sum())) > 0:
        open_to = shares < most
        claim = np.where(open_to, claims + np.finfo(float).tiny, 0.0)
        wanted = claim / claim.sum() * left
        more = np.minimum(np.floor(wanted).astype(np.int64), most - shares)
        if not more.any():
            more[np.argsort(-wanted, kind="stable")[:left]] = 1
            more = np.minimum(more, most - shares)
        shares = shares + more
    return shares


def _place(points: Tensor, home: NDArray[np.int64], cells: _Cells) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(the nearest cluster of each point among those of the cells near its own, the squared distance to it)."""
    order, ends = _by_group(home, len(cells.middles))
    of, distances = np.empty(len(points), dtype=np.int64), np.empty(len(points))
    for cell in np.unique(home):
        own = order[ends[cell] : ends[cell + 1]]
        candidates = cells.candidates(int(cell))
        found, best = nearest(points[own], cells.centroids[candidates])
        of[own], distances[own] = candidates.numpy()[found], best
    return of, distances


def _place_all(pieces: _Pieces, cells: _Cells) -> Clustering:
    """Every vector to its nearest cluster, every cluster to the mean of its vectors."""
    clusters, dim = cells.centroids.shape
    of = np.empty(pieces.count, dtype=np.int32)
    totals, sums, squares = np.zeros(clusters), np.zeros((clusters, dim)), 0.0
    for begin, piece in pieces:
        home, _ = nearest(piece, cells.middles)
        found, _ = _place(piece, home, cells)
        weights, values = pieces.weights[begin : begin + len(piece)], piece.double().numpy()
        of[begin : begin + len(piece)] = found
        totals += np.bincount(found, weights, clusters)
        for column in range(dim):
            sums[:, column] += np.bincount(found, weights * values[:, column], clusters)
        squares += float(weights @ np.square(values).sum(axis=1))
    held = totals > 0
    means = cells.centroids.double().numpy().copy()
    means[held] = sums[held] / totals[held, None]
    error = (squares - float(totals[held] @ np.square(means[held]).sum(axis=1))) / float(totals.sum())
    return Clustering(torch.from_numpy(means).float(), of, max(0.0, error))
