"""AUC against bytes on Gowalla: every method at equal bytes and equal epochs, two seeds.

    python studies/gowalla.py FILE --work FOLDER --results studies/results/gowalla.jsonl

FILE is a Parquet file of check-ins (columns user, item). A random 10 % of them test, four random items per positive are
negatives, ids are permuted (each seed draws its own split, negatives and permutation). Every run is one `tablefold train`
and appends one JSON line; runs whose line is there already are skipped, so the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

SEEDS = (0, 1)
LEVELS = (4, 60, 16, 250, 2, 1000)
COLLISIONS = ["full", "hash:collisions=4", "qr:collisions=4,combine=mul", "qr:collisions=4,combine=add"]
SHARING = ["robe:block=4", "hash", "qr:combine=mul", "robe:block=1", "robe:block=16", "unified:lookups=2", "hash_embeddings:k=2"]
AT_FOUR = [
    "qr:combine=concat",
    "qr:combine=features",
    "mixed_radix:k=3,combine=mul",
    "chinese_remainder:k=3,combine=mul",
    "path:hidden=64",
    "path:hidden=64,function=linear",
    "hash:by=mix",
    "robe:block=4,sign=true",
]
TRAINING = (
    "--model neumf --top-mlp 64,32 --dim 16 --optimizer amsgrad --lr 2e-3 --batch-size 8192 --epochs 6 --eval-every 267"
).split()


def grid() -> list[tuple[str, float | None, int]]:
    """(spec, compression, seed) of every run, the most asked for first."""
    runs = [(spec, None, seed) for spec in COLLISIONS for seed in SEEDS]
    runs += [(spec, 4.0, seed) for spec in SHARING + AT_FOUR for seed in SEEDS]
    runs += [(spec, 60.0, seed) for spec in (*SHARING, "mixed_radix:k=3,combine=mul") for seed in SEEDS]
    rest = [level for level in LEVELS if level not in (4, 60)]
    runs += [(spec, float(level), seed) for level in rest for spec in SHARING for seed in SEEDS]
    return runs


def tablefold(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tablefold", *arguments], capture_output=True, text=True, check=False)


def prepare(file: Path, work: Path, seed: int) -> Path:
    data = work / f"gowalla-{seed}"
    if not data.exists():
        done = tablefold(
            *("prepare", "interactions", str(file), "--user", "user", "--item", "item", "--negatives", "4"),
            *("--permute-ids", str(seed), "--seed", str(seed), "--out", str(data)),
        )
        done.check_returncode()
    return data


def train(data: Path, work: Path, spec: str, compression: float | None, seed: int) -> dict[str, object]:
    """One run's line: what was asked, and what came out (or why nothing did)."""
    out = work / "runs" / f"{spec}@{compression}-{seed}".replace("/", "_")
    asked = {"asked": spec, "asked_compression": compression, "seed": seed}
    size = [] if compression is None else ["--compression", str(compression)]
    done = tablefold("train", str(data), "--method", spec, *size, *TRAINING, "--seed", str(seed), "--out", str(out))
    if done.returncode:
        return {**asked, "error": done.stderr.strip().splitlines()[-1]}
    result = json.loads((out / "result.json").read_text())
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curve = [[line["step"], round(line["auc"], 5)] for line in steps if "auc" in line]
    return {**asked, **result, "validation_curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.results.read_text().splitlines() if arguments.results.exists() else []
    done = {(line["asked"], line["asked_compression"], line["seed"]) for line in map(json.loads, lines)}
    for spec, compression, seed in grid():
        if (spec, compression, seed) in done:
            continue
        data = prepare(arguments.file, arguments.work, seed)
        line = train(data, arguments.work, spec, compression, seed)
        with arguments.results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(spec, compression, seed, line.get("auc", line.get("error")), flush=True)


if __name__ == "__main__":
    main()
