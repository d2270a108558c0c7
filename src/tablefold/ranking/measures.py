"""How well a run ranks the items that users took later: recall@k, NDCG@k, MRR, over all items.

For every user with items in the part, all items that she has not taken before are ranked by score (ties by id). With
the ranks r of her n items, averaged over users:

    recall@k = |{r <= k}| / n
    NDCG@k   = sum_{r <= k} 1 / log2(r + 1)  /  sum_{j <= min(k, n)} 1 / log2(j + 1)
    MRR      = 1 / min r

as LightGCN and its successors compute them; with one item a user (leave one out) recall@k is the hit rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tablefold.quoting import quoted
from tablefold.ranking.all_items import AllItems
from tablefold.ranking.catalogue import Catalogue
from tablefold.train.run import Run

BEFORE = {"train": (), "validation": ("train",), "test": ("train", "validation")}
"""The parts whose items a user is not recommended again."""


def ranking_figures(
    run: Run,
    depths: Sequence[int],
    part: str = "test",
    device: str = "auto",
    data: str | None = None,
    tell: Callable[[int, int], None] = lambda done, users: None,
) -> dict[str, float]:
    """Figures of a run's ranking on a part of its data, such as `recall@20`.

    Args:
        run: trained on interactions.
        depths: each k.
        part: "test" or "validation"; "train" ranks what it was trained on.
        device: "auto", "cpu" or "cuda".
        data: a dataset of the same catalogues; by default that of the run.
        tell: called with the users done, and all.

    Raises:
        ValueError: for a k that is not possible, data without users and items, or a part without positives.
    """
    catalogue = Catalogue(run.dataset(data))
    for depth in depths:
        if not 1 <= depth <= catalogue.items:
            raise ValueError(f"k={quoted(depth)} must be 1 .. {catalogue.items:,}, the items that there are")
    begins, items = catalogue.taken(part)
    seen = catalogue.taken(*BEFORE[part]) if BEFORE[part] else None
    users = np.flatnonzero(np.diff(begins))
    if not len(users):
        raise ValueError(f"the {part} part has no positives to rank")
    scorer, sums, done = AllItems(run, catalogue, device), np.zeros(1 + 2 * len(depths)), 0
    for some, scores in scorer.by_users(torch.from_numpy(users)):
        for row, user in enumerate(some.tolist()):
            own = items[begins[user] : begins[user + 1]]
            before = seen[1][seen[0][user] : seen[0][user + 1]] if seen else own[:0]
            sums += _of_user(ranks(scores[row], own, before), depths)
        done += len(some)
        tell(done, len(users))
    means = (sums / len(users)).tolist()
    names = [f"{name}@{depth}" for depth in depths for name in ("recall", "ndcg")]
    return {"users": len(users), "mrr": means[0], **dict(zip(names, means[1:], strict=True))}


def ranks(scores: Tensor, own: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ranks, from 1, of some items by their scores `[items]`, those taken `before` left out; ties by id.

    >>> ranks(torch.tensor([0.1, 0.9, 0.5, 0.5, 0.7]), np.array([3, 0]), np.array([1]))
    array([3, 4])
    """
    scores = scores.clone()
    scores[torch.from_numpy(before)] = -torch.inf
    places = torch.from_numpy(own)
    mine = scores[places][:, None]
    above = (scores > mine).sum(dim=1)
    equal = scores == mine
    if int(equal.sum()) > len(own):
        equal &= torch.arange(len(scores)) < places[:, None]
        above += equal.sum(dim=1)
    return (above + 1).numpy()


def _of_user(found: NDArray[np.int64], depths: Sequence[int]) -> NDArray[np.float64]:
    """MRR, then recall and NDCG at every depth."""
    figures = [1 / found.min()]
    for depth in depths:
        hits = found[found <= depth]
        best = 1 / np.log2(np.arange(min(depth, len(found))) + 2)
        figures += [len(hits) / len(found), float((1 / np.log2(hits + 1)).sum() / best.sum())]
    return np.array(figures)
