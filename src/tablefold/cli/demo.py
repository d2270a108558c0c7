"""See the idea at work: generate a log, train full and folded models, compare them on one page.

Everything is made on this machine, in about two minutes: a synthetic click log, a prepared dataset, a study (full
tables, what `auto` chooses, and plain hashing at equal bytes, two seeds each), and OUT/report.html.
"""

from __future__ import annotations

import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from tablefold.cli.answer import print_answer
from tablefold.cli.compare import print_results
from tablefold.cli.study import StudyDisplay
from tablefold.cli.values import positive, workers

if TYPE_CHECKING:
    from tablefold.study.definition import Study

METHODS = ("auto", "hash")
COMPRESSIONS = (16, 64, 256)
SEEDS = (0, 1)
SETTINGS = {
    "model_options": {"dlrm": {"bottom_mlp": [128, 64], "top_mlp": [128, 64]}},
    "batch_size": 512,
    "lr": 2e-3,  # with which full tables do as well as with torch's own rate and half the batch, in half the time
    "device": "cpu",
    "seed": list(SEEDS),
    "looks": 5,
}
OWN = (
    ("Ask the same of a log of your own", "tablefold describe clicks.parquet"),
    ("which proposes what to prepare; then", "tablefold study run sharing-compression --quick --data DIR --out study"),
)
LOG, DATA, RUNS, REPORT, FIGURES = "log.txt", "data", "study", "report.html", "figures"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--out", default="tablefold-demo", metavar="DIR", help="the folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=positive, default=150_000, metavar="N", help="rows of the log (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=workers, metavar="N", help="runs at a time, one thread each (default: the cores, at most 8)"
    )


def run(args: Namespace) -> None:
    """Make the data, train, report."""
    from tablefold.study.chart import check_matplotlib
    from tablefold.study.grid import run_study
    from tablefold.study.loading import load_study
    from tablefold.study.pool import check_processes, usable_cores
    from tablefold.study.report import write_report

    check_matplotlib()
    workers = args.workers or min(usable_cores(), 8)
    check_processes(workers)
    began = time.perf_counter()
    out = Path(args.out)
    _clear(out)
    _make_data(out, args.rows)
    display = StudyDisplay()
    try:
        tally = run_study(_study(), out / DATA, out / RUNS, [display], processes=workers, keep_models=True)
    finally:
        display.close()
    if tally.failed:
        raise ValueError(f"{tally.failed[0][0]}: {tally.failed[0][1]}")
    study = load_study(out / RUNS)
    write_report(study, out / REPORT, out / FIGURES, str(out / DATA))
    print_results(study.summaries())
    seconds = time.perf_counter() - began
    print(f"\n{out / REPORT} shows it; {out / RUNS} holds the models ({seconds:.0f} s)")
    print_answer(study.summaries(), str(out / DATA), OWN)


def _study() -> Study:
    from tablefold.study.definition import Study

    return Study.of(
        {
            "title": "What folding costs",
            "about": "The same model trained with full embedding tables and with folded ones, on a synthetic click "
            "log. Every method gets the same bytes, the same rows and the same number of steps; auto trains several "
            "times, and keeps what does best on the validation part.",
            "settings": SETTINGS,
            "grid": [{"method": "full"}, {"method": list(METHODS), "compression": list(COMPRESSIONS)}],
        }
    )


def _clear(out: Path) -> None:
    """Make room for a new demo where an old one is; refuse a folder that holds anything else."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder with --out")
    ours = {LOG, f"{LOG}.best.json", DATA, RUNS, REPORT, FIGURES}
    strangers = sorted({path.name for path in out.iterdir()} - ours) if out.is_dir() else []
    if strangers:
        raise ValueError(f"{out} holds {strangers[0]!r}, which is no part of a demo; name a new folder with --out")
    if out.is_dir():
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _make_data(out: Path, rows: int) -> None:
    from tablefold.data.criteo import Criteo
    from tablefold.data.preparation import prepare
    from tablefold.data.synthetic import Synthetic, generate

    _say(f"generating {rows:,} rows")
    generate(Synthetic(rows), out / LOG)
    _say("preparing them")
    prepare(Criteo((str(out / LOG),)), out / DATA)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
