"""Ten million synthetic Criteo rows over Criteo Kaggle's 33.8 million ids: full tables, and robe and auto at 1,000x.

    python studies/ten_million.py --work FOLDER --prepare
    python studies/ten_million.py --work FOLDER --results studies/results/ten_million.jsonl

All train DLRM at the paper's sizes for one epoch with Adagrad in batches of 2,048; the full tables' gradients are the
rows that were read, and only these are updated. `auto` trains several times, in turn. Measured per contestant, in a
process of its own: time, samples/s, peak memory and the test log loss above the best that any model can reach (the data
is drawn from a known teacher). One line is appended as each ends; what has one is skipped, so the script can be stopped
and started again.

The data is `tablefold generate --prepared --preset criteo-kaggle`. Its dictionaries know the values that occur in the
training part; the others of the log's full cardinalities are added, seen never, as a catalogue known beforehand would.

The learning rate, one for all, is torch's default. On a million rows the log loss above the best was 0.0743, 0.0714
and 0.1506 for full tables at 0.005, 0.01 and 0.02, and 0.0868, 0.0834 and 0.0825 for robe.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from tablefold.data import Schema
from tablefold.data.dictionary_file import write_dictionary
from tablefold.data.schema import RESERVED_IDS, TableSchema
from tablefold.data.synthetic import PRESETS

PRESET = "criteo-kaggle"
CONTESTANTS = {
    "robe 1,000x": ("--method", "robe:block=16", "--compression", "1000", "--storage", "fp32", "--threshold", "0"),
    "full": ("--method", "full"),
    "auto 1,000x": ("--method", "auto", "--compression", "1000", "--training-memory", "5GB"),
}
TRAINING = ("--model", "dlrm", "--dim", "16", "--optimizer", "adagrad", "--batch-size", "2048", "--epochs", "1")


def prepare(work: Path, rows: int) -> Path:
    """The dataset, its tables as large as the log's vocabulary."""
    out = work / f"data-{rows}"
    if not out.exists():
        generate = ("generate", str(out), "--prepared", "--preset", PRESET, "--rows", str(rows), "--workers", "2")
        subprocess.run([sys.executable, "-m", "tablefold", *generate], check=True)
    schema = Schema.load(out)
    sizes = zip(schema.tables, PRESETS[PRESET].rows, strict=True)
    tables = tuple(TableSchema(table.name, count + RESERVED_IDS) for table, count in sizes)
    if tables != schema.tables:
        for table, whole in zip(schema.tables, tables, strict=True):
            add_values(out / schema.dictionary_file(table.name), whole.rows - RESERVED_IDS)
        replace(schema, tables=tables).save(out)
    return out


def add_values(dictionary: Path, size: int) -> None:
    """Add values that training never shows, until there are so many: the least that are not there."""
    seen = pl.read_parquet(dictionary)
    taken = seen["value"].str.to_integer(base=16).to_numpy()
    unseen = np.setdiff1d(np.arange(size), taken, assume_unique=True)[: size - len(seen)]
    added = [f"{value:08x}" for value in unseen.tolist()]
    write_dictionary(dictionary, [(seen["value"].to_arrow(), seen["count"].to_numpy()), (added, unseen * 0)])


def train(data: Path, out: Path, *options: str) -> dict[str, object]:
    """One training in a process of its own: its result, and the most private memory it has held."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "tablefold", "train", str(data), "--out", str(out), *TRAINING, *options]
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, private_bytes(process.pid))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {**json.loads((out / "result.json").read_text()), "peak_private_bytes": peak}


def private_bytes(pid: int) -> int:
    """Memory of a process that is not a mapped file: the log's pages belong to the system's cache."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the data (2 GB) and the runs (6 GB)")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate of all")
    parser.add_argument("--prepare", action="store_true", help="write the data and stop")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "ten_million.jsonl")
    arguments = parser.parse_args()
    data = prepare(arguments.work, arguments.rows)
    if arguments.prepare:
        return
    done = set()
    if arguments.results.exists():
        lines = map(json.loads, arguments.results.read_text().splitlines())
        done = {(line["contestant"], line["log_rows"], line["lr"]) for line in lines}
    for name, options in CONTESTANTS.items():
        if (name, arguments.rows, arguments.lr) in done:
            continue
        run = arguments.work / "run"
        result = train(data, run, "--lr", str(arguments.lr), *options)
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        with arguments.results.open("a") as file:
            file.write(json.dumps({**result, "contestant": name, "log_rows": arguments.rows}) + "\n")
        shutil.rmtree(run)


if __name__ == "__main__":
    main()
