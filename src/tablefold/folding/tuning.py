"""A folded model trained a little: codebooks, cluster rows and the network learn, pointers and codes stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from tablefold.folding.measuring import Loss, evaluating
from tablefold.group import EmbeddingGroup
from tablefold.nn import Folded

APART = 8
"""The first batches, which are not learned from: the model is judged by them."""

RATE = 1e-3
"""Of Adam, at the beginning; it falls to 0 in a line."""


LOOKS = 4
"""So often, evenly, the model is judged; the best is kept."""


@dataclass(frozen=True)
class Tuned:
    """What tuning did.

    Args:
        steps: after which the model was best; 0 where it never got better, and is as it was.
        before, after: the mean loss on the batches that judge.
    """

    steps: int
    before: float
    after: float

    def __str__(self) -> str:
        if not self.steps:
            return f"tuning never made the loss smaller than {self.before:.5g} on the batches that judge: it was undone"
        return f"tuned for {self.steps} steps: loss {self.before:.5g} -> {self.after:.5g} on the batches that judge"


def tune(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss,
    steps: int,
    rate: float = RATE,
    judge: Iterable[Any] | None = None,
    numbers: Mapping[Folded, Tensor] | None = None,
) -> Tuned:
    """Train the network and what tables share, for some steps of Adam, and keep what was best on the way.

    Tables in few bits keep their codes; rows of codebooks and clusters are learned through their format.

    Args:
        model: folded.
        data: batches.
        loss: of the model on a batch, a number.
        steps: at most, fewer where the data ends; data that begins anew each time is repeated.
        rate: of learning, to begin with.
        judge: batches that judge, best of rows that the model was never trained on; the first ones of `data`, which are
            then not learned from, unless given.
        numbers: of drop-ins whose ids have new numbers, those by the old ones: batches have the old ones.

    Raises:
        ValueError: for data without enough batches.
    """
    with _renumbering(numbers or {}), _codes_at_rest(model):
        batches, apart = _forever(data, 0), list(judge or ())
        if judge is None:
            batches = _forever(data, APART)
            apart = list(islice(batches, APART))
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        before = after = _judged(model, apart, loss)
        best, held, taken = 0, _copied(model, learned), 0
        for taken in _train(model, learned, batches, loss, steps, rate):
            if (found := _judged(model, apart, loss)) < after:
                best, after, held = taken, found, _copied(model, learned)
        if not taken:
            raise ValueError(f"data has {len(apart)} batches: the first {APART} judge, and none is left to tune by")
    with torch.no_grad():
        for tensor, value in held:
            tensor.copy_(value)
    return Tuned(best, before, after)


def _train(
    model: nn.Module, learned: Sequence[nn.Parameter], batches: Iterator[Any], loss: Loss, steps: int, rate: float
) -> Iterator[int]:
    """Train; gives the steps taken whenever it is time to look, and at the end."""
    optimizer, taken = torch.optim.Adam(learned, lr=rate), 0
    modes = {module: module.training for module in model.modules()}
    model.train()
    for batch in islice(batches, steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - taken / steps)
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        taken += 1
        if taken * LOOKS // steps > (taken - 1) * LOOKS // steps and taken < steps:
            yield taken
    optimizer.zero_grad()
    for module, training in modes.items():
        module.training = training
    if taken:
        yield taken


def _judged(model: nn.Module, batches: Sequence[Any], loss: Loss) -> float:
    with evaluating(model), torch.no_grad():
        return sum(float(loss(model, batch)) for batch in batches) / max(1, len(batches))


def _copied(model: nn.Module, learned: Sequence[nn.Parameter]) -> list[tuple[Tensor, Tensor]]:
    """What training changes, with its values now."""
    groups = {
        id(buffer) for group in model.modules() if isinstance(group, EmbeddingGroup) for buffer in group.buffers()
    }
    buffers = [buffer for buffer in model.buffers() if id(buffer) not in groups]
    return [(tensor, tensor.detach().clone()) for tensor in (*learned, *buffers)]


def _forever(data: Iterable[Any], apart: int) -> Iterator[Any]:
    """All batches, again and again but for the first ones, as far as the data can begin anew."""
    yield from data
    if iter(data) is data:
        return
    while True:
        seen = False
        for batch in islice(data, apart, None):
            seen = True
            yield batch
        if not seen:
            return


@contextmanager
def _codes_at_rest(model: nn.Module) -> Iterator[None]:
    """Groups whose rows are not shared by pointers or intervals learn nothing."""
    resting = []
    for group in model.modules():
        if isinstance(group, EmbeddingGroup) and group.lookup is None and group.edges is None:
            resting += [parameter for parameter in group.parameters() if parameter.requires_grad]
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_()


@contextmanager
def _renumbering(numbers: Mapping[Folded, Tensor]) -> Iterator[None]:
    """Look the ids of every call up in the new numbers."""

    def renumber(own: Tensor) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (own[args[0]], *args[1:]), kwargs
            return args, {**kwargs, "input": own[kwargs["input"]]}

        return hook

    handles = [
        module.register_forward_pre_hook(renumber(own), with_kwargs=True, prepend=True)
        for module, own in numbers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
