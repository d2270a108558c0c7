"""What a run is asked to do: one frozen dataclass, JSON in and out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from tablefold.fields import settle_fields
from tablefold.formats import find_format
from tablefold.json_files import JsonValue
from tablefold.method import all_methods, parse
from tablefold.models import check_options
from tablefold.placement import Placement
from tablefold.quoting import quoted
from tablefold.tables import TableSpec, full_bytes
from tablefold.train.loop import check_device
from tablefold.train.optimizer import check_optimizer
from tablefold.train.precision import check_precision
from tablefold.train.progress import Schedule
from tablefold.train.target import Target

LARGEST_BUDGET = 1 << 62
LARGEST_SEED = (1 << 63) - 1
LARGEST_DIM = 1 << 16


def _four_digits(ratio: float) -> str:
    """A ratio in four digits, rounded down: what is named must do.

    >>> _four_digits(41.2999), _four_digits(30417.9)
    ('41.29', '30,410')
    """
    step = 10.0 ** (math.floor(math.log10(ratio)) - 3)
    digits = math.floor(ratio / step) * step
    return f"{digits:,.0f}" if digits >= 1000 else f"{digits:.4g}"


@cache  # a study may ask for many sizes of the same tables
def _smallest_by_method(threshold: int, storage: str, tables: tuple[TableSpec, ...]) -> dict[str, int]:
    """Of every method at its default options, the smallest bytes for these tables; the largest of them first."""
    found = {}
    for name, kind in all_methods().items():
        try:
            found[name] = Placement(kind(), threshold, storage).smallest_bytes(tables)
        except ValueError:  # it needs options of its own, or does not take these tables
            continue
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


@dataclass(frozen=True)
class Config:
    """A training run as asked for: data, method, model, optimiser, schedule.

    Args:
        data: folder of a prepared dataset.
        method: spec string, such as "qr:collisions=4".
        threshold: tables with at most so many rows stay full.
        compression: full bytes / embedding bytes to reach; sets the method's size. At most one of this and `budget`.
        budget: bytes that all embeddings together may take; sets the method's size.
        dim: floats of one embedding.
        storage: the format of memory: "fp32", "bf16", "int8", "int4" or "int2".
        model: one of `tablefold.models.all_models()`.
        model_options: the model's sizes; what is left out keeps its default.
        optimizer: "adagrad", "amsgrad", "sgd" or "rowwise_adagrad".
        lr: learning rate; None takes torch's default.
        batch_size: rows of a batch.
        epochs: passes over the training part.
        seed: of addresses, start values and the order of rows.
        until: stop at this target on the validation part, such as "auc=0.75".
        eval_every: steps between evaluations on the validation part; None evaluates after each epoch.
        patience: evaluations without a better validation log loss after which to stop, keeping the best weights.
        precision: of the model's arithmetic: "fp32", "tf32" or "bf16".
        device: "auto", "cpu" or "cuda".
        compile: train with the model's network compiled by `torch.compile`.

    Raises:
        ValueError: for a value of another type or out of range, or both a compression and a budget.
    """

    data: str
    method: str = "full"
    threshold: int = 0
    compression: float | None = None
    budget: int | None = None
    dim: int = 16
    storage: str = "fp32"
    model: str = "dlrm"
    model_options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "amsgrad"
    lr: float | None = None
    batch_size: int = 128
    epochs: int = 1
    seed: int = 0
    until: str | None = None
    eval_every: int | None = None
    patience: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        settle_fields(self, largest=None)
        if self.compression is not None and self.budget is not None:
            raise ValueError("a compression and a budget both set the size; give one of them")
        if self.compression is not None and not 1 <= self.compression < math.inf:
            raise ValueError(
                f"compression={self.compression:g} must be at least 1 and finite (100 keeps one byte in a hundred)"
            )
        if self.budget is not None and not 0 <= self.budget <= LARGEST_BUDGET:
            raise ValueError(f"budget={quoted(self.budget)} must lie in 0 .. {LARGEST_BUDGET:,} bytes")
        find_format(self.storage)
        parse(self.method)
        check_optimizer(self.optimizer, self.lr)
        check_precision(self.precision)
        check_device(self.device)
        check_options(self.model, self.model_options)
        for name, least, most in (("seed", 0, LARGEST_SEED), ("dim", 1, LARGEST_DIM)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name}={quoted(value)} must be at least {least} and at most {most:,}")
        self.schedule()  # refuses numbers and targets that cannot be

    def placement(self, tables: Sequence[TableSpec]) -> Placement:
        """The method and threshold for `tables`, sized to the compression or budget if there is one.

        Raises:
            ValueError: for a spec string that does not parse, or a budget below the smallest possible.
        """
        placement = Placement(parse(self.method), self.threshold, self.storage)
        budget = self.budget
        if self.compression is not None:
            budget = int(full_bytes(tables) / self.compression)
        if budget is None:
            return placement
        smallest = placement.smallest_bytes(tables)
        if smallest > budget:
            raise ValueError(self._explain(placement, tables, budget, smallest))
        return placement.for_budget(tables, budget)

    def _explain(self, placement: Placement, tables: Sequence[TableSpec], budget: int, smallest: int) -> str:
        """Why the size cannot be, the nearest that can, and what else to take."""
        name = placement.method.name
        if self.compression is None:
            text = f"a budget of {budget} bytes is below the smallest possible for {name} here, {smallest} bytes"
            advice, direction = ["raise the budget"], "less"
        else:
            most = _four_digits(full_bytes(tables) / smallest)
            text = f"compression={self.compression:g} cannot be: {name} folds these tables at most {most}x"
            advice, direction = ["ask for less"], "more"
        sizes = _smallest_by_method(self.threshold, self.storage, tuple(tables))
        others = [other for other, size in sizes.items() if size <= budget]
        if others:
            last = " or ".join(others[-2:])
            advice.append(f"take {', '.join([*others[:-2], last])} for {direction}")
        kept = full_bytes(placement.split(tables)[0])
        if kept:
            advice.append(f"lower the threshold, which keeps {kept} bytes full")
        return f"{text}: {', or '.join(advice)}"

    def schedule(self) -> Schedule:
        """The part of this that the training loop reads."""
        until = Target.parse(self.until) if self.until else None
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            eval_every=self.eval_every,
            until=until,
            patience=self.patience,
        )

    def to_json(self) -> dict[str, Any]:
        """Every field by name; `from_json` inverts it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | JsonValue) -> Config:
        """The config that `to_json` wrote; a run of an earlier version lacks fields, which had their defaults.

        Raises:
            ValueError: for a field this version does not know, or a value that it cannot have.
        """
        given = values if isinstance(values, JsonValue) else JsonValue(dict(values), "the run's config", "")
        return given.into(cls)
