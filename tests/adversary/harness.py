"""What the adversary's scripts share: a sandbox, a worker process to torment, and a report of promises broken.

A call runs in a worker, a process that lives through many calls and is replaced where one kills or hangs it. Python
code it runs, or the command line, by `tablefold.cli.main`; what it prints is caught at the file descriptors, what it
opens for writing is watched, and what it leaves in the sandbox is compared with what was there.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
GOLDEN = TESTS / "golden"
LONGEST_LINE = 2_000
"""Characters of an error at most: what was typed is not echoed whole."""
TORCHS_OWN = ("Error(s) in loading state_dict", "is not on the expected device", "at start of device string")
"""Words of the errors that users of torch know: states that do not fit, tensors on several devices, unknown devices."""
MOST_MEMORY = 3 << 30
"""Bytes by which one call may grow the process."""


@dataclass
class Report:
    """What a script found: how many attempts, and every broken promise with what to type to see it again."""

    name: str
    tried: int = 0
    violations: list[tuple[str, str, str]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, owner: str, what: str, again: str) -> None:
        """A broken promise: whose code it is, what happened, how to see it again."""
        self.violations.append((owner, what, again))
        print(f"[{owner}] {what}\n    {again}", flush=True)

    def summary(self) -> str:
        """One line."""
        notes = "".join(f", {count} {what}" for what, count in sorted(self.notes.items()))
        return f"{self.name}: {self.tried:,} tried, {len(self.violations)} violations{notes}"

    def kinds(self) -> str:
        """The violations by owner and kind, a line each."""
        kinds = Counter((owner, re.sub(r"[0-9]+", "#", what)[:110]) for owner, what, _ in self.violations)
        return "\n".join(f"{count:>5}  [{owner}] {what}" for (owner, what), count in sorted(kinds.items()))


def run_as_script(name: str, torment: Callable[..., None], count: int, argv: Sequence[str] | None = None) -> int:
    """The command line of a script: `--count N --seed S`; prints a summary line, exits with 1 for a violation."""
    parser = argparse.ArgumentParser(description=torment.__doc__)
    parser.add_argument("--count", type=int, default=count, metavar="N", help=f"attempts (default: {count:,})")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything random (default: 0)")
    args = parser.parse_args(argv)
    report = Report(name)
    torment(report, args.count, args.seed)
    if report.violations:
        print(report.kinds())
    print(report.summary())
    return 1 if report.violations else 0


# The sandbox


@dataclass(frozen=True)
class Box:
    """A folder to do anything in. `place` is the working directory of calls; `tmp` and `outside` lie beside it."""

    root: Path

    @property
    def place(self) -> Path:
        """Where calls run."""
        return self.root / "box"

    @property
    def tmp(self) -> Path:
        """For temporary files of calls: must be empty after each."""
        return self.root / "tmp"

    @property
    def outside(self) -> Path:
        """A folder that no call is asked to write in."""
        return self.root / "outside"

    def see(self) -> dict[str, tuple[int, int, int]]:
        """Every file and folder with what tells a change of it."""
        found = {}
        pending = [self.root]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.name == "cache" and Path(entry.path).parent == self.root:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    folder = entry.is_dir(follow_symlinks=False)
                    changed = (0, 0) if folder else (status.st_size, status.st_mtime_ns)
                    found[os.path.relpath(entry.path, self.root)] = (status.st_mode, *changed)
                    if folder:
                        pending.append(Path(entry.path))
        return found


@contextmanager
def open_box(fill: Callable[[Path], None] | None = None):
    """A sandbox for as long as the block lasts; `fill` puts things into its working folder."""
    with tempfile.TemporaryDirectory(prefix="tablefold-adversary-") as root:
        box = Box(Path(root))
        for folder in (box.place, box.tmp, box.outside):
            folder.mkdir()
        if fill is not None:
            fill(box.place)
        yield box


def changes(before: dict[str, Any], after: dict[str, Any], allowed: Sequence[str] = ()) -> list[str]:
    """What was made, removed or changed, but for the paths `allowed` (relative to the box's root) and below."""
    found = []
    for path in sorted({*before, *after}):
        if before.get(path) == after.get(path) or any(path == one or path.startswith(f"{one}/") for one in allowed):
            continue
        verb = "made" if path not in before else "removed" if path not in after else "changed"
        found.append(f"{verb} {path}")
    return found


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def golden_box(place: Path) -> None:
    """Data, runs, a study and raw files of release 0.1, laid out so that their relative paths hold."""
    for name in ("data", "raw", "lookup", "study"):
        shutil.copytree(GOLDEN / name, place / name)
    shutil.copy(GOLDEN / "study.toml", place / "study.toml")
    for run, data in (("qr-fp32", "shop"), ("robe-int8", "shop"), ("criteo", "criteo")):
        shutil.copytree(GOLDEN / "runs" / run, place / "runs" / run)
        shutil.copytree(GOLDEN / "encoders" / data, place / "runs" / run / "encoder")


# Judging


def misbehaviour(result: dict[str, Any], *, expect: str = "refused") -> str:
    """How a command broke its promise; empty if it kept it.

    Args:
        result: what a worker gave.
        expect: "refused" (exit code 1 or 2, one line on stderr), "either" (that, or success), "done" (success).
    """
    if hurt := _hurt(result):
        return hurt
    error = result["err"]
    if "Traceback" in error or "panicked" in error:
        return f"traceback on stderr: {_last_line(error)}"
    if result["code"] == 0:
        return "accepted" if expect == "refused" else ""
    if expect == "done":
        return f"refused: {_last_line(error)}"
    if result["code"] not in (1, 2):
        return f"exit code {result['code']}: {_last_line(error)}"
    return bad_line(error)


def bad_line(error: str) -> str:
    """What is wrong with a refusal as an error message; empty if nothing."""
    lines = error.rstrip("\n").split("\n")
    if len(lines) != 1 or not lines[0].strip():
        if not error.strip():
            return "no line on stderr"
        return f"{len(lines)} lines on stderr: {lines[0][:200]!r} to {_last_line(error)}"
    if len(lines[0]) > LONGEST_LINE:
        return f"a line of {len(lines[0])} characters: {lines[0][:80]}"
    if not lines[0].isprintable():
        return f"control characters on the terminal: {lines[0][:300]!r}"
    return ""


def names_a_file(error: str) -> bool:
    """Whether a refusal says which file is meant."""
    return bool(re.search(r"\.(json|jsonl|toml|parquet|arrow|safetensors|csv|txt)\b", error))


def bad_exception(result: dict[str, Any]) -> str:
    """How a library call broke its promise of a `ValueError` or `TypeError` in one line; empty if it kept it."""
    if hurt := _hurt(result, exceptions=False):
        return hurt
    if result["error"] is None:
        return "accepted"
    kind, text = result["error"]["kind"], result["error"]["text"]
    if kind == "RuntimeError" and any(words in text for words in TORCHS_OWN):
        return ""
    if not set(result["error"]["kinds"]) & {"ValueError", "TypeError"}:
        return f"{kind}: {' '.join(text.split())[:200]}"
    if "\n" in text.strip() or not text.strip():
        return f"{kind} of {len(text.splitlines())} lines: {' '.join(text.split())[:200]}"
    return f"{kind} of {len(text)} characters" if len(text) > LONGEST_LINE else ""


def _hurt(result: dict[str, Any], exceptions: bool = True) -> str:
    if "died" in result:
        return f"the process died ({result['died']}): {_last_line(result.get('err', ''))}"
    if "hung" in result:
        return f"no answer after {result['hung']:.0f} s"
    if exceptions and result["error"] is not None:
        return f"traceback: {result['error']['kind']}: {' '.join(result['error']['text'].split())[:200]}"
    if result["grown"] > MOST_MEMORY:
        return f"took {result['grown'] / 1e9:.1f} GB of memory"
    if result["wrote"]:
        return f"wrote outside the sandbox: {result['wrote'][0]}"
    return ""


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return repr(lines[-1][:200]) if lines else "''"


# Workers


class Worker:
    """A process that makes calls in a sandbox, one after the other; started at the first, replaced when it dies.

    Args:
        box: where calls run.
        patience: seconds after which a call is taken to hang.
    """

    def __init__(self, box: Box, patience: float = 60.0) -> None:
        self.box, self.patience = box, patience
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cli(self, *argv: str) -> dict[str, Any]:
        """Run the command line in the worker."""
        return self._ask({"kind": "cli", "argv": list(argv)})

    def code(self, code: str, prelude: str = "") -> dict[str, Any]:
        """Run Python code, after `prelude`, which is run once per worker and whose errors are ours."""
        return self._ask({"kind": "code", "code": code, "prelude": prelude})

    def call(self, function: str, *arguments: Any) -> dict[str, Any]:
        """Call `module:function` of this folder with JSON arguments; what it returns is under "value"."""
        return self._ask({"kind": "call", "function": function, "arguments": list(arguments)})

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            os.close(self._ask_end)
            os.close(self._answer_end)
            self._process.kill()
            self._process.wait()
            self._process = None
            self._output.close()

    def _start(self) -> None:
        worker_reads, self._ask_end = os.pipe()
        self._answer_end, worker_writes = os.pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(worker_reads), str(worker_writes), str(self.box.root)],
            cwd=self.box.place,
            env=environment(self.box),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=(worker_reads, worker_writes),
        )
        os.close(worker_reads)
        os.close(worker_writes)
        self._pending = b""

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._start()
            self._answer(300)  # it is ready: everything heavy is imported
        os.write(self._ask_end, json.dumps(job).encode() + b"\n")
        return self._answer(self.patience)

    def _answer(self, patience: float) -> dict[str, Any]:
        """The worker's next line; where none comes the process is ended."""
        assert self._process is not None
        end = time.monotonic() + patience
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._answer_end], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._answer_end, 1 << 20) if ready else b""
            if not data:
                return self._bury(patience, hung=not ready)
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return dict(json.loads(line))

    def _bury(self, patience: float, *, hung: bool) -> dict[str, Any]:
        process = self._process
        assert process is not None
        if not hung:
            process.wait()
        status = process.returncode
        self._output.seek(0)
        text = self._output.read().decode(errors="replace")
        self.stop()
        if hung:
            return {"hung": patience, "err": text}
        name = signal.Signals(-status).name if status and status < 0 else f"exit code {status}"
        return {"died": name, "err": text}


