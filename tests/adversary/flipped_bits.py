"""Single bits flipped in shards, dictionaries, metadata, weights and checkpoints.

    python tests/adversary/flipped_bits.py --count 800 --seed 0

Promised: the file is refused in one line, or the answer is right; never a traceback, a crash, a score that is no number
or a batch whose tensors are of unequal lengths. What this version prepares bears checksums, as its checkpoints do:
there no flip passes. In weights, and in data of release 0.1, it cannot be told: how many pass unnoticed is counted by
kind of file, and no broken promise.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adversary import harness
from adversary.harness import Box, Report, Worker

EDGE = 2_000
"""Bytes at either end of a file, where formats keep what they say of themselves."""

_SIZES = ("--dim", "4", "--bottom-mlp", "4", "--top-mlp", "6", "--device", "cpu")
PREPARE = ("prepare", "table", "raw/shop.csv", "--schema", "raw/shop.toml", "--out", "data/fresh")
LEARN = ("train", "data/fresh", *_SIZES, "--method", "qr", "--out", "runs/fresh")
TRAIN = ("train", "data/shop", *_SIZES, "--method", "qr", "--epochs", "2", "--batch-size", "60", "--out", "stopped")


@dataclass(frozen=True)
class Target:
    """Files to flip bits of, and how to see whether that is noticed.

    Args:
        owner: whose code reads them.
        pattern: of the files, below the working directory.
        ask: gives what was wrong and the answer.
        checked: whether the format has a checksum: a wrong answer breaks the promise.
    """

    owner: str
    pattern: str
    ask: Callable[[Worker, Box], tuple[str, Any]]
    checked: bool = False
    share: int = 1


def torment(report: Report, count: int, seed: int) -> None:
    """Flip bits, one at a time."""
    chance = random.Random(seed)
    names = [name for name, target in TARGETS.items() for _ in range(target.share)]
    with harness.open_box(fill) as box, Worker(box) as worker:
        if made := worker.call("flipped_bits:make_checkpoints", list(TRAIN))["error"]:
            raise RuntimeError(made["trace"])
        for argv in (PREPARE, LEARN):
            if wrong := harness.misbehaviour(worker.cli(*argv), expect="done"):
                raise RuntimeError(wrong)
        right: dict[str, Any] = {}
        for number in range(count):
            name = names[number % len(names)]
            if name not in right:
                wrong, right[name] = TARGETS[name].ask(worker, box)
                if wrong:
                    raise RuntimeError(f"{name}: refused as it is: {wrong}")
            _flip_one(report, box, worker, chance, name, right[name])


def _flip_one(report: Report, box: Box, worker: Worker, chance: random.Random, name: str, right: Any) -> None:
    """One bit of one file; the file is mended afterwards."""
    target = TARGETS[name]
    path = chance.choice(sorted(box.place.glob(target.pattern)))
    kept = path.read_bytes()
    edge = min(EDGE, len(kept))
    place = chance.choice((chance.randrange(len(kept)), chance.randrange(edge), len(kept) - 1 - chance.randrange(edge)))
    bit = chance.randrange(8)
    damaged = bytearray(kept)
    damaged[place] ^= 1 << bit
    before = box.see()
    path.unlink()  # it may be a link to the dataset's
    path.write_bytes(damaged)
    wrong, answer = target.ask(worker, box)
    path.write_bytes(kept)
    report.tried += 1
    again = f"bit {bit} of byte {place} of {path.relative_to(box.place)}"
    mended = f"box/{path.relative_to(box.place)}"
    if changed := harness.changes(before, box.see(), [mended]):
        report.add(target.owner, f"{name}: left behind: {', '.join(changed[:3])}", again)
    if wrong.startswith("refused: "):
        report.notes[f"refused ({name})"] += 1
        if not harness.names_a_file(wrong):
            report.notes["refused without the name of a file"] += 1
    elif wrong:
        report.add(target.owner, f"{name}: {wrong}", again)
    elif answer == right:
        report.notes[f"harmless ({name})"] += 1
    elif target.checked:
        report.add(target.owner, f"{name}: a wrong answer", again)
    else:
        report.notes[f"unnoticed ({name})"] += 1


def _judged(result: dict[str, Any]) -> str:
    """What is wrong with a command's end; "refused: ..." if it is refused as it should be."""
    if wrong := harness.misbehaviour(result, expect="either"):
        return wrong
    return f"refused: {result['err']}" if result["code"] else ""


def evaluated(run: str, part: str = "test", data: str = "data/shop") -> Callable[[Worker, Box], tuple[str, Any]]:
    """Evaluation by the command line; of a dataset, its batches are looked at too."""

    def ask(worker: Worker, box: Box) -> tuple[str, Any]:
        result = worker.cli("evaluate", run, data, "--part", part)
        if wrong := _judged(result):
            return wrong, None
        figures = json.loads(result["out"])
        if None in figures.values():
            return f"figures that are no numbers: {result['out'].split()}", None
        return "", figures

    return ask


def batches(part: str, data: str = "data/shop") -> Callable[[Worker, Box], tuple[str, Any]]:
    """The batches of a part of the dataset, by the library; then its evaluation."""

    def ask(worker: Worker, box: Box) -> tuple[str, Any]:
        result = worker.call("flipped_bits:read_batches", data, part)
        if result.get("error") is None and "value" in result:
            if uneven := [shapes for shapes in result["value"]["lengths"] if len(set(shapes)) > 1]:
                return f"a batch of unequal lengths: {uneven[0]}", None
        elif wrong := harness.bad_exception(result):
            return wrong, None
        return evaluated("runs/qr-fp32", part, data)(worker, box)

    return ask


