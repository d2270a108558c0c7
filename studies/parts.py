"""What each part of `graded` and `clusters` gives: each is left out in turn, at equal bytes and equal steps.

    python studies/parts.py DATA --work FOLDER --results studies/results/parts.jsonl
    python studies/parts.py DATA --work FOLDER --results studies/results/parts.jsonl --later
    python studies/parts.py DATA --work FOLDER --results studies/results/parts.jsonl --crossed

DATA is a prepared folder, of interactions (learned by NeuMF) or of clicks (by DLRM). A line is one training, of half
the epochs of `studies/rivals/run.py`; clusters are learned from one first training, full tables in int2. Lines say AUC,
log loss and calibration, and all three by band: test rows by how often training shows the last table's id (the item),
in thirds of the test rows, the most frequent first. `--later` learns numberings from the first half of a log, and
trains on the second; `--crossed` trains on all rows, or on those that the numbering was not learned from. Lines that
are there already are skipped.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from fold_trained import Experiment
from numpy.typing import NDArray
from torch import Tensor

from tablefold import make_plan
from tablefold.data.dataset import Dataset, Part
from tablefold.data.numbering import Numbering
from tablefold.data.shards import Examples
from tablefold.formats import FP32, INT2, INT4, INT8, Format
from tablefold.method import Method
from tablefold.methods import assignment, clusters
from tablefold.methods.clusters import Clusters
from tablefold.methods.graded import Graded
from tablefold.tables import full_bytes
from tablefold.train import design as designs
from tablefold.train import load_run
from tablefold.train.config import Config
from tablefold.train.design import Design, design_of, learned_design
from tablefold.train.metrics import Meter
from tablefold.train.run import Run, train_once

DIM = 16
NEUMF = {"model": "neumf", "model_options": {"top_mlp": [64, 32]}, "batch_size": 8192, "epochs": 3}
DLRM = {"model": "dlrm", "model_options": {"bottom_mlp": [64, 16], "top_mlp": [128, 64]}, "batch_size": 1024}
BANDS = 3


class Study:
    """The trainings of one data set.

    Args:
        data: a prepared folder.
        work: for the runs.
        compression: to reach.
        seed: of all trainings.
    """

    def __init__(self, data: Path, work: Path, compression: float, seed: int) -> None:
        self.dataset, self.work = Dataset(data), work / "parts" / f"{data.name}-{compression:g}-{seed}"
        self.tables = self.dataset.schema.table_specs(DIM)
        base = DLRM if self.dataset.schema.dense else NEUMF
        shared = {"lr": 2e-3, "lr_decay": "linear", "patience": 99, "seed": seed, "dim": DIM}
        self.config = Config(data=str(data), compression=compression, **shared, **base)
        self.budget = int(full_bytes(self.tables) / compression)

    @cached_property
    def first(self) -> Run:
        """Full tables in int2, which clusters are learned from."""
        return self.trained("first", lambda: Design(make_plan("full", self.tables, storage="int2"), self.dataset))

    def trained(self, name: str, design: Callable[[], Design]) -> Run:
        """The run of a design, trained unless it stands."""
        out = self.work / name.replace(" ", "-").replace(",", "")
        if not (out / "result.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            made = design()
            train_once(self.config, out, dataset=made.dataset, plan=made.plan)
        return load_run(out)

    def graded(self, storage: str = "int2", **options: Any) -> Design:
        """Graded codes by the counts of training."""
        return design_of(replace(self.config, storage=storage), Graded(**options), self.dataset)

    def one_width(self, width: int, codes: bool) -> Design:
        """Codes of one width: for all ids that the budget has room for, the most frequent ones; `codes` gives each id
        some, as wide as fits."""
        order = Numbering.of_keys([-self.dataset.counts(table.name) for table in self.tables], self.dataset.schema)
        fitting = None
        for share in np.linspace(0.005, 1, 200):
            stops = tuple(int(share * table.vocabulary) for table in self.tables)
            wide = [Graded(widths=(width,)) if codes else Graded(stops=(stop,), widths=(width, 0)) for stop in stops]
            parts = [make_plan(each, [table], storage="int2") for each, table in zip(wide, self.tables, strict=True)]
            plan = designs.Plan(tuple(self.tables), tuple(part for each in parts for part in each.parts))
            if plan.num_bytes > self.budget:
                break
            fitting = plan
        assert fitting is not None
        return Design(fitting, self.dataset.numbered(order))

    def clusters(self, rows: Format = INT4, codes: Format = INT2, **options: Any) -> Design:
        """Clusters of the first training's tables."""
        with ExitStack() as patches:
            for module in (assignment, clusters):
                patches.enter_context(mock.patch.object(module, "INT4", rows))
                patches.enter_context(mock.patch.object(module, "INT2", codes))
            return learned_design(self.config, Clusters(**options), self.dataset, self.first.model)

    def plain_metric(self) -> Design:
        """Clusters by plain distance."""
        plain: Callable[..., list[Tensor]] = lambda *_: [torch.eye(DIM)] * len(self.tables)  # noqa: E731
        with mock.patch.object(designs, "loss_metrics", plain):
            return self.clusters()

    def shuffled(self, design: Design) -> Design:
        """The same plan, over ids in an order that says nothing."""
        return Design(design.plan, self.dataset.numbered(Numbering.permuted(self.dataset.schema, self.config.seed)))

    def folded(self) -> dict[str, Any]:
        """The first training's tables folded to the same bytes, renumbered, in the loss's metric; nothing retrained."""
        found = Experiment(self.dataset.folder, self.first.folder, "test").folded(
            float(self.config.compression or 1), True, "renumber"
        )
        return {
            "auc": found.get("auc"),
            "logloss": found.get("log_loss"),
            "embedding_bytes": found.get("bytes"),
            **found,
        }

    def line(self, run: Run) -> dict[str, Any]:
        """Figures of a run."""
        result = json.loads((run.folder / "result.json").read_text())
        kept = (
            "auc",
            "logloss",
            "calibration",
            "calibration_error",
            "embedding_bytes",
            "embedding_bytes_with_pointers",
        )
        return {**{key: result[key] for key in kept}, "method": result["method"], **self.bands(run)}

    def bands(self, run: Run) -> dict[str, Any]:
        """AUC by how often training shows the last table's id, in thirds of the test rows."""
        logits: list[Tensor] = []
        labels: list[Tensor] = []
        trainer = run.trainer("cpu")
        trainer.predict(
            run.dataset().part("test").batches(8192), lambda found, label: (logits.append(found), labels.append(label))
        )
        scores, label = torch.cat(logits), torch.cat(labels)
        items = torch.cat([batch.ids[:, len(self.tables) - 1] for batch in self.dataset.part("test").batches(8192)])
        counts = self.dataset.counts(self.tables[-1].name)[items.numpy()]
        order = np.argsort(-counts, kind="stable")
        found = {}
        for name, rows in zip(("head", "torso", "tail"), np.array_split(order, BANDS), strict=True):
            meter = Meter()
            own = torch.from_numpy(rows)
            meter.update(scores[own], label[own])
            figures = meter.compute()
            found |= {f"auc_{name}": round(figures.auc, 5), f"logloss_{name}": round(figures.logloss, 5)}
            found |= {f"calibration_{name}": round(figures.calibration, 4)}
        return found


