"""A run: the folder that a training leaves behind, and the model read back from it.

    config.json         what was asked, the plan it led to, and the dense columns
    metrics.jsonl       training loss and validation figures on the way
    model.safetensors   the weights
    result.json         figures on the test part, bytes, speed, machine
    encoder/            how raw lines become ids, where the data was prepared from lines
    optimizer.safetensors   what the optimiser remembers, where that was asked for

The folder appears whole or not at all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from tablefold.data import Dataset, Schema
from tablefold.data.encoder_folder import EncoderFolder, check_encoder, files_to_score, save_encoder
from tablefold.data.joined import join
from tablefold.files import check_free, new_folder
from tablefold.formats.pages import in_large_pages
from tablefold.json_files import load_json, write_json
from tablefold.locks import locked
from tablefold.models import Network
from tablefold.plans import Bytes, Plan
from tablefold.quoting import one_line
from tablefold.train.checkpoint import Checkpoints
from tablefold.train.config import Config
from tablefold.train.journal import Journal
from tablefold.train.loop import Trainer, choose_device
from tablefold.train.machine import describe_machine, peak_rss_bytes
from tablefold.train.metrics import Metrics
from tablefold.train.optimizer import state_bytes, training_bytes
from tablefold.train.optimizer_state import OptimizerState, place_state, save_state
from tablefold.train.precision import nearest_precision
from tablefold.train.progress import Listener
from tablefold.train.recipe import Origin, Recipe
from tablefold.train.tensors import check_tensors, read_tensors, save_tensors
from tablefold.train.world import World

_UNDEFINED = {*(figure.name for figure in fields(Metrics)), "excess_logloss"}
"""Figures that a test part of one label, or without rows, does not have: null in JSON."""

GROUP = "group."
"""Under which a model's state dict keeps its embeddings."""

CONFIG, JOURNAL, WEIGHTS, RESULT = "config.json", "metrics.jsonl", "model.safetensors", "result.json"
ENCODER, OPTIMIZER = "encoder", "optimizer.safetensors"


@dataclass(frozen=True, eq=False)
class Start:
    """What a training begins with, where it does not begin anew.

    Args:
        weights: by the names of the model's state dict.
        origin: the run that it goes on from, where it is one that somebody kept.
        optimizer: what the optimiser remembers of each parameter; empty where it begins anew.
        final: whether nothing is to be trained: the weights are looked at, and left as the run's.
    """

    weights: Mapping[str, Tensor]
    origin: Origin | None = None
    optimizer: OptimizerState = field(default_factory=dict)
    final: bool = False


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
        return self.trainer(device).evaluate(self.dataset(data).part(part))

    def dataset(self, data: str | Path | None = None) -> Dataset:
        """A dataset, by default that it was trained on, with the ids that this run has for its values.

        Values that the run does not know are unseen ones. Nothing is written anew: a map of ids is made once.

        Raises:
            ValueError: when the data's columns are not those of the run, or its ids cannot be told to be of the same
                values; where tables are closed catalogues (interactions), for a value that the run does not know.
        """
        dataset = Dataset(self.recipe.config.data if data is None else data)
        self.recipe.check_columns(dataset.schema)
        encoder = self.folder / ENCODER
        if encoder.is_dir():
            dataset = join(dataset, EncoderFolder.read(encoder, self.recipe.dense, self.recipe.tables))
        elif data is not None and dataset.schema.has_dictionaries:
            dataset = self._by_own_data(dataset)
        self.recipe.check(dataset.schema)
        return dataset

    def _by_own_data(self, dataset: Dataset) -> Dataset:
        """A dataset for a run of an earlier version, without dictionaries: joined with the data it was trained on."""
        own = Path(self.recipe.config.data)
        if own.exists() and own.samefile(dataset.folder):
            return dataset
        try:
            given = Dataset(own)
            self.recipe.check(given.schema)
            if not given.schema.has_dictionaries:
                raise ValueError(f"{own} has no dictionaries either")  # noqa: TRY301
            check_encoder(given)
        except ValueError as error:
            raise ValueError(
                f"{self.folder} has no dictionaries, so the ids of {dataset.folder} cannot be told to be its own: "
                f"evaluate it beside the data it was trained on ({one_line(str(error), 200)})"
            ) from error
        with TemporaryDirectory(prefix="tablefold-") as work:
            save_encoder(given, Path(work) / ENCODER)
            return join(dataset, EncoderFolder.read(Path(work) / ENCODER, self.recipe.dense, self.recipe.tables))

    def trainer(self, device: str = "auto") -> Trainer:
        """What evaluates the model and predicts with it, in the precision it was trained in if the device has it."""
        precision = nearest_precision(self.recipe.config.precision, choose_device(device))
        return Trainer(self.model, device=device, precision=precision)


