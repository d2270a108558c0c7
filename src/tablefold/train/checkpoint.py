"""Checkpoints: all that a training needs to go on, to the bit, after it was killed.

Beside the run's folder RUN, the folder RUN.checkpoints holds the newest few, one safetensors file each:

    step-00000300-0f3c...9a.safetensors     step, checksum of the file's content

The checksum is part of the name and a file appears by renaming, whole or not at all: a name that fits its content is
a good checkpoint. The order of the rows is a function of (seed, epoch), so a position in it is two numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tablefold.json_files import JsonValue, parse_json, strict
from tablefold.quoting import one_line
from tablefold.train.journal import Journal
from tablefold.train.loop import Trainer
from tablefold.train.optimizer import remembered
from tablefold.train.progress import Listener, Progress
from tablefold.train.tensors import check_tensors, save_tensors

MODEL, BEST, OPTIMIZER = "model.", "best.", "optimizer."
KEPT = 2
"""Checkpoints on disk: the newest, and one to fall back to."""

_WRITING = "writing-"


class Checkpoints(Listener):
    """Writes checkpoints of a training as it goes, and restores the newest good one.

    Args:
        run: the run's folder-to-be; checkpoints go to the folder `run` + ".checkpoints".
        identity: what the training is, as JSON; a checkpoint of another training is refused.
        every: steps between checkpoints; None writes none.
    """

    def __init__(self, run: Path, identity: dict[str, Any], every: int | None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"checkpoint_every={every} must be at least 1")
        self.folder = run.with_name(f"{run.name}.checkpoints")
        self._identity = json.loads(json.dumps(identity))
        self._every = every
        self._trainer: Trainer | None = None
        self._journal = Journal()

    def attach(self, trainer: Trainer, journal: Journal) -> None:
        """Watch `trainer`; bring it and its journal to where the newest good checkpoint is, if there is one.

        Raises:
            ValueError: when the checkpoints are of another training.
        """
        self._trainer, self._journal = trainer, journal
        for left in self.folder.glob(f"{_WRITING}*"):  # by a process that was killed: of two, the lock refuses one
            left.unlink()
        for path in reversed(self._paths()):
            if path.stem.rpartition("-")[2] != _checksum(path):
                _tell(trainer, f"{path} is damaged; falling back to the one before it")
                continue
            self._restore(path, trainer, journal)
            _tell(trainer, f"going on at step {trainer.progress.step:,}, from {path}")
            return

    def on_rest(self, progress: Progress) -> None:
        """Write one when it is time."""
        if self._every and progress.step % self._every == 0:
            self.save()

    def save(self) -> None:
        """Write one now, if any are to be written; drop the oldest."""
        if self._every is None:
            return
        assert self._trainer is not None, "attach a trainer first"
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{_WRITING}{os.getpid()}"
        tensors, values = capture(self._trainer)
        values.update(identity=self._identity, records=self._journal.records, torch=torch.__version__)
        try:
            save_tensors(temporary, tensors, {"checkpoint": json.dumps(strict(values), allow_nan=False)})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            step = self._trainer.progress.step
            temporary.rename(self.folder / f"step-{step:012d}-{_checksum(temporary)}.safetensors")
        finally:
            temporary.unlink(missing_ok=True)
        for path in self._paths()[:-KEPT]:
            path.unlink()

    def remove(self) -> None:
        """The run is whole: its checkpoints are not needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.folder.glob("step-*.safetensors") if path.is_file())

    def _restore(self, path: Path, trainer: Trainer, journal: Journal) -> None:
        """Read all of a checkpoint and check all of it; only then change the trainer and its journal."""
        try:
            tensors, values = _read(path)
            identity, version = _plain_object(values["identity"]), values["torch"].text()
            records = [_plain_object(record) for record in values["records"].items()]
        except ValueError as error:
            raise ValueError(f"{error}; remove {self.folder} to start anew") from error
        changed = _first_difference(identity, self._identity)
        if changed:
            raise ValueError(
                f"{self.folder} holds checkpoints of another command ({changed}): "
                "repeat that command to go on, remove the folder to start anew, or name another --out"
            )
        try:
            restore(trainer, tensors, values)
        except ValueError as error:
            raise ValueError(f"{error}; remove {self.folder} to start anew") from error
        journal.records[:] = records
        if version != torch.__version__:
            _tell(trainer, f"{path} was written by torch {one_line(version, 40)}, this is {torch.__version__}")


