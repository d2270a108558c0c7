"""What serving a run takes on this machine: bytes in its files, bytes in a process, milliseconds for rows."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tablefold.data.encoder_folder import files_to_score
from tablefold.serving.scorer import Scorer

ROWS = (1, 512)


@dataclass(frozen=True)
class ServingFigures:
    """What serving a run takes.

    Args:
        file_bytes: of the run's files that scoring raw values reads.
        weight_bytes: of the model in a process; processes of a service share all but the packed layers.
        lookup_bytes: of the dictionaries in a process; shared likewise.
        false_match: the odds that a value which training has not shown is taken for one that it has.
        milliseconds: for so many records, from raw values to scores, by one thread: the median.
    """

    file_bytes: int
    weight_bytes: int
    lookup_bytes: int
    false_match: float
    milliseconds: dict[int, float]


def measure_serving(folder: str | Path, seconds: float = 1.0) -> ServingFigures:
    """Load a run and score records of numbers drawn at random, each size for `seconds` at most.

    Raises:
        ValueError: for a folder that holds no run, or one that cannot read raw values.
    """
    folder = Path(folder)
    scorer = Scorer(folder, "cpu")
    read = [folder / "config.json", folder / "model.safetensors", *files_to_score(folder / "encoder")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        milliseconds = {rows: _median(scorer, rows, seconds) for rows in ROWS}
    finally:
        torch.set_num_threads(threads)
    return ServingFigures(
        sum(path.stat().st_size for path in read),
        scorer.weight_bytes,
        scorer.encoder.lookup_bytes,
        scorer.encoder.false_match,
        milliseconds,
    )


def _median(scorer: Scorer, rows: int, seconds: float) -> float:
    draw = random.Random(0)
    records: list[dict[str, Any]] = [
        {name: str(draw.randrange(10_000_000)) for name in scorer.names}
        | {name: draw.randrange(10) for name in scorer.encoder.numbers}
        for _ in range(rows)
    ]
    scorer.score(records)  # which compiles what is not compiled yet
    took: list[float] = []
    until = time.perf_counter() + seconds
    while len(took) < 200 and (began := time.perf_counter()) < until:
        scorer.score(records)
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)