def train_once(
    config: Config,
    out: str | Path,
    listeners: Sequence[Listener] = (),
    *,
    checkpoint_every: int | None = None,
    dataset: Dataset | None = None,
    plan: Plan | None = None,
    start: Start | None = None,
    keep_optimizer: bool = False,
) -> dict[str, Any]:
    """Train one model as `config` says and leave the folder `out`; gives what `result.json` holds.

    Where `out`.checkpoints holds checkpoints of the same training it goes on from the newest, and ends with the same
    weights and figures as if it had never stopped. Started by torch's launcher in several processes, these train
    together; the first of them writes and reports.

    Args:
        config: what to train.
        out: the new folder.
        listeners: told how it goes.
        checkpoint_every: steps between checkpoints; None writes none.
        dataset: a view of `config.data`: its ids in another order, which the run keeps as its own, or fewer rows.
        plan: what every table gets; as `config` asks unless given.
        start: the weights to begin with; None draws them.
        keep_optimizer: leave what the optimiser remembers in the run, too.

    Raises:
        ValueError: for a config that does not fit the data, a taken `out`, one that another process is writing, or a
            training that diverges.
        OSError: when `out` cannot be written.
    """
    out = Path(out)
    world = World.join(choose_device(config.device))
    dataset = dataset or Dataset(config.data)
    recipe = Recipe.of(config, dataset.schema, plan, None if start is None else start.origin)
    training = _Training(out, dataset, recipe, start, keep_optimizer)
    if not world.leads:  # the first process writes
        return training.run(listeners, world, None)
    with locked(out):
        check_writable(out)
        return training.run(listeners, world, checkpoint_every)


@dataclass(frozen=True, eq=False)
class _Training:
    """What `train_once` trains, and where it leaves it."""

    out: Path
    dataset: Dataset
    recipe: Recipe
    start: Start | None
    keep_optimizer: bool

    def run(self, listeners: Sequence[Listener], world: World, checkpoint_every: int | None) -> dict[str, Any]:
        """What this process does once it may write."""
        began = time.perf_counter()
        dataset, recipe, config = self.dataset, self.recipe, self.recipe.config
        _check_order(dataset, recipe)
        check_encoder(dataset)
        train, journal = dataset.part("train"), Journal()
        checkpoints = Checkpoints(self.out, _identity(recipe, dataset), checkpoint_every)
        trainer = self.trainer(world, [journal, checkpoints, *listeners])
        checkpoints.attach(trainer, journal)
        if self.start is not None and self.start.final:
            trainer.look(dataset.part("validation"))
        else:
            trainer.fit(train, config.schedule(), dataset.part("validation"))
        checkpoints.save()  # the test part may be large, and its evaluation be interrupted too
        result = {
            **_figures(trainer.evaluate(dataset.part("test")), dataset.schema),
            **_sizes(recipe, trainer),
            **_effort(config, trainer, train.rows),
            "total_seconds": time.perf_counter() - began,
            "peak_rss_bytes": peak_rss_bytes(),
            "machine": describe_machine(trainer.device),
        }
        if recipe.origin is not None:
            result["from"] = recipe.origin.run
        if world.leads:
            result = self.write(trainer, journal, result)
            checkpoints.remove()
        world.leave()
        return result

    def trainer(self, world: World, listeners: Sequence[Listener]) -> Trainer:
        """What trains the recipe's model; of several processes the first alone tells the listeners."""
        config, model = self.recipe.config, self.recipe.build()
        if self.start is not None:
            model.load_state_dict({**model.state_dict(), **self.start.weights})
        trainer = Trainer(
            model,
            config.optimizer,
            config.lr,
            device=config.device,
            precision=config.precision,
            compile=config.compile,
            listeners=listeners if world.leads else (),
            world=world,
            negatives_kept=self.dataset.schema.negatives_kept,
        )
        if self.start is not None:
            place_state(trainer.optimizer, self.start.optimizer)
        return trainer

    def write(self, trainer: Trainer, journal: Journal, result: dict[str, Any]) -> dict[str, Any]:
        """Leave the folder of a finished run; gives its result, now that the bytes of its files are known."""
        recipe, note = self.recipe, {"tablefold": f"{self.recipe.config.model} {self.recipe.plan.method}"}
        with new_folder(self.out) as folder:
            write_json(folder / CONFIG, recipe.to_json())
            journal.write(folder / JOURNAL)
            if self.keep_optimizer and trainer.progress.step:  # it remembers nothing where nothing was trained
                save_state(folder / OPTIMIZER, trainer.optimizer)
            trainer.finish()  # dictionaries are written next, and take memory
            save_tensors(folder / WEIGHTS, trainer.model.state_dict(), note)
            save_encoder(self.dataset, folder / ENCODER)
            files = [folder / CONFIG, folder / WEIGHTS, *files_to_score(folder / ENCODER)]
            result = {**result, "artefact_bytes": sum(file.stat().st_size for file in files)}
            write_json(folder / RESULT, result)
        return result


