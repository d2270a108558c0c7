"""Print one table of any runs and studies: accuracy against bytes, speed, memory.

RUN is a folder written by `tablefold train` or by `tablefold study run`. Runs that differ in their seed alone share a
line: mean and standard deviation of AUC and log loss, the median of speed, the most memory.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tablefold.cli.columns import text_table
from tablefold.cli.values import show_bytes

if TYPE_CHECKING:
    from tablefold.study.results import Summary


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs or studies")
    parser.add_argument(
        "--target",
        metavar="QUALITY",
        help="show the time to this: auc=0.75, or against the full tables, auc=full-0.005 (default: the runs' --until)",
    )


def run(args: Namespace) -> None:
    """Read, put seeds together, print."""
    from tablefold.study.loading import load_runs
    from tablefold.study.quality import Quality
    from tablefold.study.results import summarise

    if args.target:
        Quality.parse(args.target)
    print(results_table(summarise(load_runs(args.runs)), args.target))


def results_table(summaries: Sequence[Summary], target: str | None = None) -> str:
    """The table of runs as text; `target` as a study's."""
    from tablefold.study.results import qualities, show_setting, slices, varied_settings

    varied = varied_settings(summaries)
    quality = {id(one): qualities(alike, target) for _, alike in slices(summaries) for one in alike}
    header = ["method", *(name.replace("_", " ") for name in varied), "bytes", "compression", "runs", "auc", "log loss"]
    header += ["samples/s", "time to target", "peak memory"]
    rows = []
    for one in summaries:
        settings = [show_setting("", one.settings[name]).strip() for name in varied]
        if not one.done:
            rows.append([one.label, *settings, *["-"] * 8, f"{one.runs[0].status}: {one.runs[0].error}"])
            continue
        cost = one.cost(quality[id(one)])
        rows.append(
            [
                one.label,
                *settings,
                show_bytes(one.bytes),
                "-" if one.compression is None else f"{one.compression:,.4g}x",
                str(len(one.done)),
                one.spread("auc").show(),
                one.spread("logloss").show(),
                f"{one.middle('samples_per_second'):,.0f}",
                f"{cost['seconds']:.1f} s" if cost else "-",
                show_bytes(max(run.result["peak_rss_bytes"] for run in one.done)),
            ]
        )
    return _with_notes(header, rows)


def _with_notes(header: list[str], rows: list[list[str]]) -> str:
    """The table of rows with figures, and below it a line for each that has none."""
    table = text_table(header, [row for row in rows if len(row) == len(header)])
    notes = [
        f"{row[0]}{''.join(f' {word}' for word in row[1:-9])}: {row[-1]}" for row in rows if len(row) > len(header)
    ]
    return "\n".join([table, *notes])
