"""Runs side by side, each in a process of its own with its share of the cores."""

from __future__ import annotations

import json
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
from tablefold.study.worker import ENDED, FAILED, answer, write_answer

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
class _Place:
    """A process that makes one run after another, each in a process of its own that is forked from it: importing torch
    takes longer than a short training. Threads read what both write, so that no pipe fills up."""

    process: subprocess.Popen[str]
    job: Job | None = None
    share: float = 0.0
    code: int | None = None
    errors: list[str] = field(default_factory=list)
    readers: list[threading.Thread] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def start(cls, threads: int) -> _Place:
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        process = subprocess.Popen(
            [sys.executable, "-m", "tablefold.study.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C is for the study, which ends its runs itself
        )
        place = cls(process)
        place.readers = [threading.Thread(target=read, daemon=True) for read in (place._follow, place._collect)]
        for reader in place.readers:
            reader.start()
        return place

    def give(self, job: Job) -> None:
        """Have a run made."""
        self.job, self.share, self.code = job, 0.0, None
        self.told.clear()
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended: `ended` says so
            print(json.dumps([str(path) for path in (job.source, job.out, job.data, job.run)]), file=self.process.stdin)
            self.process.stdin.flush()

    def ended(self) -> bool:
        """Whether the run it was given has ended, or the place itself."""
        return (self.told.is_set() and self.code is not None) or self.process.poll() is not None

    def output(self) -> dict[str, Any]:
        """The answer of the ended run; one is written for it where it could not."""
        if self.process.poll() is not None:
            self._close()
        code = self.process.returncode if self.code is None else self.code
        last = next((line for line in reversed(self.errors) if line), "no word")
        job, self.job, self.errors = self.job, None, []
        assert job is not None
        if code == 0:
            return read_json(job.out)
        why = f"killed by signal {-code} (9: out of memory?)" if code < 0 else f"exit code {code}: {last}"
        output = answer(job.content, FAILED, error=why)
        write_answer(job.out, output)
        return output

    def end(self) -> None:
        """End the process, which was asked to, whatever it does."""
        _wait(self.process, 10)
        self.process.kill()
        self.process.wait()
        self._close()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # a library that prints
                if line.startswith(ENDED):
                    self.code = int(line.removeprefix(ENDED))
                else:
                    self.share = float(line)

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(ENDED):  # all its errors are read
                self.told.set()
            else:
                self.errors = [*self.errors[-20:], line.strip()]

    def _close(self) -> None:
        for reader in self.readers:
            reader.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with suppress(OSError):  # what it did not read
                stream.close()


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
    places: list[_Place] = []
    waiting: Job | None = next(jobs, None)
    try:
        while waiting or any(place.job for place in places):
            while waiting and (place := _free(places, processes, threads)):
                place.give(waiting)
                waiting = next(jobs, None)
            busy = [place for place in places if place.job]
            ended = [place for place in busy if place.ended()]
            for place in ended:
                job = place.job
                assert job is not None
                yield job, place.output()
            if not ended:
                on_progress(sum(place.share for place in busy))
                _until(busy[0].ended, 0.3)
    finally:
        for place in places:
            place.process.terminate()
        for place in places:
            place.end()


def _free(places: list[_Place], most: int, threads: int) -> _Place | None:
    """A place without a run, a new one where there may be more; None where all are taken."""
    places[:] = [place for place in places if place.job or place.process.poll() is None]
    free = next((place for place in places if place.job is None), None)
    if free is None and len(places) < most:
        with signals_held():
            places.append(_Place.start(threads))
        free = places[-1]
    return free


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
    _until(lambda: process.poll() is not None, seconds)


def _until(ended: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ended() and time.monotonic() < end:
        time.sleep(0.02)