def _check_order(dataset: Dataset, recipe: Recipe) -> None:
    """Refuse a method that says something of single ids, where ids are read in another order."""
    if dataset.digest is not None and any(part.method.names_ids for part in recipe.plan.parts):
        raise ValueError(
            f"{recipe.config.method} says something of ids as {recipe.config.data} numbers them, and they would be "
            "read in another order: take them as they are prepared"
        )


def _identity(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What a training is, wherever it runs: a checkpoint goes on with this and nothing else."""
    content = recipe.to_json()
    del content["asked"]["device"]
    for part in content["plan"]["parts"]:
        del part["why"]  # words for people
    content["train_rows"] = dataset.part("train").rows
    if dataset.digest is not None:
        content["numbering"] = dataset.digest
    return content


def check_writable(out: Path) -> None:
    """Find out before training, not after, that the run cannot be written; `ValueError` for a taken `out`."""
    check_free(out)
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent):
        pass


def load_run(folder: str | Path, *, mapped: bool = False) -> Run:
    """Read a finished run; its model is on the CPU.

    Args:
        folder: what training left.
        mapped: leave the weights in their file, mapped into memory: processes that do so share one copy. The file must
            then stay as it is; it may be renamed and removed.

    Raises:
        ValueError: when the folder holds no finished run, is damaged, or its weights were saved under other
            addresses than this version computes.
    """
    folder = Path(folder)
    if not (folder / RESULT).is_file():
        raise ValueError(f"{folder} holds no finished run (no {RESULT}); see `tablefold train`")
    recipe = Recipe.from_json(load_json(folder / CONFIG))
    try:
        blank = recipe.blank()  # so that no memory is taken for sizes that the weights do not have
        blank.group.freeze()
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:  # torch's own, for sizes beyond its integers
        raise ValueError(f"{folder / CONFIG}: {_in_one_line(error)}") from error
    expected = blank.state_dict()
    state = read_tensors(folder / WEIGHTS, sum(tensor.nbytes for tensor in expected.values()))
    try:
        blank.group.adopt(state, GROUP)
        check_tensors(state, expected)
        model = recipe.frame()
        model.load_state_dict(state if mapped else {name: _at_hand(each) for name, each in state.items()}, assign=True)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {CONFIG}: {_in_one_line(error)}") from error
    return Run(folder, recipe, model)


def read_result(folder: Path) -> dict[str, Any]:
    """What the training of a folder gave; figures that are undefined, as the AUC of one label, are NaN."""
    plain: dict[str, Any] = load_json(folder / RESULT).plain
    return {name: math.nan if value is None and name in _UNDEFINED else value for name, value in plain.items()}


def _at_hand(tensor: Tensor) -> Tensor:
    """A tensor of a file in memory of its own, so that the file may change and large arrays lie in large pages."""
    return in_large_pages(tensor, tensor.device).copy_(tensor)


def _in_one_line(error: Exception) -> str:
    return one_line(" ".join(str(error).split()), 400)


def _figures(test: Metrics, schema: Schema) -> dict[str, Any]:
    figures: dict[str, Any] = test.as_dict()
    best = (schema.best or {}).get("test")
    if best:
        figures["best_logloss"] = best["logloss"]
        figures["excess_logloss"] = test.logloss - best["logloss"]
    return figures


def _sizes(recipe: Recipe, trainer: Trainer) -> dict[str, Any]:
    model, full = trainer.model, recipe.plan.full_bytes
    embedding_bytes = model.group.num_bytes
    with_pointers = embedding_bytes + recipe.plan.pointer_bytes
    figures = Bytes(embedding_bytes, with_pointers, training_bytes(model.group, trainer.optimizer))
    return {
        "method": str(recipe.plan.method),
        "threshold": recipe.config.threshold,
        "storage": recipe.plan.format.name,
        "model": recipe.config.model,
        **figures.to_json(),
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
        "processes": trainer.world.size,
        "iterations": progress.step,
        "epochs": progress.examples / train_rows,
        "precision": config.precision,
        "target": config.until,
        "target_reached": progress.target_reached if config.until else None,
        "best_step": progress.best_step,
        "seconds": progress.seconds,
        "samples_per_second": progress.samples_per_second if progress.step else None,
    }
