"""Make the golden runs of release 0.1 again: `python tests/golden/make.py CHECKOUT`, once, with the sources of 0.1.

    git worktree add --detach CHECKOUT 0cc0990 && python tests/golden/make.py CHECKOUT

CHECKOUT is a checkout of that commit (of the last one before the inside was rewritten). The suite does not run this; it
loads what this has left:

    raw/           the lines that the datasets were prepared from, and lines.csv, criteo.txt to score
    data/          prepared datasets
    lookup/        metadata of `custom`: of the users in data/shop, and of those in digests.py
    runs/          a folder per run: one per method and storage, one per model, some options; without their encoders
    encoders/      those, one per dataset: they are the same in all its runs
    checkpoints/   of trainings that were stopped on the way
    study/         of study.toml, run on data/shop
    scores.json    what 0.1 made of them: scores of lines.csv and figures of the test part, per run
    hashes.json    see digests.py

All paths in them are relative to this folder: it must be the working directory when they are used.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent.resolve()
COMMIT = "0cc0990"
STORAGES = ("fp32", "bf16", "fp16", "int8")

METHODS = {
    "full": "full",
    "hash": "hash:collisions=4",
    "qr": "qr:collisions=4",
    "qr-concat": "qr:collisions=4,combine=concat",
    "qr-features": "qr:collisions=4,combine=features",
    "mixed-radix": "mixed_radix:k=3,combine=add",
    "chinese-remainder": "chinese_remainder:k=2",
    "custom": "custom:lookup=lookup/shop",
    "path": "path:collisions=4,hidden=4",
    "robe": "robe:block=4,floats=600",
    "robe-sign": "robe:block=3,sign=true,floats=600",
    "robe-wrap": "robe:block=16,wrap=true,floats=601",
    "robe-aligned": "robe:block=4,aligned=true,floats=600",
    "unified": "unified:lookups=2,rows=150",
    "hash-embeddings": "hash_embeddings:k=2,floats=600",
}
"""Each in every storage."""

OTHERS = {
    "hash-mix": {"method": "hash:collisions=4,by=mix"},
    "hash-quotient": {"method": "hash:collisions=4,by=quotient"},
    "path-linear": {"method": "path:collisions=8,k=3,function=linear"},
    "robe-mean": {"method": "robe:block=4,gradient=mean,floats=600"},
    "robe-share-table": {"method": "robe:block=4,share=table,floats=600"},
    "robe-share-names": {"method": "robe:block=4,share=item/user,floats=600"},
    "robe-rows": {"method": "robe:block=32,floats=600"},
    "threshold": {"method": "hash:collisions=8", "threshold": 70},
    "compression": {"method": "robe", "compression": 4, "storage": "int8"},
    "budget": {"method": "qr:combine=add", "budget": 4000},
    "patience": {"patience": 2, "eval_every": 5, "epochs": 6},
    "until": {"until": "auc=0.55", "eval_every": 5},
    "bf16-arithmetic": {"precision": "bf16"},
    "adagrad": {"optimizer": "adagrad", "lr": 0.1},
    "rowwise-adagrad": {"optimizer": "rowwise_adagrad", "lr": 0.1},
    "sgd": {"optimizer": "sgd", "lr": 1.0},
    "dcn": {"model": "dcn", "model_options": {"deep_mlp": [6], "cross_layers": 2}},
    "dcn-v2": {"model": "dcn_v2", "model_options": {"deep_mlp": [6], "cross_layers": 2}},
    "dcn-v2-rank": {"model": "dcn_v2", "model_options": {"deep_mlp": [6], "cross_layers": 1, "cross_rank": 2}},
    "neumf": {"model": "neumf", "model_options": {"top_mlp": [6]}, "data": "data/interactions"},
    "hashed-robe": {"method": "robe:block=4,floats=600", "data": "data/hashed"},
    "hashed-hash-embeddings": {"method": "hash_embeddings:floats=600", "data": "data/hashed", "storage": "int8"},
    "criteo": {"method": "qr", "data": "data/criteo", "dim": 2, "batch_size": 40},
}
"""One run each: options, models, optimisers, other data."""

STOPPED = {
    "qr-int8": ({"storage": "int8", "eval_every": 5}, 14),
    "robe-patience": (
        {"method": "robe:block=4,floats=600", "patience": 3, "eval_every": 4, "optimizer": "adagrad"},
        18,
    ),
    "full": ({"method": "full", "optimizer": "sgd", "lr": 0.5}, 9),
}
"""Trainings that are stopped after a step; a checkpoint is written every 4."""

ASKED = {
    "data": "data/shop",
    "method": "qr:collisions=4",
    "dim": 8,
    "model_options": {"bottom_mlp": [4], "top_mlp": [6]},
    "batch_size": 50,
    "epochs": 3,
    "lr": 0.02,
    "seed": 3,
    "device": "cpu",
}
"""What a run is asked for where nothing else is said; `model_options` are those of dlrm."""


STUDY = """\
title = "Small"
about = "What does it cost?"
target = "auc=full-0.02"

