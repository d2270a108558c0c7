"""AUC against bytes on interactions: methods at equal bytes and equal epochs, two seeds; what is claimed, three.

    python studies/equal_bytes.py gowalla FILE --work FOLDER --results studies/results/gowalla.jsonl
    python studies/equal_bytes.py storage FILE --work FOLDER --results studies/results/storage.jsonl
    python studies/equal_bytes.py order FILE --work FOLDER --results studies/results/order.jsonl
    python studies/equal_bytes.py formats FILE --work FOLDER --results studies/results/equal_bytes_formats.jsonl
    python studies/equal_bytes.py formats-movielens FILE --work FOLDER --results studies/results/movielens_formats.jsonl
    python studies/equal_bytes.py formats-clicks --work FOLDER --results studies/results/clicks_formats.jsonl
    python studies/equal_bytes.py auto FILE --work FOLDER --results studies/results/gowalla_rates.jsonl
    python studies/equal_bytes.py auto-movielens FILE --work FOLDER --results studies/results/movielens_rates.jsonl
    python studies/equal_bytes.py auto-kaggle --work FOLDER --results studies/results/kaggle_rates.jsonl
    python studies/equal_bytes.py movielens FILE --work FOLDER --results studies/results/movielens.jsonl

FILE is a Parquet file of positives (columns user, item; for MovieLens also the users' gender, age and occupation and
the items' genre). A random 10 % of them test, four random items per positive are negatives, ids are permuted (ranked by
frequency in `order`, `formats` and `auto`); each seed draws its own split, negatives and permutation. The clicks are a
million synthetic ones, each seed a log of its own, and need no file; those of `kaggle` have as many values as Criteo's,
1.1 million, most of them rare. Every run is one
`tablefold train` and appends one JSON line; runs whose line is there already are skipped, so the script can be stopped
and started again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SEEDS = (0, 1)
CLAIM_SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4)
LEVELS = (16, 250, 1000, 2)
ADAGRAD = ("--optimizer", "adagrad", "--lr", "2e-2")
USERS_FULL = ("--threshold", "35000")
COMPRESSION_60 = ("--compression", "60.0")
CLAIMS = (
    *((spec, ()) for spec in ("full", "hash:collisions=4", "hash:collisions=60")),
    *((f"qr:collisions=4,combine={combine}", ()) for combine in ("mul", "add", "concat")),
    ("qr:collisions=60,combine=mul", ()),
    *((spec, ()) for spec in ("path:collisions=4,hidden=64", "path:collisions=4,hidden=64,function=linear")),
    *((spec, ADAGRAD) for spec in ("full", "hash:collisions=4", "qr:collisions=4,combine=mul")),
    *((spec, USERS_FULL) for spec in ("hash:collisions=4", "qr:collisions=4,combine=mul")),
    *((spec, COMPRESSION_60) for spec in ("robe:block=4", "hash", "qr:combine=mul")),
)
SHARING = (
    *("robe:block=4", "hash", "qr:combine=mul", "robe:block=1", "robe:block=16"),
    *("unified:lookups=2", "hash_embeddings:k=2"),
)
AT_FOUR = (
    *("qr:combine=concat", "qr:combine=features", "mixed_radix:k=3,combine=mul", "chinese_remainder:k=3,combine=mul"),
    *("path:hidden=64", "path:hidden=64,function=linear", "hash:by=mix", "robe:block=4,sign=true"),
)
METADATA = "custom:lookup={data}/lookup"
CLICKS_TRAINING = (
    *("--model", "dlrm", "--bottom-mlp", "64,16", "--top-mlp", "128,64", "--dim", "16", "--optimizer", "amsgrad"),
    *("--lr", "1e-3", "--batch-size", "1024", "--eval-every", "212"),
)
EXACT = (("--storage", "fp32"), ("--threshold", "0"))
"""Where a run does not say otherwise: left out, a plan would choose both."""
AT_4 = ("--compression", "4.0")
FIRST = "int4"
"""The format of full tables from which `auto` learns: a line of its own, copied to where each `auto` looks for it."""
PICKED = "picked"
"""Stands for the learning rate that was best on the validation part, of those tried at seed 0 and 64x."""
TRAINING = (
    *("--model", "neumf", "--top-mlp", "64,32", "--dim", "16", "--optimizer", "amsgrad", "--lr", "2e-3"),
    *("--batch-size", "8192", "--epochs", "6", "--eval-every", "267"),
)

Run = tuple[str, tuple[str, ...], int]
"""(spec, options that size it, seed)"""


def gowalla() -> list[Run]:
    """Every method at 4x, those that go further from 2x to 1000x; the most asked for first."""
    levels = [(4, (*SHARING, *AT_FOUR)), (60, (*SHARING, "mixed_radix:k=3,combine=mul"))]
    levels += [(level, SHARING) for level in LEVELS]
    runs: list[Run] = [(spec, size, seed) for seed in CLAIM_SEEDS for spec, size in CLAIMS]
    runs += [
        (spec, ("--compression", str(float(level))), seed)
        for level, specs in levels
        for spec in specs
        for seed in SEEDS
    ]
    return list(dict.fromkeys(runs))


def movielens() -> list[Run]:
    """Metadata as partitions (51,104 bytes at the smallest), beside qr, hashing and robe at the same bytes."""
    small, large = ("--budget", "51104"), ("--compression", "4.0")
    rivals, metadata = ("hash", "qr:combine=mul", "robe:block=4"), (METADATA, METADATA + ",combine=add")
    runs: list[Run] = [("full", (), seed) for seed in SEEDS]
    for size in (small, large):
        runs += [(spec, size, seed) for spec in (*metadata, *rivals) for seed in SEEDS]
    return runs


def storage() -> list[Run]:
    """Fewer bits a float and more floats, at equal bytes; beside the fp32 lines of `gowalla`."""
    levels = [("int8", level, CLAIM_SEEDS) for level in ("16.0", "60.0")]
    levels += [("int8", level, SEEDS) for level in ("250.0", "1000.0", "4.0")]
    levels += [("bf16", level, SEEDS) for level in ("16.0", "60.0")]
    return [
        (spec, ("--compression", level, "--storage", bits), seed)
        for bits, level, seeds in levels
        for seed in seeds
        for spec in ("robe:block=4", "qr:combine=mul")
    ]


def formats(epochs: int = 9) -> list[Run]:
    """Every format at the same bytes: the fewer bits a float, the more floats. Each training stops by validation.

    Full tables have three seeds in all formats; methods that share rows have them in the two that are ahead at seed 0.
    """
    all_bits, ahead = ("fp32", "int8", "int4", "int2"), ("int4", "int2")
    stop = ("--epochs", str(epochs), "--patience", "4")

    def run(spec: str, size: tuple[str, ...], bits: str, seed: int) -> Run:
        return spec, (*size, "--storage", bits, *stop), seed

    sizes = [("--compression", level) for level in ("16.0", "64.0", "256.0")]
    shared = [(size, spec) for size in sizes for spec in ("qr:combine=mul", "robe:block=4")]
    runs = [run("full", (), bits, seed) for seed in CLAIM_SEEDS for bits in all_bits]
    for seed in CLAIM_SEEDS:
        runs += [run(spec, size, bits, seed) for size, spec in shared for bits in (all_bits if seed == 0 else ahead)]
    return runs + [run("hash", size, "fp32", 0) for size in sizes]


def auto(epochs: int, more: int, rates: tuple[str, ...], close: tuple[str, ...]) -> list[Run]:
    """What `auto` chooses, beside the methods of before in the formats that a plan chooses.

    `auto` trains in turn, for at most so many epochs each time; all others have the epochs of two trainings, `more`,
    and so has `auto` at 4x, where all of them are full tables in int4. Every contestant picks one of three rates at
    seed 0 and 64x. Seconds of `auto` are without its first training's, which has a line of its own. At 64x it is asked
    for the same bytes with pointers, too. Where `auto` and full tables are `close`, all have five seeds.
    """
    at_64, once = ("--compression", "64.0"), ("--storage", "fp32", "--threshold", "0")

    def run(spec: str, size: tuple[str, ...], seed: int, rate: str = PICKED) -> Run:
        in_turn = spec == "auto" and size != AT_4
        stop = ("--epochs", str(epochs if in_turn else more), "--patience", "2", "--lr-decay", "linear")
        return spec, (*size, *stop, "--lr", rate), seed

    specs = ("auto", "hash", "qr:combine=mul", "robe:block=4")
    runs = [run("full", once, 0, rate) for rate in rates]
    runs += [run(spec, at_64, 0, rate) for spec in specs for rate in rates]
    runs += [run("auto", (*at_64, "--with-pointers"), seed) for seed in CLAIM_SEEDS]
    for sizes in (("64.0", "1000.0"), ("16.0", "256.0", "4000.0")):
        runs += [run("full", once, seed) for seed in CLAIM_SEEDS]
        runs += [run(spec, ("--compression", size), seed) for seed in CLAIM_SEEDS for size in sizes for spec in specs]
    runs += [run("auto", AT_4, seed) for seed in CLAIM_SEEDS]
    for seed in MORE_SEEDS:
        runs += [run("full", once, seed), run("auto", AT_4, seed)]
        runs += [run(spec, ("--compression", size), seed) for size in close for spec in specs]
    return list(dict.fromkeys(runs))


def first_of(run: Run) -> Run:
    """The first training of an `auto`."""
    _, size, seed = run
    return "full", ("--storage", FIRST, "--threshold", "0", *schedule_of(size)), seed


def schedule_of(options: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the options that do not set a size."""
    return options[options.index("--epochs") :]


