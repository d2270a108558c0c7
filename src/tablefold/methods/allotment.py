"""How a budget is shared among zones of ids: what clusters of each would leave, and where a row is worth most.

What k clusters leave of a zone, its *distortion*, is measured by short k-means of a sample at k = 1, 4, 16, .. and
interpolated between. Rows are then given out greedily, to the zone where they save most per byte.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tablefold.clustering import cluster
from tablefold.method import Trained

SKETCH = 1 << 14
"""Vectors of a zone by which its distortion is measured."""

MOST = 1 << 12
"""Clusters up to which it is measured; beyond, it falls on as it did last."""

STEP = 2.0
"""Rows are given out in such steps: a zone's clusters double."""


@dataclass(frozen=True, eq=False)
class Curve:
    """What clusters of some vectors leave.

    Args:
        most: the vectors: so many clusters leave nothing.
        sizes: clusters that were tried, rising from 1.
        errors: what each of these left, a sum over all vectors.
    """

    most: int
    sizes: tuple[int, ...]
    errors: tuple[float, ...]

    @classmethod
    def of(cls, trained: Trained, seed: int) -> Curve:
        """Measured on a sample of vectors, in which distance is cost."""
        total, sample = float(trained.weights.sum()), trained.sample(SKETCH, seed)
        sizes, errors, size = [], [], 1
        while size <= min(MOST, len(sample.values) // 2) or size == 1:
            found = cluster(sample.values, size, weights=sample.weights, seed=seed, iterations=4)
            sizes.append(size)
            errors.append(found.error * total)
            size *= 4
        return cls(len(trained.values), tuple(sizes), tuple(errors))

    def __call__(self, clusters: int) -> float:
        """What so many leave; nothing where every vector has its own."""
        if clusters >= self.most:
            return 0.0
        if len(self.sizes) == 1:
            return self.errors[0] * (1 - (clusters - 1) / self.most)
        logs = np.log(np.array(self.sizes, dtype=np.float64))
        values = np.log(np.maximum(self.errors, 1e-30))
        wanted = math.log(clusters)
        if wanted <= logs[-1]:
            return float(np.exp(np.interp(wanted, logs, values)))
        slope = min(0.0, (values[-1] - values[-2]) / (logs[-1] - logs[-2]))
        return float(np.exp(values[-1] + slope * (wanted - logs[-1])))


def allot(curves: Sequence[Curve], row_bytes: Sequence[float], budget: float) -> list[int]:
    """How many rows each zone gets: at least one, and all together at most so many bytes where one each fits.

    Args:
        curves: of the zones.
        row_bytes: of a row and its edge, in each.
        budget: bytes.
    """
    rows = [1] * len(curves)
    left = budget - sum(row_bytes)
    offers = (_offer(zone, curve, 1, row_bytes[zone]) for zone, curve in enumerate(curves))
    queue = [offer for offer in offers if offer is not None]
    heapq.heapify(queue)
    while queue:
        _, zone, wanted = heapq.heappop(queue)
        cost = (wanted - rows[zone]) * row_bytes[zone]
        if cost > left:
            wanted = rows[zone] + int(left // row_bytes[zone])  # what still fits, and no more for this zone
            if wanted > rows[zone]:
                left -= (wanted - rows[zone]) * row_bytes[zone]
                rows[zone] = wanted
            continue
        left -= cost
        rows[zone] = wanted
        if (offer := _offer(zone, curves[zone], wanted, row_bytes[zone])) is not None:
            heapq.heappush(queue, offer)
    return rows


def _offer(zone: int, curve: Curve, rows: int, row_bytes: float) -> tuple[float, int, int] | None:
    """(minus what a step saves per byte, zone, rows after it); None where every vector has its own."""
    if rows >= curve.most:
        return None
    wanted = min(curve.most, max(rows + 1, int(rows * STEP)))
    saved = curve(rows) - curve(wanted)
    return -saved / ((wanted - rows) * row_bytes), zone, wanted
