"""See the idea at work: generate a log, train full and folded models, compare them on one page.

Everything is made on this machine, in about a minute: a synthetic click log, a prepared dataset, one run of the full
tables and runs of plain hashing and of two methods of this library at equal bytes, and OUT/report.html.
"""

from __future__ import annotations

import shutil
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tablefold.cli.columns import text_table
from tablefold.cli.values import positive, show_bytes

if TYPE_CHECKING:
    from tablefold.data import Schema
    from tablefold.train.config import Config

METHODS = ("hash", "qr", "robe:block=8")
"""The first is the baseline."""
COMPRESSIONS = (4, 16, 64, 256)
MODEL = {"bottom_mlp": (128, 64), "top_mlp": (128, 64)}
BATCH_SIZE = 256
LOG, DATA, RUNS, REPORT = "log.txt", "data", "runs", "report.html"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--out", default="tablefold-demo", metavar="DIR", help="the folder to write (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", type=positive, default=150_000, metavar="N", help="rows of the log (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="runs at a time, one thread each (default: the cores, at most 8)"
    )


def run(args: Namespace) -> None:
    """Make the data, train, report."""
    from tablefold.study.grid import run_all, usable_cores

    began = time.perf_counter()
    out = Path(args.out)
    _clear(out)
    schema = _make_data(out, args.rows)
    jobs = _jobs(out, schema)
    workers = args.workers or min(usable_cores(), 8)
    _say(f"training {len(jobs)} models, {workers} at a time")
    results = run_all(jobs, workers, _Counter(len(jobs)))
    seconds = time.perf_counter() - began
    _write_report(out, [folder for _, folder in jobs], workers)
    print(_table(results))
    print(f"\n{out / REPORT} shows it; {out / RUNS} holds the models ({seconds:.0f} s)")


def _clear(out: Path) -> None:
    """Make room for a new demo where an old one is; refuse a folder that holds anything else."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder with --out")
    ours = {LOG, f"{LOG}.best.json", DATA, RUNS, REPORT}
    strangers = sorted({path.name for path in out.iterdir()} - ours) if out.is_dir() else []
    if strangers:
        raise ValueError(f"{out} holds {strangers[0]!r}, which is no part of a demo; name a new folder with --out")
    if out.is_dir():
        shutil.rmtree(out)
    out.mkdir(parents=True)


def _make_data(out: Path, rows: int) -> Schema:
    from tablefold.data.criteo import Criteo
    from tablefold.data.prepare import prepare
    from tablefold.data.synthetic import Synthetic, generate

    _say(f"generating {rows:,} rows")
    generate(Synthetic(rows), out / LOG)
    _say("preparing them")
    return prepare(Criteo((str(out / LOG),)), out / DATA)


def _jobs(out: Path, schema: Schema) -> list[tuple[Config, Path]]:
    """The full tables, then every method at every compression that it can reach."""
    from tablefold.train.config import Config

    data = str((out / DATA).absolute())
    common: dict[str, Any] = {"data": data, "model_options": MODEL, "batch_size": BATCH_SIZE, "device": "cpu"}
    configs = [Config(method="full", **common)]
    tables = schema.table_specs(configs[0].dim)
    for method in METHODS:
        for compression in COMPRESSIONS:
            config = Config(method=method, compression=compression, **common)
            try:
                config.placement(tables)
            except ValueError:  # below the method's smallest size
                continue
            configs.append(config)
    names = [f"{config.method.partition(':')[0]}-{config.compression or 1:g}x" for config in configs]
    return [(config, out / RUNS / name) for config, name in zip(configs, names, strict=True)]


class _Counter:
    """Says which run is done, and of how many."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def __call__(self, config: Config, result: dict[str, Any]) -> None:
        self._done += 1
        width = len(str(self._total))
        figures = f"{result['compression']:>5.3g}x  auc {result['auc']:.4f}"
        _say(f"  {self._done:>{width}} of {self._total}  {figures}  {result['method']}")


def _write_report(out: Path, runs: list[Path], workers: int) -> None:
    from tablefold.data import Dataset
    from tablefold.files import new_file
    from tablefold.study.report import render
    from tablefold.study.results import StudyResults, load_runs
    from tablefold.study.run import describe_data

    about = (
        "The same model trained with full embedding tables and with folded ones, on a synthetic click log. "
        "Every method gets the same bytes, the same rows and the same number of steps."
    )
    study = StudyResults(
        folder=out,
        title="What folding costs",
        about=about,
        target=None,
        processes=workers,
        data=describe_data(Dataset(out / DATA)),
        runs=tuple(load_runs(runs)),
    )
    with new_file(out / REPORT) as file:
        file.write_text(render(study))


def _table(results: list[dict[str, Any]]) -> str:
    header = ["method", "bytes", "compression", "auc", "log loss", "samples/s"]
    rows = [
        [
            result["method"],
            show_bytes(result["embedding_bytes"]),
            f"{result['compression']:.3g}x",
            f"{result['auc']:.4f}",
            f"{result['logloss']:.4f}",
            f"{result['samples_per_second']:,.0f}",
        ]
        for result in results
    ]
    return text_table(header, rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
