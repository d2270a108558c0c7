"""What all benchmarks share: the work, the clock, and the lines they write.

Contestants take turns in one process, so that whatever else the machine does falls on all of them; ratios are taken
within each round. Times are given as p20, p50 and p80 over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import tablefold
from tablefold import TableSpec, make_plan
from tablefold.group import EmbeddingGroup

KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
"""Rows of the 26 tables of the Criteo Kaggle log."""

DIM = 16
SPECS = {
    "robe 1000x": "robe:block=16,floats=540000",
    "qr square-root": "qr:combine=mul",
    "qr c=4": "qr:collisions=4,combine=mul",
    "full": "full",
}

CODED = {f"full in {name}": ("full", name) for name in ("int8", "int4", "int2")}
"""Specs and formats of memory in few bits."""

PLANNED = {
    f"{spec} {compression}x": (spec, float(compression))
    for spec in ("graded", "clusters")
    for compression in (64, 1000)
}
"""Specs that a plan sizes, and how much smaller than full tables they are."""

Work = Callable[[int], object]
"""A contestant: called with the number of the round, it does the work once."""


def kaggle_tables(scale: float = 1.0) -> list[TableSpec]:
    """The 26 tables, their rows times `scale`."""
    return [TableSpec(f"C{i}", max(1, int(rows * scale)), DIM) for i, rows in enumerate(KAGGLE_ROWS, start=1)]


def log_uniform_ids(tables: list[TableSpec], batch: int, count: int, seed: int = 0) -> list[torch.Tensor]:
    """`count` batches of ids `[batch, tables]`, log-uniform over each table's rows: low ids are frequent."""
    generator = np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        columns = [
            np.minimum(np.exp(generator.random(batch) * np.log(table.vocabulary + 1)) - 1, table.vocabulary - 1)
            for table in tables
        ]
        batches.append(torch.from_numpy(np.stack(columns, axis=1).astype(np.int64)))
    return batches


def build(name: str, tables: list[TableSpec]) -> EmbeddingGroup:
    """The group that a name of `SPECS`, `CODED` or `PLANNED` stands for, with sparse gradients where they pay."""
    if name in PLANNED:
        spec, compression = PLANNED[name]
        group = make_plan(spec, tables, compression=compression).build()
    else:
        spec, storage = CODED[name] if name in CODED else (SPECS[name], "fp32")
        group = make_plan(spec, tables, storage=storage).build()
    group.sparse = "auto"
    return group


def race(contestants: dict[str, Work], rounds: int, warm_up: int = 5) -> dict[str, np.ndarray]:
    """Seconds of each contestant in each round; they take turns, in another order each round: who comes after a large
    contestant finds the caches cold.
    """
    order = np.random.default_rng(0)
    for number in range(warm_up):
        for work in contestants.values():
            work(number)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in order.permutation(list(contestants)).tolist():
            began = time.perf_counter()
            contestants[name](number)
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def report(benchmark: str, seconds: dict[str, np.ndarray], baseline: str, out: Path | None, **facts: object) -> None:
    """Print a line per contestant, and append them to `out` as JSON."""
    for name, values in seconds.items():
        p20, p50, p80 = (float(np.quantile(values, q)) * 1e3 for q in (0.2, 0.5, 0.8))
        ratio = float(np.median(seconds[baseline] / values))
        print(f"{benchmark:10s} {name:44s} {p50:9.3f} ms  [{p20:.3f} .. {p80:.3f}]  {ratio:6.2f}x of {baseline}")
        if out is not None:
            line = {
                "benchmark": benchmark,
                "contestant": name,
                "p20_ms": round(p20, 4),
                "p50_ms": round(p50, 4),
                "p80_ms": round(p80, 4),
                "rounds": len(values),
                "times_as_fast_as": {baseline: round(ratio, 3)},
                **facts,
                **surroundings(),
            }
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")


def surroundings() -> dict[str, object]:
    """The machine, the versions and the commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tablefold": getattr(tablefold, "__version__", "0"),
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--scale", type=float, default=1.0, help="rows of the tables, times this")
    parser.add_argument("--out", type=Path, help="append JSON lines to this file")
    parser.add_argument("--dlrm", type=Path, help="a checkout of facebookresearch/dlrm to race against")
    parser.add_argument("--cce", type=Path, help="a checkout of thomasahle/cce to race against")
    return parser
