"""A run: the folder that a training leaves behind, and the model read back from it.

    config.json         what was asked, the placement it led to, and the data's columns
    metrics.jsonl       training loss and validation figures on the way
    model.safetensors   the weights
    result.json         figures on the test part, bytes, speed, machine

The folder appears whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tablefold.data import Dataset, Schema
from tablefold.files import check_free, new_folder
from tablefold.hashing import derive_key
from tablefold.method import Method
from tablefold.models import Network, build_model
from tablefold.placement import Placement
from tablefold.tables import TableSpec, full_bytes
from tablefold.train.config import Config
from tablefold.train.loop import Listener, Trainer
from tablefold.train.machine import describe_machine, peak_rss_bytes
from tablefold.train.metrics import Metrics
from tablefold.train.optim import state_bytes
from tablefold.train.records import Journal, read_json, write_json

CONFIG, JOURNAL, WEIGHTS, RESULT = "config.json", "metrics.jsonl", "model.safetensors", "result.json"
FORMAT = 1
"""Version of the layout above; a reader refuses another."""

_NETWORK_SEED = 1 << 32  # far from the small numbers under which groups derive seeds


@dataclass(frozen=True)
class Recipe:
    """All that is needed to build a run's model again: what was asked, and what the data turned it into.

    Args:
        config: what was asked.
        placement: the method at its final size, and its threshold.
        dense: names of the dense columns.
        tables: the categorical columns.
    """

    config: Config
    placement: Placement
    dense: tuple[str, ...]
    tables: tuple[TableSpec, ...]

    @classmethod
    def of(cls, config: Config, schema: Schema) -> Recipe:
        """The recipe for a config on data with this schema.

        Raises:
            ValueError: where the method or its budget do not fit the tables.
        """
        tables = tuple(schema.table_specs(config.dim))
        return cls(config, config.placement(tables), schema.dense, tables)

    def build(self) -> Network:
        """The model as training starts, on the CPU."""
        config = self.config
        group = self.placement.build(self.tables, seed=config.seed)
        seed = derive_key(config.seed, _NETWORK_SEED)
        return build_model(config.model, group, len(self.dense), seed=seed, **config.model_options)

    def check(self, schema: Schema) -> None:
        """Refuse data whose columns are not those of this run."""
        if schema.dense != self.dense:
            raise ValueError(
                f"the data has dense columns {list(schema.dense)}, the run was trained on {list(self.dense)}"
            )
        there = [(table.name, table.rows) for table in schema.tables]
        here = [(table.name, table.rows) for table in self.tables]
        if there != here:
            first = next((pair for pair in zip(there, here, strict=False) if pair[0] != pair[1]), None)
            detail = f"table {first[0]} against {first[1]}" if first else f"{len(there)} against {len(here)} tables"
            raise ValueError(
                f"the data's tables are not those the run was trained on ({detail}); "
                "prepare both from the same training part"
            )

    def to_json(self) -> dict[str, Any]:
        """For `config.json`; `from_json` inverts it."""
        return {
            "format": FORMAT,
            "asked": self.config.to_json(),
            "placement": {
                "spec": str(self.placement.method),
                "method": self.placement.method.to_json(),
                "threshold": self.placement.threshold,
            },
            "dense": list(self.dense),
            "tables": [asdict(table) for table in self.tables],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote."""
        if content.get("format") != FORMAT:
            raise ValueError(f"the run has format {content.get('format')}; this tablefold reads {FORMAT}")
        placement = content["placement"]
        return cls(
            config=Config.from_json(content["asked"]),
            placement=Placement(Method.from_json(placement["method"]), placement["threshold"]),
            dense=tuple(content["dense"]),
            tables=tuple(TableSpec(**table) for table in content["tables"]),
        )


@dataclass(frozen=True)
class Run:
    """A finished run, read back: its folder, its recipe, its trained model."""

    folder: Path
    recipe: Recipe
    model: Network

    def evaluate(self, data: str | Path | None = None, part: str = "test", device: str = "auto") -> Metrics:
        """Figures of the model on a part of `data`, by default of the data it was trained on.

        Raises:
            ValueError: when the data's columns are not those of the run.
        """
        dataset = Dataset(self.recipe.config.data if data is None else data)
        self.recipe.check(dataset.schema)
        return Trainer(self.model, device=device).evaluate(dataset.part(part))


