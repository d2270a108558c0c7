"""SIGKILL at random moments of `prepare`, `train --checkpoint-every` and `study run`: the job goes on all the same.

    python tests/adversary/kills.py --count 60 --seed 0

Promised: whatever is under its final name is whole; the same command goes on and ends with the same bits; then nothing
else lies beside the result; no process is left over, minutes after its parent was killed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adversary import harness
from adversary.harness import Box, Report, typed

MARK = "TABLEFOLD_ADVERSARY_MARK"
GRACE = 15.0
"""Seconds in which the children of a killed process must end."""
TIMES = {"seconds", "samples_per_second", "total_seconds", "peak_rss_bytes", "first_step", "commit"}
"""What a figure may differ in from run to run."""


@dataclass(frozen=True)
class Job:
    """A command to kill.

    Args:
        owner: whose code it is.
        argv: writes `out`.
        out: the folder that it writes.
        content: all that must be the same in the end, of the finished folder.
        half: what is wrong with what lies under its final name, at any moment; empty if nothing.
    """

    owner: str
    argv: tuple[str, ...]
    out: str
    content: Callable[[Path], Any]
    half: Callable[[Path, Any], str]


def torment(report: Report, count: int, seed: int) -> None:
    """Kill each job in turn, up to three times before it may end, until there were `count` kills."""
    chance = random.Random(seed)
    with harness.open_box(fill if count > 6 else fill_small) as box:
        whole = {}
        jobs = JOBS if count > 6 else [job for job in JOBS if job.owner == "data"][:1]
        for job in jobs:
            began = time.monotonic()
            assert _run(box, job).wait() == 0, typed(job.argv)
            whole[job] = (time.monotonic() - began, job.content(box.place / job.out))
            harness.remove(box.place / job.out)
        while report.tried < count:
            for job in jobs:
                kills = min(chance.choice((1, 1, 2, 3)), count - report.tried)
                if kills:
                    _torment_one(report, box, job, chance, kills, *whole[job])


def _torment_one(
    report: Report, box: Box, job: Job, chance: random.Random, kills: int, seconds: float, whole: Any
) -> None:
    """Kill a job so many times, then let it end."""
    before, told = set(os.listdir(box.place)), []
    out = box.place / job.out
    for _ in range(kills):
        how, killed = _kill(box, job, chance, seconds)
        if not killed:
            break
        report.tried += 1
        told.append(how)
        again = f"{typed(job.argv)}, killed {', then '.join(told)}"
        if left := _left_over(box):
            report.add(job.owner, f"processes left over: {left}", again)
        if out.exists() and (wrong := job.half(out, whole)):
            report.add(job.owner, f"half written under its final name: {wrong}", again)
    again = f"{typed(job.argv)}, killed {', then '.join(told) or 'never'}"
    done = not killed or _finished(box, job, before, whole)
    process = None if done else _run(box, job, stderr=subprocess.PIPE)
    error = process.communicate(timeout=600)[1].decode(errors="replace") if process else ""
    if process and process.returncode != 0:
        report.add(job.owner, f"did not go on: exit code {process.returncode}, {error[-300:]!r}", again)
    elif (found := job.content(out)) != whole:
        report.add(job.owner, f"ended otherwise: {_first_difference(found, whole)}", again)
    _look_around(report, box, job, before, again)


def _finished(box: Box, job: Job, before: set[str], whole: Any) -> bool:
    """Whether the job had nothing left to do when it was killed: all is there, and nothing to clear up."""
    if not (box.place / job.out).is_dir() or set(os.listdir(box.place)) - before != {job.out}:
        return False
    try:
        return not job.half(box.place / job.out, whole) and job.content(box.place / job.out) == whole
    except (ValueError, OSError):  # a file that is not there yet, or is written anew by every start
        return False


def _look_around(report: Report, box: Box, job: Job, before: set[str], again: str) -> None:
    """Nothing lies beside the result of a finished job, and nothing half written in it; clears it all."""
    beside = sorted(set(os.listdir(box.place)) - before - {job.out})
    hidden = [path for path in (box.place / job.out).rglob(".*") if path.name != ".lock"]  # which a study keeps
    inside = sorted(str(path.relative_to(box.place)) for path in hidden)
    if beside or inside:
        report.add(job.owner, f"left beside the result: {', '.join([*beside, *inside][:5])}", again)
    for path in box.tmp.iterdir():
        report.notes["temporary files left by the killed"] += 1
        harness.remove(path)
    for name in (job.out, *beside):
        harness.remove(box.place / name)


def _kill(box: Box, job: Job, chance: random.Random, seconds: float) -> tuple[str, bool]:
    """Start the job and kill it: after a random time, or at a random change of what lies in the folder."""
    process = _run(box, job)
    at_change = chance.randrange(1, 60) if chance.random() < 0.6 else 0
    moment = seconds * 1.2 if at_change else seconds * chance.uniform(0.1, 1.0)
    began, changed, seen = time.monotonic(), 0, _names(box.place)
    while process.poll() is None:
        if at_change and (now := _names(box.place)) != seen:
            seen, changed = now, changed + 1
        if (at_change and changed >= at_change) or time.monotonic() - began > moment:
            process.kill()
            process.wait()
            how = f"at change {changed}" if at_change and changed >= at_change else ""
            return how or f"after {time.monotonic() - began:.2f} s", True
        time.sleep(0.0005)
    return "", False


def _run(box: Box, job: Job, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """The job as a process of its own, marked so that its children can be told."""
    environment = {**harness.environment(box), MARK: _mark(box)}
    command = [sys.executable, "-m", "tablefold", *job.argv]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=box.place, env=environment, stderr=stderr, **quiet)


def _mark(box: Box) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, str(box.root)))


def _left_over(box: Box) -> str:
    """The command lines of processes that the box's jobs have left; waits for them, and ends them."""
    end = time.monotonic() + GRACE
    while (found := _marked(box)) and time.monotonic() < end:
        time.sleep(0.1)
    texts = []
    for process in found:
        try:
            texts.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[-120:])
            os.kill(int(process.name), 9)
        except OSError:
            continue
    return "; ".join(texts)


