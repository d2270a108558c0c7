"""The tables of LOG.md, from the lines that `equal_bytes.py` leaves.

python studies/tables.py studies/results/gowalla.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for text in parser.parse_args().file.read_text().splitlines():
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
