"""The tables of LOG.md, from the lines that `equal_bytes.py` leaves.

    python studies/tables.py studies/results/gowalla.jsonl
    python studies/tables.py studies/results/gowalla_rates.jsonl --rates

With `--rates` all figures of each contestant at the rate it picked, means over seeds, and below `auto` what it tried;
differences to full tables with the same seeds, ± twice the standard error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from equal_bytes import PICKED

from tablefold.study.results import Spread

TARGET = 0.65
"""Validation AUC whose first look is told."""


def first_look(line: dict[str, Any]) -> str:
    """The step of the first look on the validation part that reached the target."""
    return next((str(step) for step, auc in line["validation_curve"] if auc >= TARGET), "never")


def row(asked: str, size: str, lines: list[dict[str, Any]]) -> list[str]:
    """One row: the runs of one method at one size, over their seeds."""
    if "error" in lines[0]:
        return [f"`{asked}`", size, "impossible", "", "", "", ""]
    auc, loss = (Spread.of([line[figure] for line in lines]).show() for figure in ("auc", "logloss"))
    looks = " ".join(first_look(line) for line in lines)
    return [f"`{asked}`", size, f"{lines[0]['embedding_bytes']:,}", str(len(lines)), auc, loss, looks]


FIGURES = {
    "AUC": ("auc", 1, 4),
    "log loss": ("logloss", 1, 4),
    "predicted / clicked": ("calibration", 1, 3),
    "calibration error": ("calibration_error", 1, 4),
    "kB": ("embedding_bytes", 1e3, 1),
    "with pointers": ("embedding_bytes_with_pointers", 1e3, 1),
    "artefact": ("artefact_bytes", 1e3, 0),
    "in training": ("training_bytes", 1e3, 0),
    "seconds": ("total_seconds", 1, 0),
    "peak MB": ("peak_rss_bytes", 1e6, 0),
}
"""By the heading of a column: the figure of a line, its unit, its digits."""
PAIRED = {"AUC less full's": "auc", "log loss less full's": "logloss"}
"""By the heading of a column: the figure of which it gives the difference to full tables with the same seeds."""


def less(lines: list[dict[str, Any]], others: dict[int, dict[str, Any]], figure: str) -> str:
    """By how much a figure is above that of others with the same seeds: the mean, twice its standard error."""
    paired = [(line, others.get(line["asked"][2])) for line in lines]
    apart = [line[figure] - other[figure] for line, other in paired if other is not None]
    if len(apart) < 2:
        return "".join(f"{each:+.4f}" for each in apart)
    return f"{fmean(apart):+.4f} ± {2 * stdev(apart) / len(apart) ** 0.5:.4f}"


def rates_rows(
    spec: str, size: str, lines: list[dict[str, Any]], full: dict[int, dict[str, Any]]
) -> Iterator[list[str]]:
    """The rows of one contestant at one size: its own, and those of what it tried. `full`: full tables' lines, by
    their seeds."""
    done = [line for line in lines if "error" not in line]
    if not done:
        yield [f"`{spec}`", size, str(len(lines)), "impossible", *[""] * (len(FIGURES) + len(PAIRED) - 1)]
        return
    apart = [less(done, full, figure) if spec != "full" else "" for figure in PAIRED.values()]
    yield [f"`{spec}`", size, str(len(done)), *apart, *_means(done)]
    tried: dict[str, list[dict[str, Any]]] = {}
    for each in (each for line in done for each in line.get("tried", ())):
        tried.setdefault(each["method"], []).append(each)
    for method, own in tried.items():
        yield [f"- {method}", "", str(len(own)), *[""] * len(PAIRED), *_means(own)]


def _means(lines: list[dict[str, Any]]) -> list[str]:
    means = []
    for name, unit, digits in FIGURES.values():
        values = [line[name] / unit for line in lines if name in line]
        means.append(f"{fmean(values):,.{digits}f}" if values else "")
    return means


def print_rates(texts: list[str]) -> None:
    """The table of all figures."""
    grouped: dict[tuple[float, str, str], list[dict[str, Any]]] = {}
    for line in map(json.loads, texts):
        spec, options, _ = line["asked"]
        if options[-1] == PICKED:
            compression = float(options[options.index("--compression") + 1]) if "--compression" in options else 1.0
            size = f"{compression:g}x{' with pointers' if '--with-pointers' in options else ''}"
            grouped.setdefault((compression, spec, size), []).append(line)
    full = {line["asked"][2]: line for line in grouped[1.0, "full", "1x"]}
    header = ["", "size", "seeds", *PAIRED, *FIGURES]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for (_, spec, size), lines in sorted(grouped.items()):
        for row_ in rates_rows(spec, size, lines, full):
            print(f"| {' | '.join(row_)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rates", action="store_true", help="of `equal_bytes.py auto`: all figures")
    arguments = parser.parse_args()
    texts = arguments.file.read_text().splitlines()
    if arguments.rates:
        print_rates(texts)
        return
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for text in texts:
        line = json.loads(text)
        spec, size, _ = line["asked"]
        words = " ".join(size).replace("--compression ", "").replace(".0", "x", 1) if size else "-"
        grouped.setdefault((spec, words), []).append(line)
    header = ["asked", "size", "bytes", "seeds", "AUC", "log loss", f"steps to {TARGET}"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for (spec, words), lines in grouped.items():
        print(f"| {' | '.join(row(spec, words, sorted(lines, key=lambda line: line['asked'][2])))} |")


if __name__ == "__main__":
    main()