[settings]
dim = 4
batch_size = 60
lr = 0.02
looks = 4
seed = [0, 1]
model_options.dlrm.bottom_mlp = [4]
model_options.dlrm.top_mlp = [6]

[[grid]]
method = "full"

[[grid]]
method = "robe:block=4"
compression = [4, 100000]
"""


def main(checkout: Path) -> None:
    """Write everything, with the sources of `checkout`."""
    found = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], cwd=checkout, capture_output=True, text=True)
    if found.stdout.strip() != COMMIT:
        sys.exit(f"{checkout} is no checkout of {COMMIT} ({found.stdout.strip() or found.stderr.strip()})")
    sys.path[:0] = [str(checkout / "src"), str(HERE)]
    os.chdir(HERE)
    for name in ("raw", "data", "lookup", "runs", "encoders", "checkpoints", "study"):
        shutil.rmtree(name, ignore_errors=True)
        Path(name).mkdir()
    write_raw()
    prepare()
    scores = {"runs": {}, "checkpoints": {}}
    for method, spec in METHODS.items():
        for storage in STORAGES:
            make_run(f"{method}-{storage}", {"method": spec, "storage": storage}, scores["runs"])
    for name, changes in OTHERS.items():
        make_run(name, changes, scores["runs"])
    for name, (changes, step) in STOPPED.items():
        stop(name, changes, step, scores["checkpoints"])
    make_study()
    Path("scores.json").write_text(_lines(scores))
    write_digests()


def write_raw() -> None:
    """A shop's log, lines to score, interactions; metadata for `custom`."""
    import numpy as np
    import polars as pl

    random = np.random.default_rng(1)
    rows = 820
    user, item, country = random.zipf(1.3, rows) % 240, random.integers(0, 60, rows), random.integers(0, 7, rows)
    effect = [random.normal(0, 1.5, 240)[user], random.normal(0, 1.0, 60)[item], random.normal(0, 1.0, 7)[country]]
    log = pl.DataFrame(
        {
            "clicked": (random.random(rows) < 1 / (1 + np.exp(-sum(effect)))).astype(int),
            "user": [f"u{number}" for number in user],
            "age": random.integers(15, 80, rows) / 40,
            "item": [None if number == 7 else f"Ware {number}, gelb" for number in item],
            "visits": random.integers(-1, 30, rows),
            "country": [("de", "fr", "Österreich", "", "us", "in", "br")[number] for number in country],
        }
    )
    log[:770].write_csv("raw/shop.csv")
    lines = log[770:].write_csv().splitlines()
    lines[7] = "1,nobody has seen me,0.5,nor me,3,xx"
    lines[20] = "1,u3,old,,2,de"
    lines[33] = "1,u3"
    Path("raw/lines.csv").write_text("\n".join(lines) + "\n")
    Path("raw/shop.toml").write_text(
        'label = "clicked"\ncategorical = ["user", "item", "country"]\ndense = ["age"]\ncounts = ["visits"]\n'
    )
    log.filter(pl.col("clicked") == 1).drop_nulls().select("user", "item").write_csv("raw/interactions.csv")


