"""A folded model trained a little: codebooks, cluster rows, scales and the network learn, pointers and codes stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tablefold.folding.measuring import Loss, evaluating
from tablefold.folding.scales import LearnedScales
from tablefold.formats.codes import Codes
from tablefold.group import EmbeddingGroup
from tablefold.nn import Folded

APART = 8
"""The first batches, which are not learned from: the model is judged by them."""

RATE = 1e-3
"""Of Adam, at the beginning; it falls to 0 in a line."""

SCALES_RATE = 10
"""How many times faster scales learn: they are parts of themselves, and kept in steps of a tenth."""

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

    Tables in few bits keep their codes and learn their scales; codebooks and clusters learn through their format.

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
    with _renumbering(numbers or {}), _codes_at_rest(model) as scales:
        batches, apart = _forever(data, 0), list(judge or ())
        if judge is None:
            batches = _forever(data, APART)
            apart = list(islice(batches, APART))
        learned = _learned(model, scales)
        before = after = _judged(model, apart, loss)
        best, held, taken = 0, _copied(model, learned, scales), 0
        for taken in _train(model, learned, scales, batches, loss, steps, rate):
            if (found := _judged(model, apart, loss)) < after:
                best, after, held = taken, found, _copied(model, learned, scales)
        if not taken:
            raise ValueError(f"data has {len(apart)} batches: the first {APART} judge, and none is left to tune by")
    with torch.no_grad():
        for tensor, value in held:
            tensor.copy_(value)
        for each in scales:
            each.write()
    return Tuned(best, before, after)


def _learned(model: nn.Module, scales: Sequence[LearnedScales]) -> list[nn.Parameter]:
    """What an optimiser moves, but for scales."""
    masters = {id(each.memory) for each in scales}
    return [each for each in model.parameters() if each.requires_grad and id(each) not in masters]


def _train(
    model: nn.Module,
    learned: Sequence[nn.Parameter],
    scales: Sequence[LearnedScales],
    batches: Iterator[Any],
    loss: Loss,
    steps: int,
    rate: float,
) -> Iterator[int]:
    """Train; gives the steps taken whenever it is time to look, and at the end."""
    rates = {rate: learned, SCALES_RATE * rate: [each.factors for each in scales]}
    groups = [{"params": parameters, "lr": each} for each, parameters in rates.items() if parameters]
    optimizer, taken = torch.optim.Adam(groups), 0
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    modes = {module: module.training for module in model.modules()}
    model.train()
    for batch in islice(batches, steps):
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
        for each in scales:
            each.take_gradient()
        optimizer.step()
        falling.step()
        for each in scales:
            each.write()
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


def _copied(
    model: nn.Module, learned: Sequence[nn.Parameter], scales: Sequence[LearnedScales]
) -> list[tuple[Tensor, Tensor]]:
    """What training changes, with its values now."""
    groups = {
        id(buffer) for group in model.modules() if isinstance(group, EmbeddingGroup) for buffer in group.buffers()
    }
    buffers = [buffer for buffer in model.buffers() if id(buffer) not in groups]
    factors = [each.factors for each in scales]
    return [(tensor, tensor.detach().clone()) for tensor in (*learned, *factors, *buffers)]


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
def _codes_at_rest(model: nn.Module) -> Iterator[list[LearnedScales]]:
    """Groups whose rows are not shared by pointers or intervals learn their scales alone, or nothing where they have
    none."""
    resting: list[nn.Parameter] = []
    scales: list[LearnedScales] = []
    sparse: dict[EmbeddingGroup, bool | Literal["auto"]] = {}
    for group in model.modules():
        if not isinstance(group, EmbeddingGroup) or group.lookup is not None or group.edges is not None:
            continue
        for array in group.address_map.arrays:
            memory = group.memory[array.name]
            if memory.requires_grad and isinstance(array.format, Codes):
                scales.append(LearnedScales(array.format, memory))
                sparse.setdefault(group, group.sparse)
                group.sparse = True
            elif memory.requires_grad:
                resting.append(memory)
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        yield scales
    finally:
        for parameter in resting:
            parameter.requires_grad_()
        for group, own in sparse.items():
            group.sparse = own


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
