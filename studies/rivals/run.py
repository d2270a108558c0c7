"""Methods of others beside ours: the same data, network, schedule and total steps; each appends a JSON line.

    python studies/rivals/run.py cce,mpe DATA --compression 64,256 --lr 1e-3,2e-3,5e-3 --seed 0 \
        --work FOLDER --results studies/results/rivals.jsonl

DATA is a prepared folder. Rivals of this folder: cce, cafe, mpe, tensor_train, pq (with `--storage int4` the vectors of
cce, cafe and tensor_train are kept in few bits with masters, as ours are). Plain trainings of ours: full, dim (fewer
floats, in int2), top (the most frequent ids in int2, one row for all others), graded, clusters, any method; fold and
tuned fold trained tables, pointers counted, renumbered without any. Data without dense columns is learned by NeuMF,
other data by DLRM; AMSGrad with a linear decay; weights are the best epoch's by validation log loss. What trains twice
gets half of the epochs for each training (mpe, clusters, tuned). Lines that are there already are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from cafe import Cafe
from cce import Cce
from mpe import Mpe
from product_quantisation import ProductQuantisation, num_bytes, shapes
from rival import Follower, Rival, Task, largest, seat
from tensor_train import TensorTrain
from torch import nn

from tablefold import fold, make_plan, parse
from tablefold.data.dataset import Dataset
from tablefold.formats import INT2, find_format
from tablefold.hashing import derive_key
from tablefold.models import Network, build_model
from tablefold.tables import TableSpec, full_bytes
from tablefold.train import load_run
from tablefold.train.config import Config
from tablefold.train.loop import Trainer
from tablefold.train.machine import describe_machine
from tablefold.train.training import train_run

sys.path.append(str(Path(__file__).parents[1]))
from fold_trained import Tables, _loss

RIVALS: dict[str, Callable[[Task], Rival]] = {
    "cce": Cce.fit,
    "cafe": Cafe.fit,
    "mpe": Mpe.fit,
    "tensor_train": TensorTrain.fit,
}
PLAIN = ("full", "dim", "top", "graded", "clusters", "hash", "qr:combine=mul")
NEUMF = {"model": "neumf", "model_options": {"top_mlp": [64, 32]}, "batch_size": 8192, "epochs": 6}
DLRM = {"model": "dlrm", "model_options": {"bottom_mlp": [64, 16], "top_mlp": [128, 64]}, "batch_size": 1024}
DIM = 16
PATIENCE = 99  # no training ends early; the best weights are kept


class Contest:
    """One data set, one seed, one rate.

    Args:
        data: a prepared folder.
        asked: what the line is about.
        work: for runs that others begin from.
    """

    def __init__(self, data: Path, asked: dict[str, Any], work: Path) -> None:
        self.asked, self.work, self.dataset = asked, work, Dataset(data)
        schema = self.dataset.schema
        self.tables = tuple(schema.table_specs(DIM))
        self.config = Config(
            data=str(data),
            lr=asked["lr"],
            lr_decay="linear",
            seed=asked["seed"],
            patience=PATIENCE,
            dim=DIM,
            **(DLRM if schema.dense else NEUMF),
        )
        self.budget = int(full_bytes(self.tables) / asked["compression"])

    def line(self) -> dict[str, Any]:
        """What comes of it."""
        name = self.asked["rival"]
        if name in RIVALS:
            return self._rival(name)
        others = {"pq": self._quantised, "fold": self._folded, "tuned": lambda: self._folded(tuned=True)}
        others["renumbered"] = lambda: self._folded(ids="renumber")
        return others[name]() if name in others else self._plain(name)

    def task(self) -> Task:
        """For rivals."""
        counts = tuple(self.dataset.counts(table.name) for table in self.tables)
        return Task(self.tables, self.budget, find_format(self.asked["storage"]), counts, self.asked["seed"])

    def model(self, group: nn.Module) -> Network:
        """The network over a rival."""
        config, schema = self.config, self.dataset.schema
        stand_in = parse("full").build(list(self.tables), device="meta")
        seed = derive_key(config.seed, 1 << 32)  # as in a run of ours
        model = build_model(config.model, stand_in, len(schema.dense), seed=seed, **config.model_options)
        return seat(model, group)

    def _rival(self, name: str) -> dict[str, Any]:
        torch.manual_seed(self.config.seed)
        trainings: list[Rival] = [RIVALS[name](self.task())]
        epochs = self.config.epochs // 2 if name == "mpe" else self.config.epochs
        steps, began = 0, time.perf_counter()
        while True:
            trainer = self.trained(trainings[-1], max(1, epochs))
            steps += trainer.progress.step
            following = trainings[-1].second()
            if following is None:
                break
            trainings.append(following)
        seconds, rival = time.perf_counter() - began, trainings[-1]
        figures = self.figures(trainer, steps, seconds, rival.num_bytes, rival.pointer_bytes)
        return {**figures, "validation_logloss": trainer.progress.best_logloss}

    def trained(self, rival: Rival, epochs: int) -> Trainer:
        """A model over a rival, after so many epochs."""
        trainer = Trainer(self.model(rival), self.config.optimizer, self.config.lr, device="cpu")
        trainer.listeners = (Follower(rival, trainer.optimizer, epochs),)
        patience = None if rival.searches else PATIENCE
        schedule = replace(self.config.schedule(), epochs=epochs, patience=patience)
        trainer.fit(self.dataset.part("train"), schedule, self.dataset.part("validation"))
        return trainer

    def figures(
        self, trainer: Trainer, steps: int, seconds: float, size: int, pointer_bytes: int = 0
    ) -> dict[str, Any]:
        """What is told of a trained model."""
        return {
            **asdict(trainer.evaluate(self.dataset.part("test"))),
            "embedding_bytes": size,
            "embedding_bytes_with_pointers": size + pointer_bytes,
            "steps": steps,
            "seconds": round(seconds, 1),
            "machine": describe_machine(torch.device("cpu")),
        }

    def _quantised(self) -> dict[str, Any]:
        """Full tables, then codes; the shape that validation chooses."""
        folder = self._run("full", replace(self.config, method="full", storage="fp32", threshold=0))
        result, task, tried = json.loads((folder / "result.json").read_text()), self.task(), []
        began = time.perf_counter()
        for parts, bits in shapes(task):
            run = load_run(folder)
            values = [run.model.group.unfold(table.name).float() for table in self.tables]
            trainer = Trainer(seat(run.model, ProductQuantisation(task, values, parts, bits)), device="cpu")
            tried.append((trainer.evaluate(self.dataset.part("validation")).logloss, (parts, bits), trainer))
        if not tried:
            raise ValueError("no codes fit the budget")
        loss, shape, trainer = min(tried, key=lambda each: each[0])
        seconds = result["seconds"] + time.perf_counter() - began
        figures = self.figures(trainer, result["iterations"], seconds, num_bytes(task, *shape))
        return {**figures, "validation_logloss": loss, "shape": shape}

    def _folded(self, tuned: bool = False, ids: Literal["stored", "renumber"] = "stored") -> dict[str, Any]:
        """Full tables, then `tablefold.fold` with pointers, in the loss's metric; tuned for half of all steps?"""
        epochs = self.config.epochs // 2 if tuned else self.config.epochs
        folder = self._run("full", replace(self.config, method="full", storage="fp32", threshold=0, epochs=epochs))
        result, began = json.loads((folder / "result.json").read_text()), time.perf_counter()
        model, task, train = load_run(folder).model, self.task(), self.dataset.part("train")
        group = Tables([model.group.unfold(table.name).float() for table in self.tables])
        group.sparse = False
        rows = [
            train.batches(self.config.batch_size, seed=self.config.seed + 1, epoch=epoch) for epoch in range(epochs)
        ]
        report = fold(
            seat(model, group),
            compression=self.asked["compression"],
            counts={f"group.tables.{n}": 1.0 + each for n, each in enumerate(task.counts)},
            data=itertools.chain.from_iterable(rows),
            loss=_loss,
            tune=result["iterations"] if tuned else 0,
            ids=ids,
            judge=list(self.dataset.part("validation").batches(1 << 16)),
        )
        group.numbers = [torch.from_numpy(each) for _, each in sorted(report.numbering.items())]  # in tables' order
        steps = result["iterations"] * (2 if tuned else 1)
        seconds = result["seconds"] + time.perf_counter() - began
        figures = self.figures(
            Trainer(model, device="cpu"), steps, seconds, report.num_bytes, report.plan.pointer_bytes
        )
        return {**figures, "tables": [f"{table.representation} in {table.format}" for table in report.tables]}

    def _plain(self, name: str) -> dict[str, Any]:
        config = self.request(name)
        folder = self._run(name.replace(":", "-"), config)
        result = json.loads((folder / "result.json").read_text())
        journal = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        looks = [line["logloss"] for line in journal if line["part"] == "validation"]
        kept = ("auc", "logloss", "normalized_entropy", "calibration", "calibration_error", "method")
        bytes_too = ("embedding_bytes", "embedding_bytes_with_pointers", "seconds", "machine")
        twice = 2 if name == "clusters" else 1
        return {
            **{key: result[key] for key in (*kept, *bytes_too)},
            "seconds": round(result.get("total_seconds", result["seconds"]), 1),
            "steps": twice * result["iterations"],
            "validation_logloss": min(looks),
        }

    def request(self, name: str) -> Config:
        """One of ours as a training asks for it."""
        ask = self.config
        if name == "full":
            return replace(ask, method="full", storage="fp32", threshold=0)
        if name == "dim":
            floats = sum(table.vocabulary for table in self.tables) * DIM
            dim = max(1, round(DIM * self.budget / INT2.num_bytes(floats)))
            return replace(ask, method="full", dim=dim, storage="int2", threshold=0)
        if name == "top":
            return replace(ask, method=self._top(), storage="int2", threshold=0)
        if name == "clusters":
            ask = replace(ask, epochs=max(1, ask.epochs // 2))
        return replace(ask, method=name, compression=self.asked["compression"])

    def _top(self) -> str:
        tables = [TableSpec(table.name, table.vocabulary, DIM) for table in self.tables]
        spec = "hot:rows={},over=hash:max_rows=1"

        def fits(rows: int) -> bool:
            return make_plan(spec.format(rows), tables, storage="int2", threshold=0).num_bytes <= self.budget

        return spec.format(largest(fits, max(table.vocabulary for table in tables) - 1))

    def _run(self, name: str, config: Config) -> Path:
        """The folder of a run, trained unless it stands."""
        size = "" if name == "full" else f"-{self.asked['compression']:g}"
        data = Path(config.data).name
        out = self.work / "runs" / f"{data}-{name}{size}-{config.lr:g}-{config.seed}-{config.epochs}"
        if not (out / "result.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            train_run(config, out)
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [float(each) for each in text.split(",")]  # noqa: E731
    parser.add_argument(
        "rivals",
        type=lambda text: text.split(","),
        help=f"of {', '.join((*RIVALS, 'pq', 'fold', 'tuned', 'renumbered', *PLAIN))}",
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--compression", type=numbers, default=[64.0])
    parser.add_argument("--lr", type=numbers, default=[2e-3])
    parser.add_argument("--seed", type=int, default=0, help="of a training; that of the data is in its name")
    parser.add_argument("--storage", default="fp32")
    parser.add_argument("--work", type=Path, default=Path("rivals-work"))
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for compression, lr, rival in itertools.product(options.compression, options.lr, options.rivals):
        asked = {"rival": rival, "data": options.data.name, "compression": compression, "seed": options.seed}
        asked |= {"lr": lr, "storage": options.storage}
        lines = options.results.read_text().splitlines() if options.results.exists() else []
        if any(json.loads(line)["asked"] == asked for line in lines):
            continue
        try:
            line = {"asked": asked, **Contest(options.data, asked, options.work).line()}
        except ValueError as error:
            line = {"asked": asked, "error": str(error)}
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        told = [line.get(key) for key in ("auc", "logloss", "embedding_bytes", "seconds", "error")]
        print(rival, compression, lr, options.seed, options.storage, *told, flush=True)


if __name__ == "__main__":
    main()
