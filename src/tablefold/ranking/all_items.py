"""The score of every item for some users, computed from vectors that are composed once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from tablefold.ranking.catalogue import Catalogue
from tablefold.train.loop import choose_device
from tablefold.train.run import Run

_COMPOSED = 8192
"""Rows whose vectors are composed at a time."""
_FLOATS = 1 << 24
"""Of the vectors of pairs that are scored at a time: 64 MB."""


class AllItems:
    """Scores of all items of a catalogue by a run's model. Memory holds the vectors of all users and items, and the
    scores of a few users at a time.

    Args:
        run: trained on interactions.
        catalogue: of a dataset with the ids that the run knows.
        device: "auto", "cpu" or "cuda".

    Raises:
        ValueError: where the run's columns do not say which are the user's and which the item's.
    """

    def __init__(self, run: Run, catalogue: Catalogue, device: str = "auto") -> None:
        self._device = choose_device(device)
        self._model = run.model.to(self._device).eval()
        places = self._model.split_sides()
        self._users, self._items = (
            self._vectors(torch.from_numpy(catalogue.rows(side)), own)
            for side, own in zip(("user", "item"), places, strict=True)
        )

    @torch.no_grad()
    def _vectors(self, rows: Tensor, places: list[int]) -> Tensor:
        """The vectors of one side's columns, `[rows, features, dim]`."""
        pieces = [self._model.vectors(piece.to(self._device))[:, places] for piece in torch.split(rows, _COMPOSED)]
        return torch.cat(pieces)

    @torch.no_grad()
    def scores(self, users: Tensor) -> Float[Tensor, "users items"]:
        """Logits of all items for some users, by their ids, on the CPU.

        Raises:
            ValueError: where a score is not finite.
        """
        pairs = max(1, _FLOATS // (self._users.shape[1] + self._items.shape[1]) // self._users.shape[2])
        given = self._users[users.to(self._device)]
        pieces = [
            self._model.score_pairs(given, piece) for piece in torch.split(self._items, max(1, pairs // len(users)))
        ]
        found = torch.cat(pieces, dim=1).float().cpu()
        if not bool(torch.isfinite(found).all()):
            raise ValueError("the model gives scores that are not finite (NaN or inf): train it again")
        return found

    def by_users(self, users: Tensor, batch: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
        """Some users at a time, and their scores of all items."""
        for piece in torch.split(users, batch):
            yield piece, self.scores(piece)
