"""Run a grid of trainings on your data and see the trade-off on one page.

`study list` names the studies that ship with tablefold, `study show NAME` prints one to start your own from,
`study run` trains what it asks for, `study report` makes the page. A study that was interrupted goes on with the same
command; what is done is not run again.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tablefold.cli.values import workers

if TYPE_CHECKING:
    from tqdm import tqdm

    from tablefold.data import Schema
    from tablefold.study.definition import Study
    from tablefold.study.request import Request

_STUDY = "a TOML file, or the name of a ready study (see `tablefold study list`)"
REPORT, RESULTS = "report.html", "results.jsonl"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the verbs of a study and their options."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    run_parser = verbs.add_parser("run", help="train what a study asks for and is not done yet")
    run_parser.set_defaults(act=_run)
    run_parser.add_argument("study", metavar="STUDY", help=_STUDY)
    run_parser.add_argument("--data", required=True, metavar="DIR", help="a dataset written by `tablefold prepare`")
    run_parser.add_argument(
        "--out", required=True, metavar="DIR", help="the study's folder; goes on with one that is there"
    )
    run_parser.add_argument("--quick", action="store_true", help="the study's small size: minutes, not hours")
    run_parser.add_argument("--report", action="store_true", help=f"write OUT/{REPORT} at the end")
    run_parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list the runs, try one, tell how long they take, and stop",
    )
    run_parser.add_argument("--keep-models", action="store_true", help="keep every trained run under OUT/models")
    run_parser.add_argument(
        "--processes",
        type=workers,
        default=1,
        metavar="N",
        help="runs at a time; they share the cores, so compare speeds only within one setting (default: 1)",
    )
    report = verbs.add_parser("report", help="make a study's page, figures and results.jsonl, finished or not")
    report.set_defaults(act=_report)
    report.add_argument("folder", metavar="DIR", help="a folder written by `tablefold study run`")
    report.add_argument("--data", metavar="DIR", help="where its dataset lies, for the commands the page ends with")
    listing = verbs.add_parser("list", help="the studies that ship with tablefold")
    listing.set_defaults(act=_list)
    show = verbs.add_parser("show", help="print a ready study")
    show.set_defaults(act=_show)
    show.add_argument("study", metavar="NAME", help=_STUDY)


def run(args: Namespace) -> None:
    """Do what was asked."""
    args.act(args)


def _run(args: Namespace) -> None:
    _refuse_at_once(args)
    from tablefold.cli.answer import print_answer
    from tablefold.cli.compare import print_results
    from tablefold.data import Schema
    from tablefold.study.definition import Study
    from tablefold.study.grid import run_study
    from tablefold.study.loading import load_study

    schema = Schema.load(args.data)
    study = Study.load(args.study, str(schema.source.get("name", "")), quick=args.quick)
    if args.dry_run:
        _dry_run(args, study, schema)
        return
    display = StudyDisplay()
    try:
        tally = run_study(study, args.data, args.out, [display], processes=args.processes, keep_models=args.keep_models)
    finally:
        display.close()
    loaded = load_study(args.out)
    print_results(loaded.summaries(), loaded.target)
    if args.report:
        _report(Namespace(folder=args.out, data=args.data))
    counts = [f"{tally.done} runs done", f"{tally.impossible} impossible", f"{len(tally.failed)} failed"]
    print(f"\n{', '.join(counts)}; {args.out} holds them")
    print_answer(loaded.summaries(), args.data)
    if tally.failed:
        for name, error in tally.failed:
            print(f"failed: {name}: {error}", file=sys.stderr)
        raise ValueError(f"{len(tally.failed)} of the runs failed; the same command tries them again")


def _dry_run(args: Namespace, study: Study, schema: Schema) -> None:
    """Say what would be run, and how long it will take."""
    from tablefold.study.estimate import estimate

    print("\n".join(request.name() for request in study.requests(schema)), flush=True)
    found = estimate(study, args.data, args.processes)
    cannot = f" ({found.impossible} more cannot be so small)" if found.impossible else ""
    probe = f"{found.probe.series} {found.probe.size}".strip()
    print(
        f"{found.runs} runs{cannot}, about {_duration(found.seconds)} with {args.processes} at a time: "
        f"a probe of {probe} ran at {found.samples_per_second:,.0f} samples/s",
        file=sys.stderr,
    )


def _refuse_at_once(args: Namespace) -> None:
    """What can be refused before torch is imported, which takes seconds."""
    from tablefold.locks import locked
    from tablefold.study.chart import check_matplotlib
    from tablefold.study.layout import check_out

    out = Path(args.out)
    check_out(out)
    if out.exists():
        with locked(out):  # refuses where a study is running
            pass
    if args.report:
        check_matplotlib()


def _report(args: Namespace) -> None:
    from tablefold.study.loading import load_study, write_lines
    from tablefold.study.report import write_report

    folder = Path(args.folder)
    study = load_study(folder)
    figures = write_report(study, folder / REPORT, folder / "figures", args.data or "")
    write_lines(study, folder / RESULTS)
    print(f"{folder / REPORT}, {len(figures)} figures in {folder / 'figures'}, and {folder / RESULTS}")


def _list(args: Namespace) -> None:
    import tomllib

    from tablefold.study.definition import ready

    studies = {name: tomllib.loads(file.read_text(encoding="utf-8")) for name, file in ready().items()}
    width = max(map(len, studies))
    print("\n".join(f"{name:<{width}}  {content['title']}" for name, content in studies.items()))


def _show(args: Namespace) -> None:
    from tablefold.study.definition import read_definition

    print(read_definition(args.study)[1], end="")


class StudyDisplay:
    """One progress display: runs done, runs left, time to go; a line per run that ends."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None
        self._total = self._done = self._free = 0
        self._began = time.monotonic()
        self._told: set[tuple[str, str]] = set()

    def on_start(self, total: int, done: int) -> None:
        """`done` of `total` runs were there already."""
        from tqdm import tqdm

        self._total, self._done, self._free = total, done, done
        if done:
            self._say(f"{done} of {total} runs are done already")
        if sys.stderr.isatty():
            form = "{desc} |{bar}| [{elapsed}, {remaining} to go]"
            self._bar = tqdm(total=total, initial=done, dynamic_ncols=True, leave=False, bar_format=form)
            self.on_progress(0)

    def on_progress(self, running: float) -> None:
        """The runs under way, each counted by the share of it that is done."""
        if self._bar is not None:
            self._bar.n = self._done + running
            self._bar.set_description_str(f"{self._done} of {self._total} runs")

    def on_run(self, request: Request, output: dict[str, Any]) -> None:
        """A run has ended."""
        self._done += 1
        if output["status"] == "impossible":  # of every seed, for the same reason
            self._free += 1
            what = f"{request.series} {request.size}"
            if (what, output["error"]) not in self._told:
                self._told.add((what, output["error"]))
                self._say(f"impossible: {what}: {output['error']}")
            return
        figure = (
            f"auc {output['result']['auc']:.4f}" if "result" in output else f"{output['status']}: {output['error']}"
        )
        count = f"{self._done:>{len(str(self._total))}} of {self._total}"
        self._say(f"{count}  {_describe(request)}  {figure}{'' if self._bar else self._to_go()}")
        self.on_progress(0)

    def _to_go(self) -> str:
        """The time that the runs left will take, if they take as long as those that were trained."""
        trained, left = self._done - self._free, self._total - self._done
        if not trained or not left:
            return ""
        return f"  ({_duration(left * (time.monotonic() - self._began) / trained)} to go)"

    def close(self) -> None:
        """Clear the bar."""
        if self._bar is not None:
            self._bar.close()

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


def _describe(request: Request) -> str:
    """A run in a line."""
    config = request.config
    words = [request.series, request.size, config.model, config.optimizer, f"seed {config.seed}"]
    words += [f"threshold {config.threshold}"] if config.threshold else []
    words += [f"ids {request.variant.id_order}"] if request.variant.id_order != "prepared" else []
    return " ".join(filter(None, words))


def _duration(seconds: float) -> str:
    """Seconds for people.

    >>> _duration(42), _duration(400), _duration(9000)
    ('42 s', '7 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
