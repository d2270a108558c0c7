"""The runs of a study, each in a process of its own: `python -m tablefold.study.worker STUDY`.

STUDY is the process of the study, with which this one ends. It imports what every run needs, reads a line per run from
stdin (a JSON list: input file, output file, folder of the data, folder of the run), and forks. A run that is killed for
its memory takes nothing with it, and its peak of memory is its own. While it trains it writes the share that is done to
stdout, a line now and then; when it has ended, this process writes `ended CODE`, to both streams.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from tablefold.data import Dataset
from tablefold.files import new_file
from tablefold.json_files import JsonValue, load_json, show_json
from tablefold.processes import die_with
from tablefold.study.request import Request, fingerprint
from tablefold.train.progress import Listener, Progress
from tablefold.train.run import JOURNAL
from tablefold.train.training import train_run

DONE, FAILED, IMPOSSIBLE = "done", "failed", "impossible"
ENDED = "ended "
"""Begins the line that says with which exit code a run has ended."""

_PRELOADED = ("torch._dynamo", "numba", "polars", "pyarrow.parquet")
"""What takes long to import and starts no thread. Our kernels are not among it: in a child of a process that has
imported them they run on one thread."""
_CURVE = ("step", "examples", "seconds", "auc", "logloss")


class Pulse(Listener):
    """A listener that writes the share of the steps that is done to a stream, at most twice a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._steps, self._last = stream, 0, 0.0

    def on_start(self, progress: Progress, steps: int) -> None:
        """Training begins."""
        self._steps = steps

    def on_step(self, progress: Progress, loss: float) -> None:
        """One step further."""
        now = time.monotonic()
        if now - self._last > 0.5:
            self._last = now
            print(f"{progress.step / self._steps:.4f}", file=self._stream, flush=True)


def answer(content: dict[str, Any], status: str, **rest: Any) -> dict[str, Any]:
    """What an output file holds: the hash of its input file's content, a status, and what goes with it."""
    return {"input_sha256": fingerprint(content), "status": status, **rest}


def write_answer(path: Path, content: dict[str, Any]) -> None:
    """Write an output file, whole or not at all."""
    with new_file(path) as file:
        file.write_text(show_json(content) + "\n", encoding="utf-8")


def run_request(asked: JsonValue, data: str, run: Path) -> dict[str, Any]:
    """Train what an input file asks for; gives what its output file will hold.

    Args:
        asked: content of the input file.
        data: folder of the dataset that the study is given.
        run: the new folder of the trained run.
    """
    content, request = asked.plain, Request.of(asked)
    config = replace(request.config, data=data)
    try:
        result = train_run(config, run, [Pulse(sys.stdout)], dataset=request.variant.of(Dataset(data)))
    except (ValueError, MemoryError) as error:
        return answer(content, FAILED, error=f"{error}" or type(error).__name__)
    curve = [json.loads(line) for line in (run / JOURNAL).read_text(encoding="utf-8").splitlines()]
    looks = [{name: record[name] for name in _CURVE} for record in curve if record["part"] == "validation"]
    return answer(content, DONE, result=result, curve=looks, commit=commit())


def commit() -> str | None:
    """The commit of the checkout this package runs from, with a `+` where files differ from it; None outside of one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not the repository of somebody who installed us inside hers
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def main(arguments: Sequence[str]) -> None:
    """Read lines, make runs."""
    die_with(int(arguments[0]))
    for name in _PRELOADED:
        importlib.import_module(name)
    host, children = os.getpid(), list[int]()
    signal.signal(signal.SIGTERM, lambda *_: _end(children))
    for line in sys.stdin:
        children[:] = [os.fork()]
        if children == [0]:
            return _run(host, *json.loads(line))
        _, status = os.waitpid(children[0], 0)
        children.clear()
        for stream in (sys.stdout, sys.stderr):
            print(f"{ENDED}{os.waitstatus_to_exitcode(status)}", file=stream, flush=True)
    return None


def _run(host: int, source: str, out: str, data: str, run: str) -> None:
    """In a forked child: read the input file, run, write the output file."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with(host)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    write_answer(Path(out), run_request(load_json(Path(source)), data, Path(run)))


def _end(children: Sequence[int]) -> None:
    """End the run under way, and then this process."""
    for child in filter(None, children):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
