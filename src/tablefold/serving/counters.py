"""What a service counts, for Prometheus: of all its processes together, by files that they share.

Nothing of a request's content is counted or named.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Prometheus reads it when it is imported: a process sets it first of all."""

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class Counters:
    """The figures of a process, kept where all processes of a service keep theirs."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = CollectorRegistry()  # what is shown is gathered from the files, see `show`
        self.requests = Counter(
            "tablefold_requests",
            "Requests by what was asked and the answer's status.",
            ["asked", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "tablefold_request_seconds",
            "From the first look at a request to its answer.",
            ["asked"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.rows = Counter("tablefold_rows", "Rows that were scored.", registry=registry)
        self.batches = Histogram("tablefold_batch_rows", "Rows scored together.", registry=registry, buckets=_ROWS)
        self.waiting = Gauge(
            "tablefold_waiting_requests",
            "Requests that nobody has begun.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.reloads = Counter("tablefold_reloads", "New runs that a process has taken over.", registry=registry)
        self.reload_failures = Counter("tablefold_reload_failures", "New runs that were refused.", registry=registry)

    def count_batch(self, rows: int) -> None:
        """Count one more batch."""
        self.rows.inc(rows)
        self.batches.observe(rows)

    @staticmethod
    def show() -> bytes:
        """The figures of all processes, as Prometheus reads them."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        text: bytes = generate_latest(registry)
        return text


def use_folder(folder: Path) -> None:
    """Keep the figures of this process, and of those that it starts, in a folder; called before any is made."""
    os.environ[FOLDER_VARIABLE] = str(folder)


def forget(process: int) -> None:
    """Leave a process that has ended out of what is waiting; what it has counted stays counted."""
    mark_process_dead(process)  # type: ignore[no-untyped-call]
