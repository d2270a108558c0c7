"""One process of a service: it answers on the socket that all of them share, until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from types import FrameType

import torch
import uvicorn

from tablefold.processes import die_with
from tablefold.serving.app import Answers, Served
from tablefold.serving.connection import Connection
from tablefold.serving.counters import Counters
from tablefold.serving.service import Service
from tablefold.serving.snapshot import open_snapshot

MOST_CONNECTIONS = 1000
_KEPT_ALIVE = 75
"""Seconds for which a connection without a request is kept."""


def answer_on(listening: socket.socket, service: Service, pipe: Pipe, parent: int) -> None:
    """Serve the snapshot named on the pipe, and each that is named later, until SIGTERM; then answer what was asked.

    What is said on the pipe: ("serves", process, snapshot) or ("refuses", process, snapshot, reason).
    """
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C: the parent ends us
    logging.basicConfig(stream=sys.stderr, format="tablefold serve: %(message)s", level=logging.WARNING)
    torch.set_num_threads(service.threads)
    try:
        snapshot = Path(pipe.recv())
    except (EOFError, OSError):
        return
    answers = Answers(service, Served(*open_snapshot(snapshot)), Counters())
    threading.Thread(target=_take_over, args=(answers, pipe), daemon=True, name="tablefold-reload").start()
    config = uvicorn.Config(
        answers.app,
        http=type("TimedConnection", (Connection,), {"seconds": service.timeout}),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=_KEPT_ALIVE,
        timeout_graceful_shutdown=int(2 * service.timeout) + 1,
    )
    server = _Server(config, answers)
    gc.collect()
    gc.freeze()  # what is here now stays: the collector need not look at it while somebody waits
    pipe.send(("serves", os.getpid(), snapshot.name))
    asyncio.run(server.serve([listening]))
    answers.close()


def _take_over(answers: Answers, pipe: Pipe) -> None:
    """Serve each snapshot that is named on the pipe, as soon as it is open; requests go on meanwhile."""
    while True:
        try:
            snapshot = Path(pipe.recv())
        except (EOFError, OSError):  # the parent is gone
            return
        try:
            answers.served = Served(*open_snapshot(snapshot))
        except Exception as error:
            answers.counters.reload_failures.inc()
            pipe.send(("refuses", os.getpid(), snapshot.name, f"{type(error).__name__}: {error}"))
        else:
            answers.counters.reloads.inc()
            pipe.send(("serves", os.getpid(), snapshot.name))


class _Server(uvicorn.Server):
    """uvicorn's server, which at SIGTERM goes on for a while: no request that is on its way is lost.

    For `drain` seconds it takes connections and answers, tells that it is not ready, and has every answer close its
    connection. Then it takes none any more, answers what it has, and ends.
    """

    def __init__(self, config: uvicorn.Config, answers: Answers) -> None:
        super().__init__(config)
        self._answers = answers
        self._ends: float | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        signal.signal(signal.SIGTERM, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._answers.draining = True
        self._ends = self._ends or time.monotonic() + self._answers.service.drain

    async def on_tick(self, counter: int) -> bool:
        await super().on_tick(counter)
        return self._ends is not None and time.monotonic() >= self._ends
