"""Every ready study at its --quick size on every data set at hand; what comes out is kept under studies/results.

    python studies/quick.py --work FOLDER [--data FOLDER] [--only STUDY ...]

Data: synthetic Criteo-shaped lines with the best reachable loss known, and, where FOLDER (default: TABLEFOLD_DATA, or
../shared/data beside the checkout) has them, Criteo's sample, Gowalla and MovieLens-1M. It can be stopped and started
again: what is done is not run again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tablefold.study.definition import ready

HERE = Path(__file__).parent
INTERACTIONS = ("prepare", "interactions", "--user", "user", "--item", "item", "--permute-ids", "0")
SOURCES = {
    "synthetic": ("synthetic.txt", ("prepare", "criteo")),
    "criteo-sample": ("criteo_kaggle_sample.txt.gz", ("prepare", "criteo")),
    "movielens1m": ("movielens1m.parquet", INTERACTIONS),
    "gowalla": ("gowalla.parquet", INTERACTIONS),
}
SYNTHETIC_ROWS = "300_000"


def tablefold(*arguments: str | Path) -> None:
    print("tablefold", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "tablefold", *map(str, arguments)], check=True)


def prepare(name: str, data: Path, work: Path) -> Path | None:
    """The prepared dataset; None where its file is not at hand."""
    file, verb = SOURCES[name]
    raw = (work if name == "synthetic" else data) / file
    if name == "synthetic" and not raw.exists():
        tablefold("generate", raw, "--rows", SYNTHETIC_ROWS)
    if not raw.exists():
        return None
    out = work / "data" / name
    if not out.exists():
        tablefold(*verb, raw, "--out", out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = os.environ.get("TABLEFOLD_DATA", HERE.parent.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of the raw files")
    parser.add_argument("--work", type=Path, required=True, help="folder for prepared data and runs")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where reports and results.jsonl go")
    parser.add_argument("--only", nargs="*", default=list(ready()), help="these studies (default: all)")
    parser.add_argument("--sources", nargs="*", default=list(SOURCES), help="these data sets (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time (default: 2)")
    arguments = parser.parse_args()
    prepared = {source: prepare(source, arguments.data, arguments.work) for source in arguments.sources}
    for source in [source for source, data in prepared.items() if data is None]:
        print(f"{source}: {SOURCES[source][0]} is not in {arguments.data}; left out", flush=True)
    for study in arguments.only:
        for source, data in prepared.items():
            if data is None:
                continue
            out = arguments.work / "runs" / source / study
            options = ("--quick", "--data", data, "--out", out, "--processes", str(arguments.processes), "--report")
            tablefold("study", "run", study, *options)
            kept = arguments.results / source / study
            kept.mkdir(parents=True, exist_ok=True)
            for name in ("report.html", "results.jsonl"):
                shutil.copy(out / name, kept / name)


if __name__ == "__main__":
    main()