def capture(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trainer's state as tensors and JSON: parameters, optimiser, best weights, position."""
    tensors = {MODEL + name: tensor for name, tensor in trainer.model.state_dict().items()}
    for name, tensor in (trainer.best_state or {}).items():
        tensors[BEST + name] = tensor
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{index}.{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    values = {"progress": asdict(trainer.progress), "losses": trainer.recent_losses, "optimizer": numbers}
    return tensors, values


def restore(trainer: Trainer, tensors: dict[str, Tensor], values: JsonValue) -> None:
    """Bring a trainer of the same config to the state that `capture` gave.

    Raises:
        ValueError: for values or tensors that are not those of such a trainer, which then is as it was.
    """
    progress = values["progress"].into(Progress, complete=True)
    losses = [loss.number() for loss in values["losses"].items()]
    weights, likes = trainer.model.state_dict(), remembered(trainer.optimizer)
    moved = {name.partition(".")[0] for name in _under(OPTIMIZER, tensors)} | set(values["optimizer"].fields())
    for prefix in (MODEL, BEST):
        trainer.model.group.adopt(tensors, f"{prefix}group.")
    expected = {MODEL + name: tensor for name, tensor in weights.items()}
    if progress.best_step is not None:
        expected |= {BEST + name: tensor for name, tensor in weights.items()}
    state: dict[int, dict[str, Any]] = {}
    for index, like in enumerate(likes):
        if str(index) in moved:
            held = {name: value for name, value in like.items() if isinstance(value, Tensor)}
            expected |= {f"{OPTIMIZER}{index}.{name}": value for name, value in held.items()}
            state[index] = _numbers(values["optimizer"][str(index)], like.keys() - held.keys())
    try:
        check_tensors(tensors, expected)
    except ValueError as error:
        raise ValueError(f"{values.file}: {error}") from error
    values["optimizer"].refuse_unknown(map(str, state))
    for name, tensor in _under(OPTIMIZER, tensors).items():
        number, _, key = name.partition(".")
        state[int(number)][key] = tensor
    trainer.model.load_state_dict(_under(MODEL, tensors))
    trainer.best_state = _under(BEST, tensors) or None
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    trainer.progress, trainer.recent_losses = progress, losses


def _read(path: Path) -> tuple[dict[str, Tensor], JsonValue]:
    """The tensors and the JSON of a checkpoint, unchecked.

    Raises:
        ValueError: for a file that is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = (file.metadata() or {}).get("checkpoint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no checkpoint ({one_line(str(error), 200)})") from error
    if note is None:
        raise ValueError(f"{path} is no checkpoint of this version (it has no entry 'checkpoint')")
    return tensors, parse_json(note, str(path))


def _plain_object(value: JsonValue) -> dict[str, Any]:
    value.fields()  # refuses what is no object
    plain: dict[str, Any] = value.plain
    return plain


def _numbers(given: JsonValue, names: Iterable[str]) -> dict[str, int]:
    """What an optimiser remembers of a parameter beside tensors: counts of steps."""
    if not names:
        return {}
    given.refuse_unknown(names)
    return {name: given[name].integer(least=1) for name in names}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _first_difference(there: Any, here: Any, name: str = "") -> str:
    """Where two JSON values differ first, for people; empty if nowhere."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**here, **there}:
            found = _first_difference(there.get(key), here.get(key), str(key))
            if found:
                return found
        return ""
    return "" if there == here else f"its {name} was {one_line(str(there), 100)}, here it is {one_line(str(here), 100)}"


def _tell(trainer: Trainer, text: str) -> None:
    for listener in trainer.listeners:
        listener.on_notice(text)
