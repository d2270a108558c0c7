"""The README's pictures: what is lost at each size, on Gowalla and on clicks, each contestant at the best of three
rates; from the lines that `equal_bytes.py auto` and `auto-kaggle` keep in `results`.

python studies/figure.py docs/figures

Text and axes take the colour of the page that shows the picture, or of the reader's light or dark mode.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from equal_bytes import CLAIM_SEEDS, MORE_SEEDS, PICKED
from matplotlib.figure import Figure

from tablefold.study.chart import spread_out

RESULTS = Path(__file__).parent / "results"
INK, GRID = "#010203", "#010204"
"""Stand-ins: what is drawn in them takes the page's colours."""
COLORS = {"full": INK, "auto": "#c2410c", "qr": "#2f7fd0", "robe": "#9a63c4", "hashing": "#b0812a"}
NAMES = {"full": "full", "auto": "auto", "qr:combine=mul": "qr", "robe:block=4": "robe", "hash": "hashing"}
"""Of the methods as they were asked for."""
FONT, WIDTH, HEIGHT = 13.0, 380.0, 320.0  # points: on a phone, 340 pixels wide, letters have 12
STYLE = """<style>
svg { --ink: #1f2328; --grid: #d1d9e0 }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --grid: #3d444d } }
</style>"""

Points = list[tuple[float, float]]
"""How many times smaller the tables are, and the AUC."""

PICTURES = {
    "lose": ("Gowalla", "gowalla_rates", CLAIM_SEEDS, (0.49, 0.97)),
    "lose-clicks": ("clicks", "kaggle_rates", (*CLAIM_SEEDS, *MORE_SEEDS), (0.82, 0.88)),
}
"""By the name of its file: the data, the file of its lines, the seeds that all contestants have, the range of AUC."""


def series(name: str, seeds: tuple[int, ...]) -> dict[str, Points]:
    """Points of each method by rising size, in the order of `COLORS`: means over the seeds."""
    lines = [json.loads(text) for text in (RESULTS / f"{name}.jsonl").read_text().splitlines()]
    cells: dict[str, dict[str, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        method, options, seed = line["asked"]
        if seed in seeds and options[-1] == PICKED and "--with-pointers" not in options and "auc" in line:
            size = options[options.index("--compression") + 1] if "--compression" in options else "1"
            cells[NAMES[method]][size][seed] = line
    points = {
        name: sorted(
            (mean(line["compression"] for line in at.values()), mean(line["auc"] for line in at.values()))
            for at in sizes.values()
            if len(at) == len(seeds)
        )
        for name, sizes in cells.items()
    }
    return {name: points[name] for name in COLORS if points[name]}


def draw(data: str, shown: dict[str, Points], heights: tuple[float, float]) -> Figure:
    """The figure: a line for each series, named where it ends."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tablefold", "font.size": FONT})
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    axes = figure.add_axes((0.165, 0.155, 0.43, 0.8))
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


def _name_lines(axes: Any, shown: dict[str, Points]) -> None:
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
    for file, (data, lines, seeds, heights) in PICTURES.items():
        title = f"Test AUC on {data} against how many times smaller the embedding tables are"
        (Path(sys.argv[1]) / f"{file}.svg").write_text(to_svg(draw(data, series(lines, seeds), heights), title))