def every_part(worker: Worker, box: Box) -> tuple[str, Any]:
    """The batches and the evaluation of every part of the dataset that this version has prepared."""
    answers = []
    for part in ("train", "test", "validation"):
        wrong, answer = batches(part, "data/fresh")(worker, box)
        if wrong:
            return wrong, None
        answers.append(answer)
    return "", answers


def read_batches(folder: str, part: str) -> dict[str, Any]:
    """The lengths of the tensors of every batch (called in a worker)."""
    from tablefold.data import Dataset

    found = []
    for seed in (None, 3):
        for batch in Dataset(folder).part(part).batches(100, seed):
            found.append([len(tensor) for tensor in batch])
    return {"lengths": found}


def prepared(*argv: str) -> Callable[[Worker, Box], tuple[str, Any]]:
    """What is made of a raw file."""

    def ask(worker: Worker, box: Box) -> tuple[str, Any]:
        result = worker.cli("prepare", *argv, "--out", "new", "--max-rejects", "1")
        wrong = _judged(result)
        schema = box.place / "new" / "schema.json"
        answer = None if wrong else json.loads(schema.read_text(encoding="utf-8"))["parts"]
        harness.remove(box.place / "new")
        return wrong, answer

    return ask


def predicted(run: str) -> Callable[[Worker, Box], tuple[str, Any]]:
    """Scores of raw lines."""

    def ask(worker: Worker, box: Box) -> tuple[str, Any]:
        result = worker.cli("predict", run, "raw/lines.csv", "--out", "scores.parquet")
        if wrong := _judged(result):
            return wrong, None
        scores = pl.read_parquet(box.place / "scores.parquet")
        (box.place / "scores.parquet").unlink()
        return ("scores that are no numbers" if scores["score"].is_nan().any() else ""), scores["score"].to_list()

    return ask


def resumed(worker: Worker, box: Box) -> tuple[str, Any]:
    """The weights that the stopped training ends with; its checkpoints are put back afterwards."""
    stopped, kept = box.place / "stopped.checkpoints", box.place / "kept"
    shutil.copytree(stopped, kept)
    result = worker.cli(*TRAIN, "--checkpoint-every", "4")
    wrong, answer = _training(result), None
    if not wrong:
        answer = (box.place / "stopped" / "model.safetensors").read_bytes()
    for folder in (stopped, box.place / "stopped"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, stopped)
    shutil.rmtree(kept)
    return wrong, answer


def _training(result: dict[str, Any]) -> str:
    """As `_judged`; a training that goes on says more than a line on stderr."""
    lines = [line for line in result.get("err", "").splitlines() if line.startswith("tablefold")]
    return _judged({**result, "err": "\n".join(lines)} if result.get("code") else result)


def make_checkpoints(argv: list[str]) -> None:
    """Train as `argv` says until step 14 (called in a worker)."""
    from tablefold.cli import _parse
    from tablefold.cli.options import model_options
    from tablefold.train import Config, Listener, train_run

    class Stop(Listener):
        def on_step(self, progress: Any, loss: float) -> None:
            if progress.step == 14:
                raise KeyboardInterrupt

    _, args, _ = _parse([*argv, "--checkpoint-every", "4"])
    options = {name: value for name, value in vars(args).items() if name in Config.__dataclass_fields__}
    try:
        train_run(Config(**options, model_options=model_options(args)), args.out, [Stop()], checkpoint_every=4)
    except KeyboardInterrupt:
        return
    raise AssertionError("it was to be stopped")


TARGETS = {
    "shard": Target("data", "data/shop/test/*.arrow", batches("test"), share=2),
    "shard of training": Target("data", "data/shop/train/*.arrow", batches("train"), share=2),
    "dictionary": Target("runs", "runs/qr-fp32/encoder/dictionary/*.parquet", predicted("runs/qr-fp32"), share=2),
    "fresh shard": Target("data", "data/fresh/*/*.arrow", every_part, checked=True, share=3),
    "fresh dictionary": Target(
        *("data", "runs/fresh/encoder/dictionary/*.index", predicted("runs/fresh")), checked=True, share=2
    ),
    "metadata": Target("library", "lookup/shop/user.parquet", evaluated("runs/custom-fp32")),
    "raw Parquet": Target(
        "data", "raw/shop.parquet", prepared("table", "raw/shop.parquet", "--schema", "raw/shop.toml"), share=2
    ),
    "interactions in Parquet": Target(
        *("data", "raw/takes.parquet"),
        prepared("interactions", "raw/takes.parquet", "--user=user", "--item=item", "--negatives=0"),
        share=2,
    ),
    "weights": Target("runs", "runs/qr-fp32/model.safetensors", evaluated("runs/qr-fp32"), share=2),
    "int8 weights": Target("runs", "runs/robe-int8/model.safetensors", evaluated("runs/robe-int8"), share=2),
    "lookup arrays": Target("runs", "runs/custom-fp32/model.safetensors", evaluated("runs/custom-fp32")),
    "checkpoint": Target("runs", "stopped.checkpoints/*", resumed, checked=True),
}


def fill(place: Path) -> None:
    """Golden data and runs, and raw files as Parquet."""
    harness.golden_box(place)
    shutil.copytree(harness.GOLDEN / "runs" / "custom-fp32", place / "runs" / "custom-fp32")
    for name, file in (("shop", "shop"), ("interactions", "takes")):
        pl.read_csv(place / "raw" / f"{name}.csv").write_parquet(place / "raw" / f"{file}.parquet")


if __name__ == "__main__":
    sys.exit(harness.run_as_script("flipped_bits", torment, 800))
