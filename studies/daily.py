"""A week of daily updates on a log whose ids drift: each day's next day, by runs that go on, start anew, or stay.

    nice -n 19 python studies/daily.py --seeds 0,1,2 --work /tmp/daily --out studies/results/daily.jsonl

Every day some users and items are new and the older ones fade. A model that has learned up to a day is held against the
day after. Four ways to have one:

- updated: `prepare --extend` of yesterday's dataset and `train --from` of yesterday's run, on the day's rows alone;
- kept: the same, and the optimiser goes on with what it remembers (`--keep-optimizer --from-optimizer`);
- anew: prepared and trained from nothing on all days so far;
- never: the run of the first day.

What is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import polars as pl

from tablefold.data.preparation import Options, prepare
from tablefold.data.table import Columns, Table
from tablefold.train import Config, load_run, train_from, train_run

COLUMNS = Columns("clicked", ("user", "item", "page"), split="last-file")
METHODS = {"full": {}, "hash": {"compression": 16}, "qr": {"compression": 16}, "graded": {"compression": 16}}
MODEL = {"model": "neumf", "model_options": {"top_mlp": [64, 32]}, "dim": 16, "batch_size": 256, "lr": 2e-3}
POPULATIONS = {"user": (20_000, 0.05, 10.0), "item": (6_000, 0.08, 4.0), "page": (200, 0.0, 1e9)}
"""Values on the first day, the share of them that is new every day, and in how many days a value's weight halves."""


class Log:
    """Days of rows: values have a birth, a weight that fades from there, a main effect and a vector of 4 floats."""

    def __init__(self, seed: int, days: int) -> None:
        self.seed, draw = seed, np.random.default_rng([seed, 1])
        self.born: dict[str, np.ndarray] = {}
        self.weight: dict[str, np.ndarray] = {}
        self.effect: dict[str, np.ndarray] = {}
        for name, (first, share, _) in POPULATIONS.items():
            new = round(first * share)
            size = first + new * days
            before = -draw.integers(0, 30, first) if share else np.zeros(first, dtype=np.int64)
            self.born[name] = np.concatenate([before, np.repeat(np.arange(1, days + 1), new)])
            self.weight[name] = (1 + draw.pareto(1.2, size)).clip(max=1000)
            self.effect[name] = np.column_stack([draw.normal(0, 0.7, size), draw.normal(0, 0.45, (size, 4))])

    def day(self, day: int, rows: int) -> pl.DataFrame:
        """The rows of one day."""
        draw, columns, logit, product = np.random.default_rng([self.seed, 2, day]), {}, -1.5, 1.0
        for name, (_, _, half) in POPULATIONS.items():
            age = day - self.born[name]
            weight = np.where(age >= 0, self.weight[name] * 2.0 ** (-np.maximum(age, 0) / half), 0.0)
            ids = draw.choice(len(weight), rows, p=weight / weight.sum())
            columns[name] = [f"{name[0]}{number}" for number in ids]
            logit = logit + self.effect[name][ids, 0]
            product = product * self.effect[name][ids, 1:] if name != "page" else product
        logit = logit + 2 * product.sum(axis=1)
        return pl.DataFrame({"clicked": (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8), **columns})


def measure(seed: int, days: int, rows: int, work: Path, out: Path) -> None:
    """One seed: write a line for every method, way and day that is not there yet."""
    work.mkdir(parents=True, exist_ok=True)
    done = {key(json.loads(line)) for line in out.read_text().splitlines()} if out.exists() else set()
    log, files = Log(seed, days + 1), [str(work / f"day{day}.parquet") for day in range(days + 2)]
    for day, file in enumerate(files):
        if not Path(file).exists():
            log.day(day, rows).write_parquet(file)
    for day in range(days + 1):
        began = time.perf_counter()
        dataset(files[day : day + 2], work / f"updated{day}", work / f"updated{day - 1}" if day else None)
        prepared = dict.fromkeys(("updated", "kept"), time.perf_counter() - began)
        began = time.perf_counter()
        dataset(files[: day + 2], work / f"anew{day}", None)
        prepared["anew"] = time.perf_counter() - began
        for method, size in METHODS.items():
            for how in ("updated", "kept", "anew", "never"):
                record = {"seed": seed, "method": method, "how": how, "day": day, "rows": rows}
                if key(record) not in done:
                    figures = one(method, size, how, day, seed, work)
                    prepare_seconds = round(prepared.get(how, 0.0), 2)
                    with out.open("a") as stream:
                        stream.write(json.dumps({**record, **figures, "prepare_seconds": prepare_seconds}) + "\n")


def key(record: dict) -> tuple:
    """What a line is of."""
    return tuple(record[name] for name in ("seed", "method", "how", "day", "rows"))


def dataset(files: list[str], folder: Path, extend: Path | None) -> None:
    """The dataset whose last file is the day to be predicted."""
    if not folder.exists():
        prepare(Table(tuple(files), COLUMNS), folder, Options(extend=None if extend is None else str(extend)))


def one(method: str, size: dict, how: str, day: int, seed: int, work: Path) -> dict:
    """The figures of one model on the day after `day`."""
    first = work / f"{method}-updated-0"
    if how == "never" or (how == "anew" and day == 0):
        found = load_run(first).evaluate(work / f"updated{day}")
        return {"auc": found.auc, "logloss": found.logloss, "seconds": 0.0}
    run = work / f"{method}-{how}-{day}"
    if (run / "result.json").exists():
        result = json.loads((run / "result.json").read_text())
    elif how in ("updated", "kept") and day:
        keep = dict.fromkeys(("keep_optimizer", "from_optimizer"), how == "kept")
        result = train_from(work / f"{method}-{how}-{day - 1}", work / f"updated{day}", run, **keep)
    else:
        data = work / (f"anew{day}" if how == "anew" else f"updated{day}")
        config = Config(str(data), method, seed=seed, **size, **MODEL)
        result = train_run(config, run, keep_optimizer=how == "kept")
    names = ("auc", "logloss", "seconds", "embedding_bytes", "full_bytes", "samples_per_second")
    return {name: result[name] for name in names}


def table(out: Path) -> str:
    """AUC of each way, means over seeds of the days after the first, and what the days took."""
    frame = pl.read_ndjson(out).filter(pl.col("day") > 0)
    means = frame.group_by("method", "how").agg(
        pl.col("auc").mean(),
        pl.col("logloss").mean(),
        last_auc=pl.col("auc").filter(pl.col("day") == pl.col("day").max()).mean(),
        last_logloss=pl.col("logloss").filter(pl.col("day") == pl.col("day").max()).mean(),
        seconds=pl.col("seconds").sum() / frame["seed"].n_unique(),
        prepare=pl.col("prepare_seconds").sum() / frame["seed"].n_unique(),
        seeds=pl.col("seed").n_unique(),
    )
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160, float_precision=4):
        return str(means.sort("method", "how"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=Path("/tmp/daily"))
    parser.add_argument("--out", type=Path, default=Path("studies/results/daily.jsonl"))
    args = parser.parse_args()
    for number in map(int, args.seeds.split(",")):
        start = time.perf_counter()
        measure(number, args.days, args.rows, args.work / f"{args.rows}-{number}", args.out)
        print(f"seed {number}: {time.perf_counter() - start:.0f} s")
    print(table(args.out))