def with_rate(run: Run, lines: list[dict[str, Any]]) -> Run:
    """The run with the rate that its contestant picks by the lines there are."""
    spec, size, seed = run
    if size[-1] != PICKED:
        return run
    tried = [line for line in lines if line["asked"][0] == spec and line["asked"][1][-1] != PICKED]
    tried = [line for line in tried if spec == "full" or line["asked"][1][:2] == ["--compression", "64.0"]]
    best = min(tried, key=lambda line: line["validation_logloss"])
    return spec, (*size[:-1], best["asked"][1][-1]), seed


def order() -> list[Run]:
    """What ids by frequency change; beside the permuted ones of `gowalla` and `storage`."""
    at_60 = ("hash:by=quotient", "hash", "qr:combine=mul", "robe:block=4")
    beyond = ("hash:by=quotient", "robe:block=4")
    grid = [(spec, "60.0", ()) for spec in at_60] + [(spec, "1000.0", ()) for spec in beyond]
    grid += [(spec, "60.0", ("--storage", "int8")) for spec in ("qr:combine=mul", "robe:block=4")]
    grid += [(spec, "1000.0", ("--storage", "int8")) for spec in beyond]
    grid += [("qr:combine=mul", "250.0", ("--storage", "int8")), ("qr:combine=mul", "16.0", ())]
    return [(spec, ("--compression", level, *bits), seed) for seed in SEEDS for spec, level, bits in grid]


