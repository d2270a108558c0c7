"""How fast a prepared dataset is read in batches, from the page cache: in order and shuffled.

    python benchmarks/loader.py DIR --out benchmarks/results/loader.jsonl

DIR is a prepared dataset, such as `tablefold generate DIR --prepared --preset criteo-kaggle --rows 2000000` writes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

from tablefold.data import Dataset
from tablefold.study.worker import commit
from tablefold.train.machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="append JSON lines here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    part = Dataset(args.dir).part("train")
    about = {"commit": commit(), "machine": describe_machine(torch.device("cpu")), "load": os.getloadavg()}
    about["real_time"] = os.sched_getscheduler(0) == os.SCHED_RR  # under `chrt -r 1`, on a machine that others use
    for batch_size in (128, 2048, 65536):
        for seed in (None, 0):
            speeds = []
            for epoch in range(args.repetitions + 1):  # the first run fills the page cache
                start, rows = time.perf_counter(), 0
                for batch in part.batches(batch_size, seed=seed, epoch=epoch):
                    rows += len(batch.label)
                speeds.append(rows / (time.perf_counter() - start))
            speeds = sorted(speeds[1:])
            line = json.dumps(
                {
                    "benchmark": "loader, in order" if seed is None else "loader, shuffled",
                    "rows": part.rows,
                    "batch_size": batch_size,
                    "rows_per_second": round(speeds[len(speeds) // 2]),
                    "all": [round(speed) for speed in speeds],
                    **about,
                }
            )
            print(line, flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
