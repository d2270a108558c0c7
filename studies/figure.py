"""The README's pictures: what is lost at each size, on Gowalla and on clicks, from the lines kept in `results`.

python studies/figure.py docs/figures

Text and axes take the colour of the page that shows the picture, or of the reader's light or dark mode.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from tablefold.plans import INT4_UP_TO
from tablefold.study.chart import spread_out

RESULTS = Path(__file__).parent / "results"
INK, GRID = "#010203", "#010204"
"""Stand-ins: what is drawn in them takes the page's colours."""
COLORS = {
    "full": INK,
    "in few bits": "#7f7f7f",
    "trained": "#2b8a5b",
    "auto": "#c2410c",
    "qr": "#2f7fd0",
    "robe": "#9a63c4",
    "hashing": "#b0812a",
}
FONT, WIDTH, HEIGHT = 13.0, 380.0, 320.0  # points: on a phone, 340 pixels wide, letters have 12
STYLE = """<style>
svg { --ink: #1f2328; --grid: #d1d9e0 }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --grid: #3d444d } }
</style>"""

Runs = Iterator[tuple[str, float, float]]
"""Of every run that is shown: its series, how many times smaller its tables are, its AUC."""


def lines_of(name: str) -> list[dict[str, Any]]:
    """The lines of a file of results; none where it is not there."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def gowalla() -> Runs:
    """Trainings stopped by the validation part, and folds of a trained model."""
    for line in (line for line in lines_of("equal_bytes_formats") if "auc" in line):
        method, bits, smaller = line["asked"][0].partition(":")[0], line["storage"], line["compression"]
        if method == "full":
            yield ("full" if bits == "fp32" else "in few bits"), smaller, line["auc"]
        elif method == "hash":
            yield "hashing", smaller, line["auc"]
        elif bits == ("int4" if round(smaller) <= INT4_UP_TO else "int2"):  # what a plan takes
            yield method, smaller, line["auc"]
    for line in lines_of("fold_trained"):
        if line["form"].startswith("fold") and line["form"].endswith("data"):
            yield "trained", line["compression"], line["auc"]
    for line in lines_of("gowalla_auto"):
        if "auc" in line and line["asked"][0] == "auto":
            yield "auto", line["compression"], line["auc"]


def clicks() -> Runs:
    """A million synthetic clicks over 1.09 million ids, one epoch, one schedule for all."""
    names = {"hash": "hashing", "qr:combine=mul": "qr", "robe:block=4": "robe", "auto": "auto"}
    for line in (line for line in lines_of("kaggle_auto") if "auc" in line):
        method = line["asked"][0]
        if method == "full":
            yield ("full" if line["storage"] == "fp32" else "in few bits"), line["compression"], line["auc"]
        elif method in names:
            yield names[method], line["compression"], line["auc"]


PICTURES: dict[str, tuple[str, Callable[[], Runs], tuple[float, float]]] = {
    "lose": ("Gowalla", gowalla, (0.49, 0.97)),
    "lose-clicks": ("clicks", clicks, (0.82, 0.88)),
}
"""By the name of its file: the data, what is shown, the range of AUC."""


def series(runs: Runs) -> dict[str, list[tuple[float, float]]]:
    """Points of each series by rising size, the mean over seeds; in the order of `COLORS`."""
    seeds: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for name, smaller, auc in runs:
        seeds[name][round(smaller)].append((smaller, auc))
    points = {
        name: [(mean(x for x, _ in at), mean(y for _, y in at)) for _, at in sorted(sizes.items())]
        for name, sizes in seeds.items()
    }
    return {name: points[name] for name in COLORS if name in points}


def draw(data: str, shown: dict[str, list[tuple[float, float]]], heights: tuple[float, float]) -> Figure:
    """The figure: a line for each series, named where it ends."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tablefold", "font.size": FONT})
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    axes = figure.add_axes((0.135, 0.155, 0.455, 0.8))
    full = shown["full"][0][1]
    axes.axhline(full, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
    axes.set_xscale("log", base=4)
    axes.set_xlim(0.9, max(300, *(x for points in shown.values() for x, _ in points)) * 1.1)
    axes.set_ylim(*heights)
    ticks = [x for x in (1, 4, 16, 64, 256, 1024, 4096) if x <= axes.get_xlim()[1]]
    ticks = ticks if len(ticks) < 6 else ticks[::2]
    axes.set_xticks(ticks, [f"{x}x" for x in ticks])
    axes.minorticks_off()
    axes.set_xlabel("tables so many times smaller", color=INK)
    axes.set_ylabel(f"test AUC, {data}", color=INK)
    axes.grid(color=GRID, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(color=GRID, labelcolor=INK)
    for name, points in shown.items():
        axes.plot(*zip(*points, strict=True), color=COLORS[name], linewidth=2, marker="o", markersize=5, zorder=3)
    _name_lines(axes, shown)
    return figure


def _name_lines(axes: Any, shown: dict[str, list[tuple[float, float]]]) -> None:
    """Names right of the plot, as near as they can be to where their lines end, joined to it."""
    low, high = axes.get_ylim()
    room = 0.8 * HEIGHT
    labels = {name: f"{name} .{10_000 * points[-1][1]:.0f}" for name, points in shown.items()}
    ends = {name: (points[-1][1] - low) / (high - low) for name, points in shown.items()}
    places = spread_out([room * end for end in ends.values()], [1.25 * FONT] * len(ends), room)
    for (name, points), place in zip(shown.items(), places, strict=True):
        begin = axes.transData.transform((points[-1][0], points[-1][1]))[0]
        share = 1.0 if name == "full" else (begin - axes.bbox.x0) / axes.bbox.width
        style = {"transform": axes.transAxes, "color": COLORS[name], "clip_on": False}
        axes.plot([share, 1.0, 1.03], [ends[name], ends[name], place / room], linewidth=0.8, alpha=0.7, **style)
        axes.text(1.045, place / room, labels[name], transform=axes.transAxes, color=INK, va="center")


def to_svg(figure: Figure, title: str) -> str:
    """The figure as a drawing that takes the colours of its page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", svg[svg.index("<svg") :])  # nothing points to them
    head = rf'<svg role="img" aria-label="{title}" \1width="{WIDTH:.0f}" height="{HEIGHT:.0f}"'
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', head, svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", f"{STYLE}<title>{title}</title>", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: system-ui, sans-serif", svg)
    svg = svg.replace(INK, "var(--color-foreground-primary, var(--ink))")
    return svg.replace(GRID, "var(--color-background-border, var(--grid))")


if __name__ == "__main__":
    for file, (data, runs, heights) in PICTURES.items():
        title = f"Test AUC on {data} against how many times smaller the embedding tables are"
        (Path(sys.argv[1]) / f"{file}.svg").write_text(to_svg(draw(data, series(runs()), heights), title))
