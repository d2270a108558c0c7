"""Run the steps of a job: in this process, in several, or as Ray tasks. The results do not depend on which."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tablefold.files import new_file


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
        """The result: computed, or read where it was computed before."""
        if not self.result.exists():
            with new_file(self.result) as file:
                file.write_text(json.dumps(self.function(self.number, *self.arguments)))
        return json.loads(self.result.read_text())


def run_steps(steps: Sequence[Step], workers: int = 1) -> list[Any]:
    """The results of all steps, in their order.

    Raises:
        ValueError: what a step raises; or if a worker process was killed.
    """
    if workers == 1 or len(steps) < 2:
        return [step() for step in steps]
    # Spawned, not forked: the parent may run threads (Arrow, Numba, torch) whose locks a fork would copy.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(steps)), mp_context=context)
    try:
        return list(pool.map(_call, steps))
    except BrokenProcessPool as error:
        raise ValueError("a worker process was killed (out of memory?); try fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _call(step: Step) -> Any:
    return step()