GRIDS: dict[str, Callable[[], list[Run]]] = {
    "gowalla": gowalla,
    "movielens": movielens,
    "storage": storage,
    "formats": formats,
    "formats-movielens": partial(formats, epochs=40),
    "formats-clicks": formats,
    "order": order,
    "auto": partial(auto, 6, 12, ("2e-3", "5e-3", "1e-2"), ("64.0",)),
    "auto-movielens": partial(auto, 12, 24, ("2e-3", "5e-3", "1e-2"), ("16.0",)),
    "auto-kaggle": partial(auto, 1, 1, ("1e-3", "2e-3", "5e-3"), ("64.0", "1000.0", "16.0", "256.0", "4000.0")),
}
DATA = dict.fromkeys(GRIDS, "gowalla") | {"movielens": "movielens"}
DATA |= dict.fromkeys(("formats", "order"), "gowalla-frequency")
DATA |= {"formats-movielens": "movielens-frequency", "formats-clicks": "clicks"}
DATA |= {"auto": "gowalla-frequency", "auto-movielens": "movielens-frequency", "auto-kaggle": "kaggle"}
COLUMNS = {
    "gowalla": (),
    "gowalla-frequency": (),
    "movielens-frequency": (),
    "movielens": ("--user-columns", "gender,age,occupation", "--item-columns", "genre"),
}