def prepare() -> None:
    """The datasets, by the command line; the look-ups of their users."""
    import numpy as np
    import polars as pl

    from tablefold.cli import main as tablefold

    log = ["prepare", "table", "raw/shop.csv", "--schema", "raw/shop.toml"]
    takes = ["prepare", "interactions", "raw/interactions.csv"]
    for argv in (
        [*log, "--out", "data/shop"],
        [*log, "--out", "data/hashed", "--ids", "hash"],
        ["generate", "raw/criteo.txt", "--rows", "330", "--seed", "5"],
        ["prepare", "criteo", "raw/criteo.txt", "--out", "data/criteo", "--min-count", "2"],
        [*takes, "--user", "user", "--item", "item", "--negatives", "1", "--out", "data/interactions"],
    ):
        assert tablefold(argv) == 0, argv
    Path("raw/criteo.txt").write_text("\n".join(Path("raw/criteo.txt").read_text().splitlines()[-40:]) + "\n")
    Path("raw/criteo.txt.best.json").unlink(missing_ok=True)
    users = pl.read_parquet("data/shop/dictionary/user.parquet").height + 2
    for name, rows in (("shop", users), ("small", 1000)):  # the users of the dataset, and of digests.py
        numbers = np.random.default_rng(0).integers(0, 9, rows)
        Path("lookup", name).mkdir()
        pl.DataFrame({"age": numbers % 3, "town": numbers}).write_parquet(f"lookup/{name}/user.parquet")


def make_run(name: str, changes: dict, scores: dict) -> None:
    """Train one, and write down what it scores."""
    from tablefold.train import Config, load_run, train_run

    config, run = Config(**{**ASKED, **changes}), Path("runs") / name
    train_run(config, run)
    data = Path(config.data).name
    scores[name] = {"data": data, "figures": load_run(run).evaluate(device="cpu").as_dict()}
    if (run / "encoder").is_dir():
        scores[name]["scores"] = predicted(run, Path("raw") / ("criteo.txt" if data == "criteo" else "lines.csv"))
        encoder = Path("encoders") / data
        if encoder.exists():
            shutil.rmtree(run / "encoder")
        else:
            (run / "encoder").rename(encoder)
    print(name, scores[name]["figures"]["auc"], sum(file.stat().st_size for file in run.iterdir()))


def predicted(run: Path, lines: Path) -> list[float | None]:
    """The scores of a raw file, null where a line is malformed."""
    import polars as pl

    from tablefold.train import predict_file

    predict_file(run, lines, "scores.parquet", "cpu")
    scores = [None if score is None else float(f"{score:.8g}") for score in pl.read_parquet("scores.parquet")["score"]]
    Path("scores.parquet").unlink()
    return scores


def stop(name: str, changes: dict, step: int, scores: dict) -> None:
    """Train until `step` and keep the newest checkpoint; write down what the whole training comes to."""
    from tablefold.train import Config, Listener, train_run

    class Stop(Listener):
        def on_step(self, progress, loss):
            if progress.step == step:
                raise KeyboardInterrupt

    options = {**ASKED, **changes}
    result = train_run(Config(**options), f"checkpoints/{name}")
    shutil.rmtree(f"checkpoints/{name}")
    try:
        train_run(Config(**options), f"checkpoints/{name}", [Stop()], checkpoint_every=4)
    except KeyboardInterrupt:
        *older, newest = sorted(Path(f"checkpoints/{name}.checkpoints").iterdir())
        for path in older:
            path.unlink()
        at = int(newest.name.split("-")[1])
        figures = {key: result[key] for key in ("logloss", "auc", "iterations")}
        scores[name] = {"asked": options, "step": at, "figures": figures}


def make_study() -> None:
    """Two methods, two seeds, one size that cannot be."""
    from tablefold.cli import main as tablefold

    Path("study.toml").write_text(STUDY)
    assert tablefold(["study", "run", "study.toml", "--data", "data/shop", "--out", "study"]) == 0


def write_digests() -> None:
    """`hashes.json`."""
    from tempfile import TemporaryDirectory

    from digests import compute

    with TemporaryDirectory() as folder:
        Path("hashes.json").write_text(json.dumps(compute(Path(folder)), indent=1) + "\n")


def _lines(scores: dict) -> str:
    """JSON with a line per run."""
    texts = []
    for kind, runs in scores.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in runs.items())
        texts.append(f' "{kind}": {{\n{lines}\n }}')
    return "{\n" + ",\n".join(texts) + "\n}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