def parts(study: Study) -> dict[str, Callable[[], Design]]:
    """What is trained, by what is left out."""
    return {
        "graded": study.graded,
        "graded, codes in int4": lambda: study.graded("int4"),
        "graded, codes in fp32": lambda: study.graded("fp32"),
        "graded, one width, all ids": lambda: study.one_width(3, codes=True),
        "graded, one width, frequent ids": lambda: study.one_width(DIM, codes=False),
        "graded, one block of a zone": lambda: study.graded(growth=1e6),
        "graded, random numbering": lambda: study.shuffled(study.graded()),
        "clusters": study.clusters,
        "clusters, rows alone": lambda: study.clusters(share=1.0),
        "clusters, codes in int4": lambda: study.clusters(codes=INT4),
        "clusters, all in fp32": lambda: study.clusters(rows=FP32, codes=FP32),
        "clusters, rows in int8": lambda: study.clusters(rows=INT8),
        "clusters, plain distance": study.plain_metric,
        "clusters, no gate": lambda: study.clusters(least=0),
        "clusters, random numbering": lambda: study.shuffled(study.clusters()),
    }


class Stretch(Part):
    """Some consecutive rows of a part."""

    def __init__(self, whole: Part, first: int, stop: int) -> None:
        self.__dict__.update(copy.copy(whole).__dict__)
        self.whole, self.begin, self.rows = whole, first, stop - first

    def examples(self, start: int, stop: int) -> list[Examples]:
        """Rows of the stretch, counted from its first."""
        return self.whole.examples(self.begin + start, self.begin + min(stop, self.rows))


