"""Which figures a report shows of runs of equal settings."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from tablefold.study.chart import Chart, Line, Point, Style, styles
from tablefold.study.findings import PLAIN
from tablefold.study.names import FULL_NAME, shown_name
from tablefold.study.results import Spread, Summary, pareto_front

_FIGURES = {"auc": "AUC", "logloss": "log loss"}
_SETTLED = 0.15
"""The share of a curve's looks that may lie outside the figure: the start is steep, and not what is compared."""


def charts(title: str, group: Sequence[Summary]) -> list[Chart]:
    """AUC and log loss against bytes; where there are curves, log loss against iterations and AUC against time.

    Args:
        title: of the settings that the runs share; empty where all of a study's do.
        group: the runs.
    """
    done = [one for one in group if one.done]
    style = styles(list(dict.fromkeys(shown_name(one.series) for one in done)), FULL_NAME, shown_name(PLAIN))
    slug = "-".join(filter(None, re.split(r"[^a-z0-9]+", title.lower())))
    found = [_against_bytes(figure, done, style) for figure in _FIGURES]
    size = _most_common_size(done)
    on_the_way = [one for one in done if one.size in ("", size) and min(len(run.curve) for run in one.done) > 1]
    if on_the_way:
        found += [
            _on_the_way(figure, x, size, on_the_way, style) for x in ("iterations", "seconds") for figure in _FIGURES
        ]
    return [Chart(**{**vars(one), "name": "-".join(filter(None, [one.name, slug]))}) for one in found]


def _against_bytes(figure: str, done: Sequence[Summary], style: dict[str, Style]) -> Chart:
    series: dict[str, list[Point]] = {}
    for one in done:
        series.setdefault(shown_name(one.series), []).append(_point(one, figure))
    lines = tuple(Line(name, style[name], tuple(sorted(points))) for name, points in series.items())
    rings = figure == "auc"
    marks = "; rings: the Pareto front" if rings else ""
    dashed = "; dashed: the full tables" if FULL_NAME in series else ""
    return Chart(
        name=f"{figure}-bytes",
        title=f"{_FIGURES[figure]} on the test part against bytes{dashed}{marks}{_spread_note(done)}",
        x="bytes",
        y=f"{_FIGURES[figure]} (test)",
        lines=lines,
        front=tuple(_point(one, figure) for one in pareto_front(done)) if rings else (),
    )


def _on_the_way(figure: str, x: str, size: str, done: Sequence[Summary], style: dict[str, Style]) -> Chart:
    names = [shown_name(one.series) for one in done]
    lines = tuple(
        Line(_curve_label(one, done), style[name], _curve(one, x, figure), dash=names[:number].count(name))
        for number, (one, name) in enumerate(zip(done, names, strict=True))
    )
    settled = [point.y for line in lines for point in line.points[math.ceil(len(line.points) * _SETTLED) :]]
    values = sorted(y for y in settled if not math.isnan(y)) or [0.0]
    margin = 0.06 * (values[-1] - values[0]) or 0.01
    at = f" at {size}" if size else ""
    against = "iterations" if x == "iterations" else "time"
    return Chart(
        name=f"{figure}-{x}",
        title=f"{_FIGURES[figure]} on the validation part against {against}{at}{_spread_note(done)}",
        x=x,
        y=f"{_FIGURES[figure]} (validation)",
        lines=lines,
        y_range=(values[0] - margin, values[-1] + margin),
    )


def _spread_note(done: Sequence[Summary]) -> str:
    """What is drawn of the spread over seeds."""
    seeds = {len(one.done) for one in done}
    if seeds == {1}:
        return "; one seed, so no spread"
    return f"; bands: standard deviation over {min(seeds - {1})}{' or more' if len(seeds) > 1 else ''} seeds"


def _curve_label(one: Summary, done: Sequence[Summary]) -> str:
    """The name, and what tells it from others of that name: its threshold, its size."""
    alike = [other for other in done if shown_name(other.series) == shown_name(one.series)]
    label = one.title if len({other.threshold for other in alike}) > 1 else shown_name(one.series)
    several = [other for other in alike if other.threshold == one.threshold]
    return f"{label} {one.size_title}" if len(several) > 1 else label


def _most_common_size(done: Sequence[Summary]) -> str:
    """The size that most series have: there the curves are compared."""
    counts = Counter(one.size for one in done if one.size)
    return max(counts, key=lambda size: counts[size]) if counts else ""


def _point(one: Summary, figure: str) -> Point:
    spread = one.spread(figure)
    return Point(one.bytes, spread.mean, spread.std)


def _curve(one: Summary, x: str, figure: str) -> tuple[Point, ...]:
    """The mean over seeds at every look that all of them took."""
    points = []
    for looks in zip(*(run.curve for run in one.done), strict=False):
        spread = Spread.of([look[figure] for look in looks])
        at = fmean(look["step" if x == "iterations" else "seconds"] for look in looks)
        points.append(Point(at, spread.mean, spread.std))
    return tuple(points)
