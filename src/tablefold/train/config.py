"""What a run is asked to do: one frozen dataclass, JSON in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tablefold.fields import settle_fields
from tablefold.json_files import JsonValue
from tablefold.method import Method, parse
from tablefold.models import check_options, find_model
from tablefold.plans import Plan, Wishes, make_plan, tiers
from tablefold.quoting import quoted
from tablefold.tables import TableSpec
from tablefold.train.loop import check_device
from tablefold.train.optimizer import check_optimizer
from tablefold.train.precision import check_precision
from tablefold.train.progress import Schedule
from tablefold.train.target import Target

LARGEST_SEED = (1 << 63) - 1
LARGEST_DIM = 1 << 16


@dataclass(frozen=True)
class Config:
    """A training run as asked for: data, method, model, optimiser, schedule.

    Args:
        data: folder of a prepared dataset.
        method: spec string, such as "qr:collisions=4".
        threshold: tables with at most so many rows stay full; None leaves that to the plan.
        compression: full bytes / embedding bytes to reach; sets the method's size. At most one of this and `budget`.
        budget: bytes that all embeddings together may take; sets the method's size.
        dim: floats of one embedding.
        storage: the format of memory: "fp32", "bf16", "int8", "int4" or "int2"; None leaves that to the plan.
        with_pointers: whether the size bounds the bytes with pointers.
        model: one of `tablefold.models.all_models()`.
        model_options: the model's sizes; what is left out keeps its default.
        optimizer: "adagrad", "amsgrad", "sgd" or "rowwise_adagrad".
        lr: learning rate; None takes torch's default.
        lr_decay: how the rate falls to 0 over the epochs: "linear" or "cosine"; None keeps it.
        training_memory: bytes that the embeddings of a first training may take with what the optimiser remembers, for
            methods that are made from trained tables; None does not bound them.
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
    threshold: int | None = None
    compression: float | None = None
    budget: int | None = None
    dim: int = 16
    storage: str | None = None
    with_pointers: bool = False
    model: str = "dlrm"
    model_options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "amsgrad"
    lr: float | None = None
    lr_decay: str | None = None
    training_memory: int | None = None
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
        sizes = {name: tuple(each) if isinstance(each, list) else each for name, each in self.model_options.items()}
        object.__setattr__(self, "model_options", sizes)  # JSON has lists alone: what is read back is what was asked
        _ = self.wishes  # which refuses those that cannot be
        parse(self.method)
        check_optimizer(self.optimizer, self.lr)
        check_precision(self.precision)
        check_device(self.device)
        check_options(self.model, self.model_options)
        for name, least, most in (("seed", 0, LARGEST_SEED), ("dim", 1, LARGEST_DIM)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name}={quoted(value)} must be at least {least} and at most {most:,}")
        if self.training_memory is not None and self.training_memory < 1:
            raise ValueError(f"training_memory={self.training_memory} must be at least 1 byte")
        self.schedule()  # refuses numbers and targets that cannot be

    def model_tables(self, tables: Sequence[TableSpec]) -> list[TableSpec]:
        """The tables of the model's group, for the data's tables."""
        return find_model(self.model).tables_for(tables)

    def plan(self, tables: Sequence[TableSpec]) -> Plan:
        """What every table of the model's group gets, for the data's tables; errors as `tablefold.make_plan`."""
        return make_plan(self.method, self.model_tables(tables), **asdict(self.wishes))

    def tiers(self, tables: Sequence[TableSpec]) -> tuple[tuple[Method, ...], ...]:
        """The methods that are tried for the data's tables: one, but for `auto`; those of the next tier where the first
        one's cannot be so small after all."""
        return tiers(parse(self.method), self.model_tables(tables), self.wishes)

    @property
    def wishes(self) -> Wishes:
        """What is asked of the plan beside the method."""
        return Wishes(self.budget, self.compression, self.storage, self.threshold, self.with_pointers)

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
            lr_decay=self.lr_decay,
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
