"""Figures as inline SVG: accuracy against bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#8a8f98", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's, told apart by colour-blind readers; the first, grey, is for the baseline."""
MARKERS = "osD^vPX"
INK, FAINT = "#1f2430", "#d9dce1"


@dataclass(frozen=True)
class Series:
    """One method at several sizes: `label`, and its points (embedding bytes, AUC), smallest first."""

    label: str
    points: tuple[tuple[int, float], ...]


def auc_against_bytes(series: Sequence[Series], full: tuple[int, float], size: tuple[float, float]) -> str:
    """AUC over embedding bytes (log axis), the full table as a line, as an `<svg>` element.

    Args:
        series: the methods; the first is the baseline and drawn in grey.
        full: bytes and AUC of the full tables.
        size: width and height, inches.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    figure = _figure(size)
    axes = figure.add_axes((0.09 if size[0] > 6 else 0.15, 0.13, 0.88 if size[0] > 6 else 0.81, 0.75))
    full_bytes, full_auc = full
    axes.axhline(full_auc, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.plot([full_bytes], [full_auc], marker="*", markersize=13, color=INK, clip_on=False, zorder=5)
    axes.annotate(
        "full tables", (full_bytes, full_auc), (0, 9), textcoords="offset points", ha="right", color=INK, weight="bold"
    )
    for number, one in enumerate(series):
        _draw(axes, one, COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)])
    _dress(axes, full_bytes)
    return _svg(figure)


def _figure(size: tuple[float, float]) -> Figure:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError("figures need matplotlib: pip install 'tablefold[report]'") from error
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: it scales, can be searched, and needs no font file
    mpl.rcParams["svg.hashsalt"] = "tablefold"  # equal figures give equal files
    return Figure(figsize=size)


def _draw(axes: Axes, series: Series, color: str, marker: str) -> None:
    x, y = zip(*series.points, strict=True)
    axes.plot(x, y, color=color, marker=marker, markersize=6.5, linewidth=2.2, label=series.label, clip_on=False)


def _dress(axes: Axes, full_bytes: int) -> None:
    axes.set_xscale("log")
    axes.set_xlim(right=full_bytes * 1.15)
    axes.set_xlabel("bytes of all embeddings", color=INK)
    axes.set_ylabel("AUC on the test part", color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: _bytes(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(which="both", color=FAINT, labelcolor=INK)

    def inverse(value: Any) -> Any:  # bytes to compression and back
        return full_bytes / np.maximum(value, 1e-3)

    above = axes.secondary_xaxis("top", functions=(inverse, inverse))
    above.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}x")
    above.xaxis.set_minor_formatter(lambda value, _: "")
    above.set_xlabel("compression", color=INK)
    above.spines["top"].set_visible(False)
    above.tick_params(which="both", color=FAINT, labelcolor=INK)
    axes.legend(loc="lower right", frameon=False, labelcolor=INK)


def _bytes(value: float) -> str:
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if value >= 10**power:
            return f"{value / 10**power:g} {unit}"
    return f"{value:g} B"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg, count=1, flags=re.DOTALL)
