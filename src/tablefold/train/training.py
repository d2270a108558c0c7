"""Training what was asked for: one model; or, for methods that are made from trained tables, several in turn.

The others are runs of their own in a folder beside the run, `OUT.trainings`: a training that was killed goes on with
what stands there, and the folder goes when the run stands. Of several candidates the one is kept whose log loss on the
validation part is the lowest; no choice sees the test part.

    first        full tables in int4 (or graded codes, where memory for training is bounded)
    folded       the tables of the first folded to the size, for requests that leave a choice; nothing is trained
    0, 1, ..     the requests, each designed from counts, or from the tables of the first, and trained anew

Where none of them can be so small, those of the next tier are trained.
To train the fold on was tried and is not done: clusters that are trained anew were better (`studies/LOG.md`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tablefold.data import Dataset
from tablefold.files import publish
from tablefold.formats import INT4
from tablefold.json_files import load_json, write_json
from tablefold.locks import locked
from tablefold.method import Method
from tablefold.methods.full import Full
from tablefold.models import Network
from tablefold.plans import make_plan
from tablefold.tables import FLOAT_BYTES, full_bytes, show_bytes
from tablefold.train.config import Config
from tablefold.train.design import Design, design_of, folded_design, learned_design
from tablefold.train.journal import read_journal
from tablefold.train.optimizer import state_floats
from tablefold.train.progress import Listener
from tablefold.train.recipe import Recipe
from tablefold.train.run import CONFIG, JOURNAL, RESULT, Start, check_writable, load_run, read_result, train_once

FIRST = INT4
"""The format of a first training: full tables lose nothing in it, on any data that we have."""

FIRST_FOLDER = "first"
"""Where it is left: nobody goes on from it, so that its optimiser is not kept."""

EFFORT = ("iterations", "epochs", "seconds", "samples_per_second")
"""Figures of a run that are those of the first training, where nothing was trained after it."""


def train_run(
    config: Config,
    out: str | Path,
    listeners: Sequence[Listener] = (),
    *,
    checkpoint_every: int | None = None,
    dataset: Dataset | None = None,
    keep_optimizer: bool = False,
) -> dict[str, Any]:
    """Train as `config` says and leave the folder `out`; gives what `result.json` holds.

    Where an earlier call was killed, what it has finished is taken over, and with checkpoints (in `out`.checkpoints) so
    is the training that it was at: the weights and figures at the end are the same. Started by torch's launcher in
    several processes, these train one model together; the first of them writes and reports.

    Args:
        config: what to train.
        out: the new folder.
        listeners: told how it goes.
        checkpoint_every: steps between checkpoints; None writes none.
        dataset: a view of `config.data`: its ids in another order, which the run keeps as its own, or fewer rows.
        keep_optimizer: leave what the optimiser remembers in the run, too: `train_from` can go on with it.

    Raises:
        ValueError: for a config that does not fit the data, a training part whose rows have one label, a taken `out`,
            one that another process is writing, or a training that diverges.
        OSError: when `out` cannot be written.
    """
    dataset = Dataset(config.data) if dataset is None else dataset
    _check_labels(dataset)
    tiers = config.tiers(dataset.schema.table_specs(config.dim))
    if len(tiers[0]) == 1 and not tiers[0][0].learns:
        design = design_of(config, tiers[0][0], dataset)
        return train_once(
            config,
            out,
            listeners,
            checkpoint_every=checkpoint_every,
            dataset=design.dataset,
            plan=design.plan,
            keep_optimizer=keep_optimizer,
        )
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(f"{config.method} trains several models in turn, in one process: start it without a launcher")
    check_writable(Path(out))
    folder = Path(f"{out}.trainings")
    folder.mkdir(exist_ok=True)
    with locked(folder):
        trainings = _Trainings(config, folder, listeners, checkpoint_every, dataset, keep_optimizer)
        return trainings.best_of(tiers, Path(out))


def _check_labels(dataset: Dataset) -> None:
    """Refuse, with `ValueError`, a training part whose rows have one label."""
    part = dataset.schema.parts["train"]
    if part.rows and part.positives in (0, part.rows):
        label = int(part.positives > 0)
        raise ValueError(
            f"all {part.rows:,} rows of the training part of {dataset.folder} have label {label}: nothing can be "
            "learned from one label, prepare rows of both"
        )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """What may become the run.

    Args:
        name: of its folder.
        what: it is, for people.
        design: made when it is its turn. One with weights is kept as it is, all others are trained.
    """

    name: str
    what: str
    design: Callable[[], Design]


class _Trainings:
    """The trainings of one config, in a folder."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        listeners: Sequence[Listener],
        checkpoint_every: int | None,
        dataset: Dataset,
        keep_optimizer: bool,
    ) -> None:
        self.config, self.folder, self.listeners, self.dataset = config, folder, listeners, dataset
        self.checkpoint_every, self.keep_optimizer = checkpoint_every, keep_optimizer

    def best_of(self, tiers: Sequence[Sequence[Method]], out: Path) -> dict[str, Any]:
        """Train all candidates of the first tier that has some; the one with the lowest log loss on the validation part
        becomes `out`."""
        began = time.perf_counter()
        if not self.dataset.part("validation").rows:
            raise ValueError(f"{self.config.method} chooses on the validation part, which has no rows: prepare one")
        refusals: list[ValueError] = []
        losses = next(filter(None, (self._losses(requests, refusals) for requests in tiers)), None)
        if losses is None:
            raise refusals[-1]  # of what can be smallest
        best = min(losses, key=losses.__getitem__)
        if len(losses) > 1:
            self._tell(f"kept {best.what}, the best on the validation part")
        tried = [self._figures(candidate, loss) for candidate, loss in losses.items()]
        chosen = self.folder / best.name
        result = read_result(chosen)
        if not result["iterations"]:  # what it took is what the first training took
            result.update(self._effort())
        result.update(tried=tried, total_seconds=time.perf_counter() - began)
        write_json(chosen / RESULT, result)
        publish(chosen, out)
        shutil.rmtree(self.folder)
        return result

    def _losses(self, requests: Sequence[Method], refusals: list[ValueError]) -> dict[_Candidate, float]:
        """Log loss on the validation part, of each candidate that can be so small; why others cannot is added to
        `refusals`."""
        possible, losses = self._possible(requests, refusals), dict[_Candidate, float]()
        if any(method.learns for method in possible):
            self._train_first()
        for candidate in self._candidates(requests, possible):
            try:
                design = candidate.design()
            except ValueError as error:  # what is learned may need some bytes more
                self._leave_out(candidate.what, error, refusals)
                continue
            self._train(candidate.name, self.config, design, candidate.what)
            losses[candidate] = self._logloss(candidate.name)
        return losses

    def _candidates(self, requests: Sequence[Method], possible: Sequence[Method]) -> list[_Candidate]:
        """The possible ones of the requests; where these leave a choice, the first training's tables as they are,
        too."""
        found = [
            _Candidate(f"{requests.index(method)}", str(method), partial(self._design, method)) for method in possible
        ]
        if len(requests) > 1 and any(method.learns for method in possible):
            return [_Candidate("folded", "the first tables folded", self._folded), *found]
        return found

    def _possible(self, requests: Sequence[Method], refusals: list[ValueError]) -> list[Method]:
        """Those that can be so small; why others cannot is added to `refusals`."""
        wishes = asdict(self.config.wishes)
        tables = self.config.model_tables(self.dataset.schema.table_specs(self.config.dim))
        possible: list[Method] = []
        for method in requests:
            try:
                _ = make_plan(method, tables, **wishes)
                possible.append(method)
            except ValueError as error:
                self._leave_out(str(method), error, refusals)
        return possible

    def _leave_out(self, what: str, error: ValueError, refusals: list[ValueError]) -> None:
        refusals.append(error)
        self._tell(f"{what} is left out: {error}")

    def _design(self, method: Method) -> Design:
        """Of a request; one that learns does so from the first training's tables."""
        if not method.learns:
            return design_of(self.config, method, self.dataset)
        return learned_design(self.config, method, self._first().dataset, self._first_model())

    def _folded(self) -> Design:
        """Of the first training's tables."""
        return folded_design(self.config, self._first().dataset, self._first_model())

    def _first_model(self) -> Network:
        return load_run(self.folder / FIRST_FOLDER).model

    def _train_first(self) -> None:
        first = self._first()
        what = "full tables" if first.plan.method == Full() else "graded codes"
        self._train(FIRST_FOLDER, self._first_config(), first, f"{what} first, to learn from")

    def _first(self) -> Design:
        """Full tables; or graded codes, the largest that memory for training has room for."""
        config, tables = self._first_config(), self.dataset.schema.table_specs(self.config.dim)
        limit, held = config.training_memory, 1 + state_floats(config.optimizer, config.dim)
        if limit is None or full_bytes(config.model_tables(tables)) * held <= limit:
            return design_of(config, Full(), self.dataset)
        floats = int(limit / (FLOAT_BYTES * held))
        bounded = replace(config, method="auto", budget=FIRST.num_bytes(floats))
        untaught = next(method for method in bounded.tiers(tables)[0] if not method.learns)
        return design_of(bounded, untaught, self.dataset)

    def _first_config(self) -> Config:
        """As asked, but for sizes: all tables in few bits."""
        unsized = replace(self.config, compression=None, budget=None, with_pointers=False)
        return replace(unsized, method="full", storage=FIRST.name, threshold=0)

    def _train(self, name: str, config: Config, design: Design, what: str) -> None:
        """One training, unless it stands already."""
        folder = self.folder / name
        if (folder / RESULT).is_file():
            asked = Recipe.of(config, design.dataset.schema, design.plan)
            if Recipe.from_json(load_json(folder / CONFIG)) != asked:
                raise ValueError(f"{self.folder} holds trainings of another kind: remove it, or ask for what it is for")
            return
        verb = "trying" if design.weights else "training"
        self._tell(f"{verb} {what}: {show_bytes(design.plan.num_bytes)}")
        train_once(
            config,
            folder,
            self.listeners,
            checkpoint_every=self.checkpoint_every,
            dataset=design.dataset,
            plan=design.plan,
            start=Start(design.weights, final=True) if design.weights else None,
            keep_optimizer=self.keep_optimizer and name != FIRST_FOLDER,
        )

    def _logloss(self, name: str) -> float:
        """Of the weights that a training kept, on the validation part."""
        best = read_result(self.folder / name)["best_step"]
        looks = [
            each.plain for each in read_journal(self.folder / name / JOURNAL) if each.plain["part"] == "validation"
        ]
        kept = [look for look in looks if best is None or look["step"] == best]
        return float(kept[-1]["logloss"])

    def _figures(self, candidate: _Candidate, validation: float) -> dict[str, Any]:
        """Of one of several trainings, for the record; the first figure alone chooses."""
        result = read_result(self.folder / candidate.name)
        kept = ("auc", "logloss", "embedding_bytes", "embedding_bytes_with_pointers", "seconds")
        return {"method": candidate.what, "validation_logloss": validation, **{each: result[each] for each in kept}}

    def _effort(self) -> dict[str, Any]:
        first = read_result(self.folder / FIRST_FOLDER)
        return {each: first[each] for each in EFFORT}

    def _tell(self, text: str) -> None:
        for listener in self.listeners:
            listener.on_notice(text)