def train_run(config: Config, out: str | Path, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Train as `config` says and leave the folder `out`; gives what `result.json` holds.

    Raises:
        ValueError: for a config that does not fit the data, a taken `out`, or a training that diverges.
        OSError: when `out` cannot be written.
    """
    began = time.perf_counter()
    check_free(out)
    dataset = Dataset(config.data)
    recipe = Recipe.of(config, dataset.schema)
    model = recipe.build()
    with new_folder(out) as folder:
        write_json(folder / CONFIG, recipe.to_json())
        journal = Journal(folder / JOURNAL)
        trainer = Trainer(model, config.optimizer, config.lr, device=config.device, listeners=[journal, *listeners])
        trainer.fit(dataset.part("train"), config.schedule(), dataset.part("validation"))
        test = trainer.evaluate(dataset.part("test"))
        save_weights(model, recipe, folder / WEIGHTS)
        result = {
            **_figures(test, dataset.schema),
            **_sizes(recipe, model, trainer),
            **_effort(config, trainer, dataset.part("train").rows),
            "total_seconds": time.perf_counter() - began,
            "peak_rss_bytes": peak_rss_bytes(),
            "machine": describe_machine(trainer.device),
        }
        write_json(folder / RESULT, result)
    return result


def save_weights(model: Network, recipe: Recipe, path: Path) -> None:
    """Write the model's weights with safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # One entry: of several, safetensors writes the order at random, and equal runs would give unequal files.
    described = {"tablefold": f"{recipe.config.model} {recipe.placement.method}"}
    path.touch()  # with the user's umask: safetensors would make a file that only its owner may read
    mode = path.stat().st_mode
    save_file(state, path, metadata=described)
    path.chmod(mode)


def load_run(folder: str | Path) -> Run:
    """Read a finished run; its model is on the CPU.

    Raises:
        ValueError: when the folder holds no finished run, is damaged, or its weights were saved under other
            addresses than this version computes.
    """
    folder = Path(folder)
    if not (folder / RESULT).is_file():
        raise ValueError(f"{folder} holds no finished run (no {RESULT}); see `tablefold train`")
    content = read_json(folder / CONFIG)
    try:
        recipe = Recipe.from_json(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged ({error!r})") from error
    model = recipe.build()
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS} is missing or damaged ({error})") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {CONFIG}: {' '.join(str(error).split())}") from error
    return Run(folder, recipe, model)


def _figures(test: Metrics, schema: Schema) -> dict[str, Any]:
    figures: dict[str, Any] = test.as_dict()
    best = (schema.best or {}).get("test")
    if best:
        figures["best_logloss"] = best["logloss"]
        figures["excess_logloss"] = test.logloss - best["logloss"]
    return figures


def _sizes(recipe: Recipe, model: Network, trainer: Trainer) -> dict[str, Any]:
    embedding_bytes = model.group.num_bytes
    open_vocabulary = any(table.rows is None for table in recipe.tables)
    full = None if open_vocabulary else full_bytes(recipe.tables)
    return {
        "method": str(recipe.placement.method),
        "threshold": recipe.placement.threshold,
        "model": recipe.config.model,
        "embedding_bytes": embedding_bytes,
        "full_bytes": full,
        "compression": None if full is None else full / embedding_bytes,
        "embedding_parameters": model.group.num_parameters,
        "network_parameters": model.num_network_parameters,
        "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "optimizer_state_bytes": state_bytes(trainer.optimizer),
    }


def _effort(config: Config, trainer: Trainer, train_rows: int) -> dict[str, Any]:
    progress = trainer.progress
    return {
        "seed": config.seed,
        "optimizer": config.optimizer,
        "lr": trainer.optimizer.param_groups[0]["lr"],
        "batch_size": config.batch_size,
        "iterations": progress.step,
        "epochs": progress.examples / train_rows,
        "target": config.until,
        "target_reached": progress.target_reached if config.until else None,
        "seconds": progress.seconds,
        "samples_per_second": progress.samples_per_second,
    }
