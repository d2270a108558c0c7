"""Figures as SVG and PNG: accuracy against bytes, and on the way."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from tablefold.tables import show_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7b4ea3", "#8c6d1f", "#b8336a")
"""Okabe and Ito's and three more, told apart by colour-blind readers."""
MARKERS = "sD^vPXph<"
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (8, 3)))
INK, GREY, FAINT = "#1f2430", "#8a8f98", "#d9dce1"
_WIDTH, _HEIGHT, _LEGEND_LINE = 5.0, 3.7, 0.2  # inches


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


def draw(chart: Chart) -> Figure:
    """The chart as a matplotlib figure.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    legend_lines = math.ceil((len(chart.lines) + (chart.x == "bytes")) / 2)  # figures side by side are of one height
    height = _HEIGHT + legend_lines * _LEGEND_LINE
    figure = _figure((_WIDTH, height))
    bottom = (0.62 + legend_lines * _LEGEND_LINE) / height
    axes = figure.add_axes((0.135, bottom, 0.845, 1 - bottom - (0.55 if chart.x == "bytes" else 0.15) / height))
    for line in chart.lines:
        _draw_line(axes, line, over_bytes=chart.x == "bytes")
    if chart.front:
        x, y, _ = zip(*chart.front, strict=True)
        ring: dict[str, Any] = {
            "linestyle": "none",
            "marker": "o",
            "markersize": 12,
            "markeredgecolor": INK,
            "fillstyle": "none",
        }
        axes.plot(x, y, label="Pareto front", zorder=4, clip_on=False, markeredgewidth=0.9, **ring)
    _dress(axes, chart)
    figure.legend(
        loc="lower left", bbox_to_anchor=(0.01, 0.0), ncols=2, frameon=False, labelcolor=INK, fontsize=8.6,
        handlelength=1.6, columnspacing=1.2, labelspacing=0.35,
    )  # fmt: skip
    return figure


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an `<svg>` element that takes the width it is given."""
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", svg)  # the same in every figure, and nothing points to them
    head = rf'<svg role="img" aria-label="{title}" \1'
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', head, svg, count=1, flags=re.DOTALL)


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
    if find_spec("matplotlib") is None:
        raise ValueError("figures need matplotlib: pip install 'tablefold[report]'")


def _figure(size: tuple[float, float]) -> Figure:
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: it scales, can be searched, and needs no font file
    mpl.rcParams["svg.hashsalt"] = "tablefold"  # equal figures give equal files
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
        axes.plot(x, y, color=color, marker=marker, markersize=12, linestyle="none", label=line.label, clip_on=False)
        return
    close = over_bytes and x[-1] < 1.5 * x[0]  # a band needs room to be read
    if band and len(x) > 1 and not close:
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    elif band:
        axes.errorbar(x, y, yerr=std, color=color, linewidth=1)
    shown: dict[str, Any] = {"marker": marker, "markersize": 5.5} if over_bytes else {}
    dash = DASHES[line.dash % len(DASHES)]
    axes.plot(x, y, color=color, linewidth=1.9, linestyle=dash, label=line.label, zorder=3, **shown)


def _dress(axes: Axes, chart: Chart) -> None:
    axes.set_ylabel(chart.y, color=INK, fontsize=9.5)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=9)
    if chart.y_range:
        axes.set_ylim(*chart.y_range)
    if chart.x == "bytes":
        _dress_bytes(axes, chart)
    else:
        axes.set_xlim(left=0)
        axes.set_xlabel(
            {"iterations": "iterations", "seconds": "seconds of training"}[chart.x], color=INK, fontsize=9.5
        )
        axes.xaxis.set_major_locator(_few_ticks())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _dress_bytes(axes: Axes, chart: Chart) -> None:
    """A log axis of bytes, and where the full tables are known, one of compression above it."""
    axes.set_xscale("log")
    axes.set_xlabel("bytes of all embeddings (log scale)", color=INK, fontsize=9.5)
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
    above.set_xlabel("compression", color=INK, fontsize=9.5)
    above.spines["top"].set_visible(False)
    above.tick_params(which="both", color=FAINT, labelcolor=INK, labelsize=9)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def _log_ticks(axes: Axes) -> Any:
    """Powers of ten, and where these are few, 2 and 5 times them."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_xlim()
    return LogLocator(10, subs=(1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 30 else (1.0, 2.0, 5.0))
