"""Figures as SVG and PNG: accuracy against bytes, and on the way."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tablefold.extras import require
from tablefold.study.palette import COLORS, FAINT, GREY, INK, as_text
from tablefold.tables import show_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "sD^vPXph<"
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (8, 3)))
NARROW, WIDE = 360.0, 760.0
"""Widths of a figure in points: of one that is read on a phone, and of one that has a page to itself."""
_PLOT = 235.0  # points: the least height of what is plotted
_FONT = 13.5
"""Of all text: on a phone, where a figure is 343 pixels wide, a point is a little less than a pixel."""
_LINE = 1.12 * _FONT
_LETTER = 0.57 * _FONT  # of the middle width
_LABEL_LETTERS = 12


class Style(NamedTuple):
    """How a series is drawn, in every figure of a page."""

    color: str
    marker: str


FULL_STYLE, PLAIN_STYLE = Style(INK, "*"), Style(GREY, "o")


class Point(NamedTuple):
    """A mean over seeds and its standard deviation (NaN for one seed)."""

    x: float
    y: float
    std: float


@dataclass(frozen=True)
class Line:
    """A series: its name, its style, its points by rising x."""

    label: str
    style: Style
    points: tuple[Point, ...]
    dash: int = 0
    """Lines of one style on one chart are told apart by a dash pattern of their own."""


@dataclass(frozen=True)
class Chart:
    """One figure.

    Args:
        name: of its files.
        title: what it shows.
        x: "bytes", "iterations" or "seconds".
        y: the figure on the other axis.
        lines: the series; the full tables are a line of one point in a chart over bytes.
        front: points to mark as the Pareto front.
        y_range: where to cut the other axis; None shows everything.
    """

    name: str
    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    front: tuple[Point, ...] = ()
    y_range: tuple[float, float] | None = None


def styles(series: Sequence[str], full: str, plain: str) -> dict[str, Style]:
    """A style of its own for every series: ink for the full tables, grey for plain hashing, a colour for the rest."""
    fixed = {full: FULL_STYLE, plain: PLAIN_STYLE}
    others = [one for one in series if one not in fixed]
    rest = {
        one: Style(COLORS[n % len(COLORS)], MARKERS[(n + n // len(COLORS)) % len(MARKERS)])
        for n, one in enumerate(others)
    }
    return {**fixed, **rest}


def draw(chart: Chart, width: float = NARROW) -> Figure:
    """The chart as a matplotlib figure, so many points wide.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    letters = _LABEL_LETTERS if width < WIDE else 2 * _LABEL_LETTERS
    labels = [_wrapped(line.label, letters) for line in chart.lines]
    letters = max(len(row) for label in labels for row in label.split("\n"))
    above = 3.1 * _FONT if chart.x == "bytes" else 0.7 * _FONT
    left, right, below = 4.6 * _FONT, 14 + letters * _LETTER, 3.4 * _FONT
    plot = max(_PLOT if width < WIDE else 1.3 * _PLOT, sum(_height(label) for label in labels) + _LINE)
    height = above + plot + below
    figure = _figure((width / 72, height / 72))
    axes = figure.add_axes((left / width, below / height, (width - left - right) / width, plot / height))
    for line in chart.lines:
        _draw_line(axes, line, over_bytes=chart.x == "bytes")
    if chart.front:
        x, y, _ = zip(*chart.front, strict=True)
        ring: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 12, "markeredgecolor": INK}
        axes.plot(x, y, zorder=4, clip_on=False, markeredgewidth=0.9, fillstyle="none", **ring)
    _dress(axes, chart)
    _label_ends(axes, chart.lines, labels, plot)
    return figure


def spread_out(wanted: Sequence[float], heights: Sequence[float], room: float) -> list[float]:
    """The middles nearest to those `wanted` at which labels of these heights lie between 0 and `room`, none on another.

    >>> spread_out([10, 11, 50], [4, 4, 4], 100)
    [8.5, 12.5, 50.0]
    """
    blocks: list[tuple[float, list[int]]] = []  # labels that touch, by rising place; and where the lowest begins
    for number in sorted(range(len(wanted)), key=lambda one: wanted[one]):
        members = [number]
        bottom = _bottom(members, wanted, heights, room)
        while blocks and blocks[-1][0] + sum(heights[one] for one in blocks[-1][1]) > bottom:
            members = blocks.pop()[1] + members
            bottom = _bottom(members, wanted, heights, room)
        blocks.append((bottom, members))
    places = [0.0] * len(wanted)
    for bottom, members in blocks:
        for one in members:
            places[one] = bottom + heights[one] / 2
            bottom += heights[one]
    return places


def _bottom(members: Sequence[int], wanted: Sequence[float], heights: Sequence[float], room: float) -> float:
    """Where labels one upon the other begin, if each is to be as near to its place as the others allow."""
    total, best = 0.0, 0.0
    for one in members:
        best += wanted[one] - total - heights[one] / 2
        total += heights[one]
    return max(0.0, min(best / len(members), room - total))


def _label_ends(axes: Axes, lines: Sequence[Line], labels: Sequence[str], plot: float) -> None:
    """Write every line's name to the right of the plot, as near as can be to where the line ends, and join the two."""
    low, high = axes.get_ylim()
    ends = [next((point for point in reversed(line.points) if not math.isnan(point.y)), None) for line in lines]
    shown = [(line, label, end) for line, label, end in zip(lines, labels, ends, strict=True) if end is not None]
    heights = [min(max((end.y - low) / (high - low), 0.0), 1.0) for _, _, end in shown]  # shares of the plot's
    places = spread_out([plot * height for height in heights], [_height(label) for _, label, _ in shown], plot)
    width = axes.bbox.width * 72 / axes.figure.dpi
    for (line, label, end), height, place in zip(shown, heights, places, strict=True):
        color, at = line.style.color, place / plot
        begin = (axes.transData.transform((end.x, end.y))[0] - axes.bbox.x0) / axes.bbox.width
        axes.plot(
            [begin, 1 + 4 / width, 1 + 9 / width], [height, height, at], transform=axes.transAxes, color=color,
            linewidth=0.8, alpha=0.7, clip_on=False, zorder=2,
        )  # fmt: skip
        axes.text(1 + 11 / width, at, label, transform=axes.transAxes, color=INK if color == INK else as_text(color),
                  fontsize=_FONT, va="center", linespacing=1.05)  # fmt: skip


