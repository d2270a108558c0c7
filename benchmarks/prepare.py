"""How fast `tablefold prepare criteo` is, in how much memory, and against facebookresearch/dlrm's data_utils.py.

    python benchmarks/prepare.py --rows 2000000 --out benchmarks/results/prepare.jsonl [--dlrm CHECKOUT]

Writes a synthetic log with the cardinalities of Criteo Kaggle, prepares it in fresh processes, and appends one JSON
line per measurement: rows/s of every repetition (wall clock, start of the interpreter included), CPU seconds, and the
peak over time of the memory of all processes together: `peak_private_bytes` is what they allocate, `peak_pss_bytes`
adds their share of mapped files, which the system can drop and read again.

The peer reads a part of the same file (`--dlrm-rows`), its category numbers taken modulo 40,000,000 as in its own
terabyte set-up (without that it overflows under numpy 2).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tablefold.data.synthetic import Synthetic, generate
from tablefold.study.worker import commit
from tablefold.train.machine import describe_machine

_PEER = """
import sys
sys.path.insert(0, sys.argv[1])
from data_utils import getCriteoAdData
getCriteoAdData(sys.argv[2], sys.argv[3], 40_000_000, 0.0, 7, "train", "none", True, False, False)
"""


def memory_of(process: int) -> tuple[int, int]:
    """Private and proportional bytes of a process and its descendants, from /proc."""
    private = proportional = 0
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                proportional += 1024 * int(line.split()[1])
            if line.startswith("Anonymous:"):
                private += 1024 * int(line.split()[1])
    except (OSError, ValueError):
        return 0, 0
    for child in children:
        more = memory_of(int(child))
        private, proportional = private + more[0], proportional + more[1]
    return private, proportional


def measure(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a command; wall and CPU seconds, and peak memory sampled every 20 ms."""
    before, start = os.times(), time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    peaks = (0, 0)
    while process.poll() is None:
        peaks = tuple(map(max, peaks, memory_of(process.pid)))
        time.sleep(0.02)
    seconds, after = time.perf_counter() - start, os.times()
    if process.returncode:
        raise SystemExit(f"{command} failed")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "peak_private_bytes": peaks[0],
        "peak_pss_bytes": peaks[1],
    }


def measure_ours(log: Path, rows: int, ids: str, workers: int, repetitions: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tablefold", "prepare", "criteo", str(log), "--ids", ids]
    runs = []
    for _ in range(repetitions):
        out = log.parent / "out"
        runs.append(measure([*command, "--workers", str(workers), "--out", str(out)], log.parent))
        shutil.rmtree(out)
    return summary(f"prepare --ids {ids}", rows, runs) | {"workers": workers}


def measure_peer(checkout: Path, log: Path, rows: int, repetitions: int) -> dict[str, Any]:
    runs = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(dir=log.parent) as folder:
            part = Path(folder) / "train.txt"
            with log.open() as lines, part.open("w") as target:
                target.writelines(line for _, line in zip(range(rows), lines, strict=False))
            command = [sys.executable, "-c", _PEER, str(checkout), str(part), "out"]
            runs.append(measure(command, Path(folder)))
    return summary("facebookresearch/dlrm data_utils.py", rows, runs) | {"workers": 1}


def summary(name: str, rows: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    speeds = sorted(rows / run["seconds"] for run in runs)
    return {
        "benchmark": name,
        "rows": rows,
        "rows_per_second": round(speeds[len(speeds) // 2]),
        "rows_per_second_of_cpu": round(max(rows / run["cpu_seconds"] for run in runs)),
        "peak_private_bytes": max(run["peak_private_bytes"] for run in runs),
        "peak_pss_bytes": max(run["peak_pss_bytes"] for run in runs),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dlrm", type=Path, help="a checkout of facebookresearch/dlrm; left out without it")
    parser.add_argument("--dlrm-rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    args = parser.parse_args()
    import torch

    about = {"commit": commit(), "machine": describe_machine(torch.device("cpu")), "load": os.getloadavg()}
    about["real_time"] = os.sched_getscheduler(0) == os.SCHED_RR  # under `chrt -r 1`, on a machine that others use
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "train.txt"
        generate(Synthetic(args.rows, 0, "criteo-kaggle"), log)
        jobs = [lambda ids=ids: measure_ours(log, args.rows, ids, args.workers, args.repetitions)
                for ids in ("dictionary", "hash")]  # fmt: skip
        if args.dlrm:
            jobs.append(lambda: measure_peer(args.dlrm, log, args.dlrm_rows, args.repetitions))
        for job in jobs:
            line = json.dumps({**job(), "text_bytes": log.stat().st_size, **about})
            print(line, flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