def stretch(dataset: Dataset, first: float, stop: float) -> Dataset:
    """A dataset whose training part is a stretch of its own, by shares; counts are those of these rows."""

    class View(type(dataset)):  # type: ignore[misc]
        def part(self, name: str) -> Part:
            whole = super().part(name)
            if name != "train" or isinstance(whole, Stretch):
                return whole
            return Stretch(whole, int(first * whole.rows), int(stop * whole.rows))

        def counts(self, table: str) -> NDArray[np.int64]:
            number = [each.name for each in self.schema.tables].index(table)
            found = np.zeros(self.schema.tables[number].rows or 0, dtype=np.int64)
            for batch in self.part("train").batches(1 << 16):
                found += np.bincount(batch.ids[:, number].numpy(), minlength=len(found))
            return found

    view = copy.copy(dataset)
    view.__class__ = View
    view._parts = {}
    return view


def later(study: Study) -> dict[str, Callable[[], Run]]:
    """Trainings on the second half of a log, by where their numbering was learned."""
    first, second = stretch(study.dataset, 0, 0.5), stretch(study.dataset, 0.5, 1)
    whole = make_plan("full", study.tables, storage="int2")
    halves = {name: Design(whole, view) for name, view in (("first", first), ("second", second))}

    def learned(half: str, method: Method) -> Design:
        run = study.trained(f"later {half} full", lambda: halves[half])
        made = learned_design(study.config, method, halves[half].dataset, run.model)
        assert made.dataset.numbering is not None
        return Design(made.plan, second.numbered(made.dataset.numbering))

    lines: dict[str, Callable[[], Run]] = {
        "later second full": lambda: study.trained("later second full", lambda: halves["second"])
    }
    for half in ("first", "second"):
        for least in (5, 0):
            name = f"later clusters of the {half} half, least {least}"
            lines[name] = lambda half=half, least=least, name=name: study.trained(
                name, lambda: learned(half, Clusters(least=least))
            )
    return lines


def crossed(study: Study) -> dict[str, Callable[[], Run]]:
    """Trainings by the rows that a numbering is learned from, and those that are then trained on."""
    rows = {"all": study.dataset, "half": stretch(study.dataset, 0, 0.5), "other half": stretch(study.dataset, 0.5, 1)}
    whole = make_plan("full", study.tables, storage="int2")

    def learned(learned_from: str, trained_on: str, least: int) -> Design:
        run = study.trained(f"crossed {learned_from} full", lambda: Design(whole, rows[learned_from]))
        made = learned_design(study.config, Clusters(least=least), rows[learned_from], run.model)
        assert made.dataset.numbering is not None
        return Design(made.plan, rows[trained_on].numbered(made.dataset.numbering))

    lines: dict[str, Callable[[], Run]] = {}
    for learned_from, trained_on in (("all", "all"), ("half", "all"), ("half", "other half")):
        for least in (0, 5, 20):
            name = f"crossed, learned from {learned_from}, trained on {trained_on}, least {least}"
            lines[name] = lambda f=learned_from, on=trained_on, n=least, name=name: study.trained(
                name, lambda: learned(f, on, n)
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--compression", type=float, default=64.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--later", action="store_true", help="numberings of the first half of a log, on its second")
    parser.add_argument("--crossed", action="store_true", help="numberings of one half, on all rows or the other")
    parser.add_argument("--only", help="lines whose name begins so")
    options = parser.parse_args()
    study = Study(options.data, options.work, options.compression, options.seed)
    if options.later or options.crossed:
        runs = later(study) if options.later else crossed(study)
        wanted: dict[str, Callable[[], Any]] = {name: lambda run=run: study.line(run()) for name, run in runs.items()}
    else:
        wanted = {
            "full in int2, first training": lambda: study.line(study.first),
            **{name: lambda n=name, d=made: study.line(study.trained(n, d)) for name, made in parts(study).items()},
            "clusters, no second training": study.folded,
        }
    for name, make in wanted.items():
        asked = [options.data.name, options.compression, options.seed, name]
        lines = options.results.read_text().splitlines() if options.results.exists() else []
        if not name.startswith(options.only or "") or any(json.loads(line)["asked"] == asked for line in lines):
            continue
        line = {"asked": asked, **make()}
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(*asked, line.get("auc"), line.get("logloss"), flush=True)


if __name__ == "__main__":
    main()