def environment(box: Box) -> dict[str, str]:
    """Of calls: the tests' own, with a temporary folder of the sandbox."""
    wanted = {"TMPDIR": str(box.tmp), "TORCHINDUCTOR_CACHE_DIR": str(box.root / "cache")}
    wanted |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    paths = [str(TESTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    source = str(Path(importlib.import_module("tablefold").__file__ or "").parents[1])
    return {**os.environ, **wanted, "PYTHONPATH": os.pathsep.join([source, *filter(None, paths)])}


def in_a_process(box: Box, argv: Sequence[str], patience: float = 120.0, **options: Any) -> dict[str, Any]:
    """Run the command line in a process of its own; a result as a worker gives."""
    command = [sys.executable, "-m", "tablefold", *argv]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    try:
        done = subprocess.run(command, cwd=box.place, env=environment(box), timeout=patience, check=False, **options)
    except subprocess.TimeoutExpired:
        return {"hung": patience, "err": ""}
    error = (done.stderr or b"").decode(errors="replace")
    if done.returncode < 0:
        return {"died": signal.Signals(-done.returncode).name, "err": error}
    out = (done.stdout or b"").decode(errors="replace")
    return {"code": done.returncode, "out": out, "err": error, "error": None, "grown": 0, "wrote": []}


def typed(argv: Sequence[str]) -> str:
    """A command line as one would type it, cut where it is long."""
    text = shlex.join(["tablefold", *argv])
    return text if len(text) < 400 else f"{text[:200]} ... {text[-100:]} ({len(text)} characters)"


# Inside the worker


def _serve(asks: int, answers: int, root: str) -> None:
    """Answer jobs until the pipe is closed."""
    for name in ("tablefold.train", "tablefold.cli", "tablefold.data.preparation", "tablefold.study.grid"):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    watch = _Watch(root)
    _limit_memory()
    spaces: dict[str, dict[str, Any]] = {}
    with os.fdopen(asks, "rb") as stream, os.fdopen(answers, "wb") as reply:
        reply.write(b"{}\n")
        reply.flush()
        for line in stream:
            result = _do(json.loads(line), watch, spaces)
            reply.write(json.dumps(result).encode() + b"\n")
            reply.flush()


def _do(job: dict[str, Any], watch: _Watch, spaces: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One job, with all it printed and did."""
    result: dict[str, Any] = {"code": None, "error": None, "value": None}
    before = _most_memory()
    with _caught() as texts, watch:
        try:
            if job["kind"] == "cli":
                result["code"] = importlib.import_module("tablefold.cli").main(job["argv"])
            elif job["kind"] == "code":
                _execute(job["code"], job["prelude"], spaces)
            else:
                module, _, name = job["function"].partition(":")
                result["value"] = getattr(importlib.import_module(f"adversary.{module}"), name)(*job["arguments"])
        except BaseException as error:
            result["error"] = {
                "kind": type(error).__name__,
                "kinds": [kind.__name__ for kind in type(error).__mro__],
                "text": str(error),
                "trace": "".join(traceback.format_exception(error)[-3:]),
            }
    return {**result, **texts, "grown": _most_memory() - before, "wrote": watch.found}


def _execute(code: str, prelude: str, spaces: dict[str, dict[str, Any]]) -> None:
    if prelude not in spaces:
        spaces[prelude] = {}
        exec(prelude, spaces[prelude])
    exec(code, dict(spaces[prelude]))


@contextmanager
def _caught():
    """What is written to the file descriptors of stdout and stderr, by whomever."""
    texts: dict[str, str] = {}
    kept = {name: (getattr(sys, name), os.dup(number)) for name, number in (("stdout", 1), ("stderr", 2))}
    with (
        tempfile.TemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as out,
        tempfile.TemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as err,
    ):
        files = {"stdout": out, "stderr": err}
        for number, (name, file) in enumerate(files.items(), start=1):
            os.dup2(file.fileno(), number)
            stream = io.TextIOWrapper(os.fdopen(os.dup(number), "wb"), encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, stream)
        try:
            yield texts
        finally:
            for number, (name, file) in enumerate(files.items(), start=1):
                getattr(sys, name).close()
                setattr(sys, name, kept[name][0])
                os.dup2(kept[name][1], number)
                os.close(kept[name][1])
                file.seek(0)
                texts["out" if name == "stdout" else "err"] = file.read().decode(errors="replace")


class _Watch:
    """Notes what Python opens for writing, makes, renames or removes outside the sandbox while the block runs."""

    EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
    NOT_OURS = re.compile(r"__pycache__|^/dev/|^/proc/|numba|torchinductor|\.pyc$|matplotlib|fontconfig")

    def __init__(self, root: str) -> None:
        self.root, self.on, self.found = os.path.realpath(root), False, list[str]()
        sys.addaudithook(self._hear)

    def __enter__(self) -> None:
        self.on, self.found = True, []

    def __exit__(self, *_: object) -> None:
        self.on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                return
            paths = [path]
        elif event in self.EVENTS:
            paths = list(arguments[:2])
        else:
            return
        for path in paths:
            if isinstance(path, bytes):
                path = os.fsdecode(path)
            if isinstance(path, str):
                self._judge(event, path)

    def _judge(self, event: str, path: str) -> None:
        full = os.path.abspath(path)
        made_before = event == "os.mkdir" and os.path.isdir(full)  # nothing happens then
        if not full.startswith(f"{self.root}/") and not self.NOT_OURS.search(full) and not made_before:
            self.found.append(f"{event} {full}")


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit_memory() -> None:
    """Keep a call from taking the machine: an absurd size ends in `MemoryError`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * MOST_MEMORY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
