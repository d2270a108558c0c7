"""Many runs, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from tablefold.train.config import Config
from tablefold.train.run import train_run


def run_all(
    jobs: Sequence[tuple[Config, Path]],
    processes: int,
    on_done: Callable[[Config, dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Train every config into its folder; gives the results in the order of the jobs.

    Small models gain little from more threads, so each run gets one thread and the cores go to runs side by side.

    Args:
        jobs: what to train, and the new folder of each run.
        processes: runs at a time.
        on_done: told of each result as it comes.

    Raises:
        ValueError: what the first failing run raised; runs under way are stopped.
    """
    context = multiprocessing.get_context("spawn")  # forked children would inherit torch's threads
    with ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        futures = {pool.submit(train_run, config, out): index for index, (config, out) in enumerate(jobs)}
        results: list[dict[str, Any]] = [{} for _ in jobs]
        try:
            for future in as_completed(futures):
                index = futures[future]
                results[index] = future.result()
                on_done(jobs[index][0], results[index])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise
    return results


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent stops its workers
    torch.set_num_threads(1)
