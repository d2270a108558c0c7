"""Runs side by side, each in a process of its own with its share of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tablefold.json_files import read_json
from tablefold.processes import signals_held
from tablefold.study.request import Request
from tablefold.study.worker import FAILED, answer, write_answer

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")


@dataclass(frozen=True)
class Job:
    """One process to start: its request, its input and output files, its data, and the new folder of its run."""

    request: Request
    content: dict[str, Any]
    source: Path
    out: Path
    data: Path
    run: Path


@dataclass
class _Running:
    """A process under way; a thread reads what it writes, so that no pipe fills up."""

    job: Job
    process: subprocess.Popen[str]
    share: float = 0.0
    errors: list[str] = field(default_factory=list)
    readers: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(cls, job: Job, threads: int) -> _Running:
        arguments = [str(value) for value in (os.getpid(), job.source, job.out, job.data, job.run)]
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        process = subprocess.Popen(
            [sys.executable, "-m", "tablefold.study.worker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C is for the study, which ends its runs itself
        )
        running = cls(job, process)
        running.readers = [threading.Thread(target=read, daemon=True) for read in (running._follow, running._collect)]
        for reader in running.readers:
            reader.start()
        return running

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # a library that prints
                self.share = float(line)

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors = [*self.errors[-20:], line.strip()]

    def output(self) -> dict[str, Any]:
        """The answer of the ended process; one is written for it where it could not."""
        self._close()
        if self.process.returncode == 0:
            return read_json(self.job.out)
        last = next((line for line in reversed(self.errors) if line), "no word")
        code = self.process.returncode
        why = f"killed by signal {-code} (9: out of memory?)" if code < 0 else f"exit code {code}: {last}"
        output = answer(self.job.content, FAILED, error=why)
        write_answer(self.job.out, output)
        return output

    def end(self) -> None:
        """End the process, which was asked to, whatever it does."""
        _wait(self.process, 10)
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        for reader in self.readers:
            reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


def run_jobs(
    jobs: Iterator[Job], processes: int, on_progress: Callable[[float], object]
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Run all jobs, at most `processes` at a time; gives each with its output as it ends.

    The cores are shared out evenly. Whatever ends the iteration early ends the processes too.

    Args:
        jobs: taken one at a time, when there is a free place.
        processes: runs at a time.
        on_progress: told about twice a second how many runs are under way, each counted by the share of it done.
    """
    threads = max(1, usable_cores() // processes)
    running: list[_Running] = []
    waiting = True
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = next(jobs, None)
                if job is None:
                    waiting = False
                else:
                    with signals_held():
                        running.append(_Running.start(job, threads))
            ended = [one for one in running if one.process.poll() is not None]
            for one in ended:
                running.remove(one)
                yield one.job, one.output()
            if running and not ended:
                on_progress(sum(one.share for one in running))
                _wait(running[0].process, 0.3)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.end()


def check_processes(processes: int) -> None:
    """Refuse more runs at a time than make sense on this machine.

    Raises:
        ValueError: for less than one, or more than four a core.
    """
    most = 4 * usable_cores()
    if not 1 <= processes <= most:
        raise ValueError(f"processes={processes} must lie in 1 .. {most}: more than four runs a core only slow it down")


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
