"""The README's figure: test AUC against bytes, from the lines of an equal-bytes study.

python studies/figure.py studies/figures/gowalla.svg studies/results/gowalla.jsonl studies/results/storage.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

from tablefold.formats import in_format
from tablefold.study.chart import Chart, Line, Point, draw, styles
from tablefold.study.results import Spread

SERIES = {
    "full": "full tables",
    "hash": "plain hashing",
    "qr:combine=mul": "qr, mul",
    "qr:combine=mul in int8": "qr, mul, int8",
    "robe:block=4": "robe, block 4",
    "robe:block=4 in int8": "robe, block 4, int8",
    "unified:lookups=2": "unified, 2 lookups",
    "hash_embeddings:k=2": "hash embeddings, k = 2",
}


def series(asked: str, options: list[str]) -> str | None:
    """The series a run belongs to; None for one with another optimiser or a threshold."""
    others = set(options[::2]) - {"--compression", "--storage"}
    name = in_format(asked, options[3] if "--storage" in options else "fp32")
    return name if name in SERIES and not others else None


def main(figure: Path, results: list[Path]) -> None:
    runs: dict[str | None, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in [json.loads(text) for file in results for text in file.read_text().splitlines()]:
        if "auc" in line:
            spec, options, _ = line["asked"]
            runs[series(spec, options)][line["embedding_bytes"]].append(line["auc"])
    style = styles(list(SERIES), "full", "hash")
    lines = []
    for spec, label in SERIES.items():
        spreads = [(size, Spread.of(values)) for size, values in sorted(runs[spec].items())]
        points = [Point(size, spread.mean, spread.std) for size, spread in spreads]
        if points:
            lines.append(Line(label, style[spec], tuple(points)))
    chart = Chart("gowalla", "AUC against bytes on Gowalla", "bytes", "test AUC", tuple(lines))
    figure.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "none"}):
        draw(chart).savefig(figure, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