def _marked(box: Box) -> list[Path]:
    needle = f"{MARK}={_mark(box)}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if needle in (process / "environ").read_bytes() and b"Z" not in _state(process):
                    found.append(process)
            except OSError:
                continue
    return found


def _state(process: Path) -> bytes:
    return (process / "stat").read_bytes().rpartition(b")")[2].split()[0]


def _names(place: Path) -> frozenset[str]:
    """The names of what lies in a folder, some levels deep; what vanishes meanwhile is passed over."""
    found = set()
    pending = [(place, 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            for entry in os.scandir(folder):
                found.add(entry.path)
                if depth < 3 and entry.name not in ("data", "raw", "runs", "lookup") and entry.is_dir():
                    pending.append((Path(entry.path), depth + 1))
        except OSError:
            continue
    return frozenset(found)


# What must be the same


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _dataset_half(folder: Path, whole: dict[str, bytes]) -> str:
    return "" if _tree(folder) == whole else f"{sorted(_tree(folder))[:5]} and so on"


def _run_content(folder: Path) -> Any:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    kept = _tree(folder)
    return (
        [_timeless(line) for line in lines],
        _timeless(result),
        {name: kept[name] for name in kept if name not in ("metrics.jsonl", "result.json")},
    )


def _run_half(folder: Path, whole: Any) -> str:
    names = {path.name for path in folder.iterdir()}
    return "" if names >= {"config.json", "metrics.jsonl", "model.safetensors", "result.json"} else f"{sorted(names)}"


def _study_content(folder: Path) -> Any:
    return {
        str(path.relative_to(folder)): _timeless(json.loads(path.read_text(encoding="utf-8")))
        for path in folder.rglob("*.json")
    }


def _study_half(folder: Path, whole: Any) -> str:
    for path in folder.rglob("[!.]*.json"):
        if "work" in path.relative_to(folder).parts[:1] or path.parent.name == "inputs":
            continue  # of runs under way; written anew by every start
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            return f"{path.name}: {error}"
    return ""


def _timeless(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _first_difference(found: Any, whole: Any) -> str:
    if isinstance(found, dict) and isinstance(whole, dict):
        for key in sorted({*found, *whole}):
            if found.get(key) != whole.get(key):
                return f"{key}: {_first_difference(found.get(key), whole.get(key))}"
    if isinstance(found, (list, tuple)) and len(found) == len(whole):
        return next(_first_difference(a, b) for a, b in zip(found, whole, strict=True) if a != b)
    return f"{str(found)[:100]} instead of {str(whole)[:100]}"


STUDY = """
title = "Killed"
[settings]
dim = 4
epochs = 3
batch_size = 60
seed = [0, 1]
model_options.dlrm.bottom_mlp = [4]
model_options.dlrm.top_mlp = [6]
[[grid]]
method = ["full", "robe:block=4,floats=300"]
[[grid]]
method = "hash"
compression = 1e6
"""

_SMALL = ("--dim", "4", "--bottom-mlp", "4", "--top-mlp", "6", "--device", "cpu", "--seed", "5")
_TRAIN = ("train", "data/shop", *_SMALL, "--epochs", "150", "--eval-every", "100", "--checkpoint-every", "40")
JOBS = (
    Job("data", ("prepare", "criteo", "log.txt", "--out", "new"), "new", _tree, _dataset_half),
    Job("runs", (*_TRAIN, "--method", "robe:block=4,floats=300", "--out", "run"), "run", _run_content, _run_half),
    Job("data", ("prepare", "criteo", "log.txt", "--out", "hashed", "--ids", "hash"), "hashed", _tree, _dataset_half),
    Job("data", ("prepare", "criteo", "log.txt", "--out", "two", "--workers", "2"), "two", _tree, _dataset_half),
    Job("runs", (*_TRAIN, "--storage", "int8", "--method", "qr", "--out", "few"), "few", _run_content, _run_half),
    Job(
        *("study", ("study", "run", "killed.toml", "--data", "data/shop", "--out", "grid", "--processes", "2")),
        *("grid", _study_content, _study_half),
    ),
)


def fill(place: Path, rows: int = 130_000) -> None:
    """Golden data, and a log of some shards."""
    from tablefold.data.synthetic import Synthetic, generate

    harness.golden_box(place)
    generate(Synthetic(rows), place / "log.txt")
    (place / "killed.toml").write_text(STUDY, encoding="utf-8")


def fill_small(place: Path) -> None:
    """The same with a short log."""
    fill(place, rows=3_000)


if __name__ == "__main__":
    sys.exit(harness.run_as_script("kills", torment, 60))