def tablefold(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tablefold", *arguments], capture_output=True, text=True, check=False)


def prepare(study: str, file: Path | None, work: Path, seed: int) -> Path:
    name = DATA[study]
    data = work / f"{name}-{seed}"
    if name == "clicks":
        if not data.exists():
            tablefold("generate", str(data), "--rows", "1000000", "--seed", str(seed), "--prepared").check_returncode()
        return data
    if name == "kaggle":
        log = work / f"{name}-{seed}.txt"
        if not data.exists():
            shape = ("--rows", "1000000", "--preset", "criteo-kaggle", "--seed", str(seed))
            tablefold("generate", str(log), *shape).check_returncode()
            tablefold("prepare", "criteo", str(log), "--out", str(data)).check_returncode()
        return data
    if not data.exists():
        done = tablefold(
            *("prepare", "interactions", str(file), "--user", "user", "--item", "item", "--negatives", "4"),
            *(() if name.endswith("-frequency") else ("--permute-ids", str(seed))),
            *("--seed", str(seed), "--out", str(data)),
            *COLUMNS.get(name, ()),
        )
        done.check_returncode()
    return data


def folder_of(study: str, work: Path, run: Run) -> Path:
    spec, size, seed = run
    return work / "runs" / "-".join((DATA[study], spec, *size, str(seed))).replace("/", "_")


def train(study: str, data: Path, work: Path, run: Run, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """One run's line: what was asked, and what came out (or why nothing did)."""
    asked: dict[str, Any] = {"asked": [run[0], list(run[1]), run[2]]}
    spec, size, seed = run = with_rate(run, lines)
    out = folder_of(study, work, run)
    if spec == "auto" and size[:2] != AT_4:
        first = folder_of(study, work, first_of(run))
        if not first.exists():
            _ = train(study, data, work, first_of(run), lines)
        shutil.copytree(first, Path(f"{out}.trainings") / "first", dirs_exist_ok=True)
    training = CLICKS_TRAINING if DATA[study] in ("clicks", "kaggle") else TRAINING
    if study.startswith("auto"):
        training = training[: training.index("--eval-every")]  # a look after each epoch
    exact = () if study.startswith("auto") else (pair for pair in EXACT if pair[0] not in size)
    options = (*training, *itertools.chain(*exact), *size, "--seed", str(seed), "--out", str(out))
    if not (out / "result.json").exists():
        done = tablefold("train", str(data), "--method", spec.format(data=data), *options)
        if done.returncode:
            return {**asked, "error": done.stderr.strip().splitlines()[-1]}
    result = json.loads((out / "result.json").read_text())
    result["method"] = result["method"].replace(str(data), "{data}")
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    looks = [line for line in steps if "auc" in line]
    curve = [[line["step"], round(line["auc"], 5)] for line in looks]
    best = min(line["logloss"] for line in looks)
    return {**asked, **result, "validation_logloss": best, "validation_curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=GRIDS)
    parser.add_argument("file", type=Path, nargs="?", help="not for clicks")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    texts = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    lines = [json.loads(text) for text in texts]
    for spec, size, seed in GRIDS[arguments.study]():
        if [spec, list(size), seed] in [line["asked"] for line in lines]:
            continue
        data = prepare(arguments.study, arguments.file, arguments.work, seed)
        lines.append(train(arguments.study, data, arguments.work, (spec, size, seed), lines))
        with arguments.results.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(spec, *size, seed, lines[-1].get("auc", lines[-1].get("error")), flush=True)


if __name__ == "__main__":
    main()
