"""Run the steps of a job: in this process, in several, or as Ray tasks. The results do not depend on which."""

from __future__ import annotations

import json
import multiprocessing
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tablefold.extras import require
from tablefold.files import new_file
from tablefold.processes import die_with

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Step:
    """A call `function(number, *arguments)` whose result (plain JSON) is kept in the file `result`.

    The file appears when the step is done, so a step that was done before the job was killed is not done again.
    """

    function: Callable[..., Any]
    number: int
    arguments: tuple[Any, ...]
    result: Path

    def __call__(self) -> Any:
        """The result: computed, or read where it was computed before and is as it was written."""
        checksum, _, text = self.result.read_bytes().partition(b" ") if self.result.is_file() else (b"", b"", b"")
        if checksum != _checksum(text):
            text = json.dumps(self.function(self.number, *self.arguments)).encode()
            with new_file(self.result) as file:
                file.write_bytes(_checksum(text) + b" " + text)
        return json.loads(text)


class Engine:
    """Where steps run: a context that holds its worker processes until it ends.

    Args:
        name: "local" or "ray".
        workers: processes of the local engine; 1 is this process. Ray uses the CPUs that it has.

    Raises:
        ValueError: if Ray is asked for and not installed.
    """

    def __init__(self, name: str, workers: int) -> None:
        self._ray: Any = _import_ray() if name == "ray" else None
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._started_ray = False

    def __enter__(self) -> Engine:
        if self._ray is not None and not self._ray.is_initialized():
            self._ray.init(log_to_driver=False, include_dashboard=False)
            self._started_ray = True
        elif self._ray is None and self._workers > 1:
            # Spawned, not forked: this process may run threads (Arrow, torch) whose locks a fork would copy.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self._workers, mp_context=context, initializer=die_with, initargs=(os.getpid(),)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._started_ray:
            self._ray.shutdown()

    def run(self, steps: Sequence[Step]) -> list[Any]:
        """The results of all steps, in their order.

        Raises:
            ChildProcessError: if a worker process died; what is done so far can be gone on with.
        """
        if self._ray is not None:
            return self._run_ray(steps)
        if self._pool is None:
            return [step() for step in steps]
        try:
            return list(self._pool.map(_call, steps))
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process died: out of memory (try fewer workers), or started from a script whose calls "
                'are not under `if __name__ == "__main__":`'
            ) from error

    def _run_ray(self, steps: Sequence[Step]) -> list[Any]:
        task = self._ray.remote(_call)
        try:
            return list(self._ray.get([task.remote(step) for step in steps]))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)


def _call(step: Step) -> Any:
    return step()


def _import_ray() -> Any:
    require("--engine ray needs", "ray", "ray")
    import ray

    return ray