def _wrapped(label: str, letters: int) -> str:
    """A label in lines of about so many letters; a number stays with its word."""
    kept = re.sub(r" (?=\d)|(?<= in) ", "\u00a0", label)
    return "\n".join(textwrap.wrap(kept, letters, break_long_words=False))


def _height(label: str) -> float:
    return _LINE * (label.count("\n") + 1)


def to_svg(figure: Figure, title: str, name: str) -> str:
    """The figure as an `<svg>` element that takes the width it is given.

    Args:
        figure: as drawn.
        title: what it shows, for those who cannot see it.
        name: on a page no two figures share one; equal figures of one name give equal text.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    # Text stays text: it scales, can be searched, and needs no font file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", svg)  # the same in every figure, and nothing points to them
    head = rf'<svg role="img" aria-label="{title}" \1'
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', head, svg, count=1, flags=re.DOTALL)


def describe(chart: Chart) -> str:
    """What somebody who cannot see the figure should know: what it shows, and where each line begins and ends."""
    lines = []
    for line in chart.lines:
        seen = [point for point in line.points if not math.isnan(point.y)]
        ends = [f"{point.y:.4f} at {_place(point.x, chart.x)}" for point in (seen[:1] + seen[1:][-1:])]
        lines.append(f"{line.label} {' to '.join(ends)}" if ends else f"{line.label} undefined")
    return f"{chart.title}. {'; '.join(lines)}."


def _place(x: float, axis: str) -> str:
    if axis == "bytes":
        return show_bytes(x)
    return f"{x:,.0f} iterations" if axis == "iterations" else f"{x:,.1f} s"


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG, 200 dots an inch, on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()


def check_matplotlib() -> None:
    """Find out before the first training, not after the last, that no figure can be drawn.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    require("figures need", "report", "matplotlib")


def _figure(size: tuple[float, float]) -> Figure:
    check_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=size)


def _draw_line(axes: Axes, line: Line, *, over_bytes: bool) -> None:
    x, y, std = (list(values) for values in zip(*line.points, strict=True))
    color, marker = line.style
    band = not any(map(math.isnan, std))
    low, high = [a - b for a, b in zip(y, std, strict=True)], [a + b for a, b in zip(y, std, strict=True)]
    if over_bytes and line.style == FULL_STYLE:
        axes.axhline(y[0], color=color, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
        if band:
            axes.axhspan(low[0], high[0], color=color, alpha=0.08, linewidth=0)
        axes.plot(x, y, color=color, marker=marker, markersize=12, linestyle="none", clip_on=False)
        return
    close = over_bytes and x[-1] < 1.5 * x[0]  # a band needs room to be read
    if band and len(x) > 1 and not close:
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    elif band:
        axes.errorbar(x, y, yerr=std, color=color, linewidth=1)
    shown: dict[str, Any] = {"marker": marker, "markersize": 5.5} if over_bytes else {}
    dash = DASHES[line.dash % len(DASHES)]
    axes.plot(x, y, color=color, linewidth=1.9, linestyle=dash, zorder=3, **shown)


def _dress(axes: Axes, chart: Chart) -> None:
    axes.set_ylabel(chart.y, color=INK, fontsize=_FONT)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=_FONT)
    if chart.y_range:
        axes.set_ylim(*chart.y_range)
    if chart.x == "bytes":
        _dress_bytes(axes, chart)
    else:
        axes.set_xlim(left=0)
        axes.set_xlabel(
            {"iterations": "iterations", "seconds": "seconds of training"}[chart.x], color=INK, fontsize=_FONT
        )
        axes.xaxis.set_major_locator(_few_ticks())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _dress_bytes(axes: Axes, chart: Chart) -> None:
    """A log axis of bytes, and where the full tables are known, one of compression above it."""
    axes.set_xscale("log")
    axes.set_xlabel("bytes of all embeddings", color=INK, fontsize=_FONT)
    low, high = axes.get_xlim()
    if high / low < 12:
        axes.set_xlim(low / 2, high * 2)
    axes.xaxis.set_major_locator(_log_ticks(axes))
    axes.xaxis.set_major_formatter(lambda value, _: show_bytes(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    full = next((line.points[0].x for line in chart.lines if line.style == FULL_STYLE), None)
    if full is None:
        return

    def inverse(value: Any) -> Any:  # bytes to compression and back
        import numpy as np

        return full / np.maximum(value, 1e-3)

    above = axes.secondary_xaxis("top", functions=(inverse, inverse))
    above.xaxis.set_major_locator(_log_ticks(axes))
    above.xaxis.set_major_formatter(lambda value, _: f"{value:,.3g}x" if value < 1000 else f"{value:,.0f}x")
    above.xaxis.set_minor_formatter(lambda value, _: "")
    above.set_xlabel("compression", color=INK, fontsize=_FONT)
    above.spines["top"].set_visible(False)
    above.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=_FONT)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def _log_ticks(axes: Axes) -> Any:
    """Powers of ten, and where these are few, 2 and 5 times them."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_xlim()
    return LogLocator(10, subs=(1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0))
