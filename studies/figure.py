"""The README's figure: test AUC against bytes, from the lines of an equal-bytes study.

python studies/figure.py studies/results/gowalla.jsonl studies/figures/gowalla.svg
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from tablefold.study.chart import Chart, Line, Point, draw, styles

SERIES = {
    "full": "full tables",
    "hash": "plain hashing",
    "qr:combine=mul": "qr, mul",
    "robe:block=1": "robe, block 1",
    "robe:block=4": "robe, block 4",
    "unified:lookups=2": "unified, 2 lookups",
    "hash_embeddings:k=2": "hash embeddings, k = 2",
}


def main(results: Path, figure: Path) -> None:
    runs: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in map(json.loads, results.read_text().splitlines()):
        if "auc" in line and line["asked"][0] in SERIES:
            runs[line["asked"][0]][line["embedding_bytes"]].append(line["auc"])
    style = styles(list(SERIES), "full", "hash")
    lines = []
    for spec, label in SERIES.items():
        points = [
            Point(size, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else float("nan"))
            for size, values in sorted(runs[spec].items())
        ]
        if points:
            lines.append(Line(label, style[spec], tuple(points)))
    chart = Chart("gowalla", "AUC against bytes on Gowalla", "bytes", "test AUC (two seeds)", tuple(lines))
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(chart).savefig(figure, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
