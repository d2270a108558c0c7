"""Going on from a run: its plan grown where its tables have grown, its weights, and nothing else anew.

    train_from("monday-run", "tuesday", "tuesday-run")

Old values keep the ids that the run gave them, so their vectors are what they were; new ones come behind, and begin as
`tablefold.growth` says. The network goes on as it is. What is trained is a run of its own, which says what it came from
and needs it no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tablefold.data import Dataset
from tablefold.data.encoder_folder import EncoderFolder, digest_of
from tablefold.data.joined import join_grown
from tablefold.data.schema import UNSEEN_ID
from tablefold.growth import carried, carried_pointers
from tablefold.plans import Plan
from tablefold.quoting import quoted
from tablefold.terms import AddressMap
from tablefold.train.config import Config
from tablefold.train.optimizer import build_optimizer
from tablefold.train.optimizer_state import OptimizerState, read_state
from tablefold.train.progress import Listener
from tablefold.train.recipe import Origin
from tablefold.train.run import ENCODER, GROUP, OPTIMIZER, WEIGHTS, Run, Start, load_run, train_once

KEPT = (
    *("method", "threshold", "compression", "budget", "dim", "storage", "model", "model_options", "seed"),
    *("with_pointers", "training_memory"),
)
"""What a run is made of, and nothing can change while it goes on."""


def train_from(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    listeners: Sequence[Listener] = (),
    *,
    checkpoint_every: int | None = None,
    from_optimizer: bool = False,
    keep_optimizer: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Train on new data from where a run ended, and leave the folder `out`; gives what `result.json` holds.

    Killed and started again it goes on from its checkpoints, as any training.

    Args:
        run: a finished run.
        data: a prepared dataset of the run's columns that knows all of the run's values, as `--extend` makes it.
        out: the new folder.
        listeners: told how it goes.
        checkpoint_every: steps between checkpoints; None writes none.
        from_optimizer: go on with what the run's optimiser remembers, too; the run was told to keep it. One that begins
            anew moves every row as far as on the first day, which costs some of what was learned.
        keep_optimizer: leave what the optimiser remembers in the new run.
        changes: fields of `Config` that are to be other than the run's: epochs, lr, batch_size, ...

    Raises:
        ValueError: for a change of what the run is made of, data of another kind or other columns or without values
            that the run has, a method that takes no new ids, and as `train_run`.
    """
    before = load_run(run)
    config = _config(before, {**changes, "data": str(data)})
    dataset = _dataset(before, Dataset(data))
    recipe = before.recipe
    plan = recipe.plan.grown(config.model_tables(dataset.schema.table_specs(config.dim)))
    origin = Origin(str(run), digest_of(before.folder / WEIGHTS))
    growth = _Growth.of(before, plan, UNSEEN_ID if dataset.schema.first_id > UNSEEN_ID else None)
    remembered = _remembered(before, config, growth) if from_optimizer else {}
    return train_once(
        config,
        out,
        listeners,
        checkpoint_every=checkpoint_every,
        dataset=dataset,
        plan=plan,
        start=Start(_weights(before, growth), origin, remembered),
        keep_optimizer=keep_optimizer,
    )


def _config(run: Run, changes: Mapping[str, Any]) -> Config:
    """The run's, with the changes; `ValueError` for one of what the run is made of."""
    own = run.recipe.config
    for name in KEPT:
        if name in changes and changes[name] != getattr(own, name):
            raise ValueError(
                f"{name}={quoted(changes[name])}: {run.folder} has {name}={quoted(getattr(own, name))}, and what goes "
                "on from it has too: leave that out, or train anew"
            )
    return replace(own, **changes)


def _dataset(run: Run, dataset: Dataset) -> Dataset:
    """The data with the run's ids, and ids behind them for new values."""
    run.recipe.check_columns(dataset.schema)
    encoder = run.folder / ENCODER
    if encoder.is_dir():
        return join_grown(dataset, EncoderFolder.read(encoder, run.recipe.dense, run.recipe.tables))
    if dataset.schema.has_dictionaries:
        raise ValueError(
            f"{run.folder} has no dictionaries, so the ids of {dataset.folder} cannot be told to be its own: train anew"
        )
    return dataset


@dataclass(frozen=True)
class _Growth:
    """How arrays grow: from one address map to the other.

    Args:
        before: of the run.
        after: of the grown plan.
        arrays: the numbers of the arrays of memory, by their names in the model's state dict.
        unseen: the id of unseen values.
    """

    before: AddressMap
    after: AddressMap
    arrays: Mapping[str, int]
    unseen: int | None

    @classmethod
    def of(cls, run: Run, plan: Plan, unseen: int | None) -> _Growth:
        """From a run's plan to another."""
        before, after = (each.address_map(run.recipe.config.seed) for each in (run.recipe.plan, plan))
        arrays = {f"{GROUP}memory.{array.name}": number for number, array in enumerate(before.arrays)}
        return cls(before, after, arrays, unseen)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """An array of memory, or what is remembered of it, with the rows that it has now; lookup arrays with room for
        all ids; anything else as it is."""
        if name == f"{GROUP}lookup":
            return carried_pointers(value, self.before, self.after, self.unseen)
        if name not in self.arrays:
            return value
        return carried(value, self.arrays[name], self.before, self.after, self.unseen)


def _weights(run: Run, growth: _Growth) -> dict[str, Tensor]:
    """The run's weights, grown, by their names in the state dict; masters where memory is packed."""
    state = dict(run.model.state_dict())
    run.recipe.blank().group.adopt(state, GROUP)
    kept = {name: value for name, value in state.items() if not name.endswith("_extra_state")}  # addresses are others
    return {name: growth(name, value) for name, value in kept.items()}


def _remembered(run: Run, config: Config, growth: _Growth) -> OptimizerState:
    """What the run's optimiser remembers, grown: of a new row what it does of others on average. Of unseen values it
    may remember nothing, and it would move what begins as they are too far."""
    growth = replace(growth, unseen=None)
    own, path = run.recipe.config.optimizer, run.folder / OPTIMIZER
    if config.optimizer != own:
        raise ValueError(
            f"{run.folder} was trained by {own}, of which {config.optimizer} remembers nothing: leave out one"
        )
    if not path.is_file():
        raise ValueError(
            f"{run.folder} has no {OPTIMIZER}: train it with --keep-optimizer, or let the optimiser begin anew"
        )
    model = run.recipe.blank()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    state = read_state(path, build_optimizer(own, model.parameters(), config.lr))
    return {
        index: {key: growth(names[index], value) if isinstance(value, Tensor) else value for key, value in held.items()}
        for index, held in state.items()
    }
