"""Print one table of any runs and studies: accuracy against bytes, speed, memory.

RUN is a folder written by `tablefold train` or by `tablefold study run`. Runs that differ in their seed alone share a
line: mean and standard deviation of AUC and log loss, the median of speed, the most memory.
"""

from __future__ import annotations

import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tablefold.cli.columns import painted, takes_colour, window_width
from tablefold.cli.values import show_bytes
from tablefold.quoting import one_line
from tablefold.text_tables import shortened, text_table

if TYPE_CHECKING:
    from tablefold.study.quality import Quality
    from tablefold.study.results import Summary

_BY_WORTH = (
    *("time to target", "runs", "log loss", "samples/s", "peak memory"),
    *("artefact", "in training", "with pointers"),
)
_NONE = "-"
_BOLD, _GREEN = 1, 32
_SHORTEST = 6


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs or studies")
    parser.add_argument(
        "--target",
        metavar="QUALITY",
        help="show the time to this: auc=0.75, or against the full tables, auc=full-0.005 (default: the runs' --until)",
    )
    parser.add_argument(
        "--wide", action="store_true", help="every column and whole spec strings, however wide (default: the window's)"
    )


def run(args: Namespace) -> None:
    """Read, put seeds together, print."""
    from tablefold.study.loading import load_runs
    from tablefold.study.quality import Quality
    from tablefold.study.results import summarise

    if args.target:
        Quality.parse(args.target)
    print_results(summarise(load_runs(args.runs)), args.target, wide=args.wide)


def print_results(summaries: Sequence[Summary], target: str | None = None, *, wide: bool = False) -> None:
    """Print the table as wide as the window, in colour where it takes it; `target` as a study's."""
    width = None if wide else window_width()
    print(results_table(summaries, target, width=width, colour=takes_colour(sys.stdout)))


def results_table(
    summaries: Sequence[Summary], target: str | None = None, *, width: int | None = None, colour: bool = False
) -> str:
    """The table of runs as text.

    Args:
        summaries: a line for each.
        target: as a study's.
        width: letters that a line may have; what matters least is left out and said below. None shows everything.
        colour: mark the Pareto front in green.
    """
    from tablefold.study.results import pareto_front, qualities, slices

    front, rows = set(), []
    for _, alike in slices(summaries):
        front |= {id(one) for one in pareto_front(alike)}
        quality = qualities(alike, target)
        rows += [(one, _row(one, quality)) for one in alike if one.done]
    places = {id(one): number for number, one in enumerate(summaries)}
    rows.sort(key=lambda pair: places[id(pair[0])])
    settings, lines = _settings(summaries), []
    if rows:
        cells = [{**row, **settings[id(one)]} for one, row in rows]
        varied = list(settings[id(rows[0][0])])
        lines = _fitted(cells, [one.title for one, _ in rows], varied, width, asked=target is not None)
        if colour:
            lines = _coloured(lines, [id(one) in front for one, _ in rows])
    for one in summaries:
        if not one.done:
            words = [one.title if width else one.label, "" if not width else one.size, *settings[id(one)].values()]
            note = f"{' '.join(filter(None, words))}: {one.runs[0].status}: {one.runs[0].error}"
            note = one_line(note)
            lines += textwrap.wrap(note, width, subsequent_indent="  ") if width else [note]
    return "\n".join(lines)


def _settings(summaries: Sequence[Summary]) -> dict[int, dict[str, str]]:
    """Of every summary the settings that are not the same everywhere, by their column's name."""
    from tablefold.study.results import show_setting, varied_settings

    varied = varied_settings(summaries)
    return {
        id(one): {name.replace("_", " "): one_line(show_setting("", one.settings[name]).strip()) for name in varied}
        for one in summaries
    }


def _row(one: Summary, quality: Quality | None) -> dict[str, str]:
    """The cells of a summary, by their column's name."""
    from tablefold.study.names import show_compression

    cost, rate = one.cost(quality), one.middle("samples_per_second")
    return {
        "method": one_line(one.label),
        "bytes": show_bytes(one.bytes),
        "compression": _NONE if one.compression is None else show_compression(one.compression),
        "runs": str(len(one.done)),
        "auc": one.spread("auc").show(),
        "log loss": one.spread("logloss").show(),
        "samples/s": f"{rate:,.0f}" if rate > 0 else _NONE,
        "time to target": f"{cost['seconds']:.1f} s" if cost else _NONE,
        "peak memory": show_bytes(max(run.result["peak_rss_bytes"] for run in one.done)),
        **{name: _NONE if size is None else show_bytes(size) for name, size in one.other_bytes().items()},
    }


def _fitted(
    rows: list[dict[str, str]], names: list[str], varied: list[str], width: int | None, *, asked: bool
) -> list[str]:
    """The table's lines, no longer than `width`: with the columns that are worth most, and then with shorter names.

    Args:
        rows: cells by the names of their columns.
        names: what the methods are called where specs are too long.
        varied: the columns of settings that differ.
        width: letters, None for as many as there are.
        asked: whether the time to a target was asked for.
    """
    every = ["method", *varied, "bytes", "compression", "auc", *_BY_WORTH]
    told = [name for name in every if any(row[name] != _NONE for row in rows)]
    if width is None or _width(rows, told) <= width:
        return _lines(rows, told)
    rows = [{**row, "method": name} for row, name in zip(rows, names, strict=True)]
    kept = [name for name in told if name not in _BY_WORTH or (name == "time to target" and asked)]
    for name in (name for name in _BY_WORTH if name in told and name not in kept):
        if _width(rows, [*kept, name]) <= width:
            kept.append(name)
    rows = _squeezed(rows, kept, ["method", *varied], width)
    for name in ("compression", "time to target"):  # in a very narrow window
        if name in kept and _width(rows, kept) > width:
            kept.remove(name)
    lines = _lines(rows, [name for name in told if name in kept])
    left_out = [name for name in told if name not in kept]
    also = f"`tablefold compare --wide` shows also: {', '.join(left_out)}" if left_out else ""
    return [*lines, *textwrap.wrap(also, width)]


def _squeezed(rows: list[dict[str, str]], kept: list[str], words: list[str], width: int) -> list[dict[str, str]]:
    """The rows with the longest of their words shortened, letter by letter, until the table fits."""
    while _width(rows, kept) > width:
        longest, name = max((max(len(row[name]) for row in rows), name) for name in words)
        if longest <= _SHORTEST:
            break
        rows = [{**row, name: shortened(row[name], longest - 1)} for row in rows]
    return rows


def _lines(rows: list[dict[str, str]], names: list[str]) -> list[str]:
    return text_table(names, [[row[name] for name in names] for row in rows]).splitlines()


def _width(rows: list[dict[str, str]], names: list[str]) -> int:
    return max(map(len, _lines(rows, names)))


def _coloured(lines: list[str], front: list[bool]) -> list[str]:
    """The table with its head in bold and the Pareto front in green, and a line that says so."""
    head, body, rest = lines[0], lines[1 : 1 + len(front)], lines[1 + len(front) :]
    body = [painted(line, _GREEN) if best else line for line, best in zip(body, front, strict=True)]
    return [painted(head, _BOLD), *body, f"{painted('green', _GREEN)}: none is as small and better", *rest]
