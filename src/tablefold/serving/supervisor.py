"""The process that a service begins with: it starts those that answer, replaces what ends, and takes over new runs."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from tablefold.processes import die_with
from tablefold.quoting import one_line
from tablefold.serving.run_identity import Identity, identify
from tablefold.serving.service import Service, check_installed

_BACKLOG = 1024
_TICK = 0.25
"""Seconds between two looks at the run's place."""
_SLOWEST_RESTART = 5.0
_QUICK = 2.0
"""A process that ends within so many seconds is replaced more slowly each time."""

_spawn = get_context("spawn")

Tell = Callable[[str], object]


def serve(run: Path, service: Service, tell: Tell) -> None:
    """Serve a run until SIGTERM or SIGINT; then end when all that was asked is answered.

    Args:
        run: the run's folder, or a link to it.
        service: how.
        tell: called with a line for whoever watches, such as the address.

    Raises:
        ValueError: for a run that cannot be served, or where a part is not installed.
        OSError: where nothing can listen at the address.
    """
    check_installed()
    with TemporaryDirectory(prefix="tablefold-serve-") as work, _listen(service) as listening:
        supervisor = Supervisor(run, service, Path(work), listening, tell)
        before = {number: signal.signal(number, supervisor.end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            supervisor.go_on()
        finally:
            supervisor.kill()
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(service: Service) -> socket.socket:
    kind = socket.AF_INET6 if ":" in service.host else socket.AF_INET
    # Of a socket that does not say it is TCP's, asyncio leaves Nagle's algorithm on: an answer then takes 40 ms.
    listening = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((service.host, service.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, error.strerror, f"{service.host}:{service.port}") from error
    return listening


@dataclass
class _Worker:
    """A process that answers, what it has said it serves, and when it was started."""

    process: BaseProcess
    pipe: Pipe
    started: float
    serves: str | None = None


class Supervisor:
    """Keeps the processes of a service going; see `serve`."""

    def __init__(self, run: Path, service: Service, work: Path, listening: socket.socket, tell: Tell) -> None:
        self._run, self._service, self._work, self._tell = run, service, work, tell
        self._listening: socket.socket | None = listening
        self._workers: list[_Worker] = []
        self._snapshot: Path | None = None  # the newest that was found good
        self._number = 0
        self._taking: _Taking | None = None
        self._identity: Identity | None = None  # of the run that was last looked at
        self._seen: Identity | None = None
        self._ending = False
        self._delay, self._next_start = 0.0, 0.0
        self._announced = False
        figures = work / "figures"
        figures.mkdir()
        from tablefold.serving.counters import use_folder

        use_folder(figures)

    def end(self, number: int, frame: FrameType | None) -> None:
        """End the service; a handler of signals."""
        self._ending = True

    def go_on(self) -> None:
        """Do all that is to be done, until the service is to end."""
        self._take()
        self._replace_workers()
        while not self._ending:
            self._wait()
            self._look_at_snapshot()
            self._replace_workers()
            if self._service.watch:
                self._look_at_run()
        self._drain()

    def kill(self) -> None:
        """End at once what still runs."""
        processes = [worker.process for worker in self._workers]
        processes += [self._taking.process] if self._taking else []
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join()

    def _take(self) -> None:
        """Have a process copy and check the run."""
        self._number += 1
        self._identity = identify(self._run)
        self._taking = _Taking.start(self._run, self._work / f"{self._number:06d}")

    def _wait(self) -> None:
        """Until something happens, or the next look is due."""
        things: list[Any] = [worker.process.sentinel for worker in self._workers]
        things += [worker.pipe for worker in self._workers]
        things += [self._taking.process.sentinel] if self._taking else []
        wait(things, _TICK) if things else time.sleep(_TICK)
        for worker in self._workers:
            self._listen_to(worker)

    def _listen_to(self, worker: _Worker) -> None:
        with suppress(EOFError, OSError):
            while worker.pipe.poll():
                said = worker.pipe.recv()
                if said[0] == "serves":
                    worker.serves = said[2]
                    self._delay = 0.0
                    self._announce()
                else:
                    self._tell(f"process {said[1]} refuses the new run and serves on: {one_line(said[3], 300)}")
        self._remove_old()

    def _announce(self) -> None:
        if self._announced or len(self._workers) < self._service.workers or not all(w.serves for w in self._workers):
            return
        assert self._listening is not None
        host, port = self._listening.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        count = self._service.workers
        processes = "1 process" if count == 1 else f"{count} processes"
        self._tell(f"{self._run} is served as {self._service.name} at http://{host}:{port} by {processes}")
        self._announced = True

    def _look_at_snapshot(self) -> None:
        taking = self._taking
        if taking is None or taking.process.is_alive():
            return
        self._taking = None
        refusal = taking.refusal()
        if refusal is None:
            again = self._snapshot is not None
            self._snapshot = taking.folder
            if again:
                self._tell(f"{self._run}: a new run is taken over")
            for worker in self._workers:
                with suppress(OSError):  # it is ending
                    worker.pipe.send(str(taking.folder))
            return
        rmtree(taking.folder, ignore_errors=True)
        if self._snapshot is None:
            raise ValueError(refusal)
        self._tell(f"the new run is refused, the one before is served on: {refusal}")

    def _replace_workers(self) -> None:
        for worker in [worker for worker in self._workers if not worker.process.is_alive()]:
            self._workers.remove(worker)
            worker.process.join()
            worker.pipe.close()
            code = worker.process.exitcode
            self._tell(f"process {worker.process.pid} ended with {code}; it is replaced")
            from tablefold.serving.counters import forget

            forget(worker.process.pid or 0)
            if time.monotonic() - worker.started < _QUICK or worker.serves is None:
                self._delay = min(_SLOWEST_RESTART, 2 * self._delay + 0.5)
                if not self._announced:
                    raise ValueError(f"a process that should serve {self._run} ended with {code} before it was ready")
            self._next_start = time.monotonic() + self._delay
        while len(self._workers) < self._service.workers and time.monotonic() >= self._next_start:
            self._workers.append(self._start())
            if self._snapshot is not None:
                self._workers[-1].pipe.send(str(self._snapshot))

    def _start(self) -> _Worker:
        ours, its = _spawn.Pipe()
        arguments = (self._listening, self._service, its, os.getpid())  # it is told what to serve once that is known
        process = _spawn.Process(target=_answer, args=arguments, name="tablefold-serve", daemon=True)
        process.start()
        its.close()
        return _Worker(process, ours, time.monotonic())

    def _look_at_run(self) -> None:
        """Take over the run that is now in the place, once it has been the same for two looks."""
        found = identify(self._run)
        if found is not None and found != self._identity and found == self._seen and self._taking is None:
            self._take()
        self._seen = found

    def _remove_old(self) -> None:
        """Remove snapshots that nobody serves or will serve."""
        used = {worker.serves for worker in self._workers} | {self._snapshot and self._snapshot.name}
        if None in used or self._taking:
            return
        for folder in self._work.glob("[0-9]*"):
            if folder.name not in used:
                rmtree(folder, ignore_errors=True)

    def _drain(self) -> None:
        """Tell all processes to end, and wait until they have."""
        self._tell("ending: what was asked is answered first")
        if self._listening is not None:
            self._listening.close()  # the last process that listens closes it for good
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + self._service.drain + 2 * self._service.timeout + 5
        for worker in self._workers:
            worker.process.join(max(0.0, until - time.monotonic()))


@dataclass
class _Taking:
    """A process that takes a snapshot."""

    process: BaseProcess
    pipe: Pipe
    folder: Path

    @classmethod
    def start(cls, run: Path, folder: Path) -> _Taking:
        ours, its = _spawn.Pipe(duplex=False)
        process = _spawn.Process(target=_take_snapshot, args=(run, folder, its, os.getpid()), daemon=True)
        process.start()
        its.close()
        return cls(process, ours, folder)

    def refusal(self) -> str | None:
        """Why the run is refused, once the process has ended; None where it is good."""
        self.process.join()
        said: str | None = f"the process that read the run ended with {self.process.exitcode}"
        with suppress(EOFError, OSError):
            if self.pipe.poll():
                said = self.pipe.recv()
        self.pipe.close()
        return said


def _answer(*arguments: Any) -> None:
    from tablefold.serving.server_process import answer_on  # torch, which this process can do without

    answer_on(*arguments)


def _take_snapshot(run: Path, folder: Path, pipe: Pipe, parent: int) -> None:
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    from tablefold.serving.snapshot import take_snapshot

    torch.set_num_threads(1)
    try:
        take_snapshot(run, folder)
        pipe.send(None)
    except (ValueError, OSError) as error:
        pipe.send(one_line(" ".join(str(error).split()), 400))
    except BaseException as error:
        pipe.send(f"{type(error).__name__} while the run was read")
        sys.exit(1)
