"""A study's folder: done once, gone on with, complete whatever happens to a run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tablefold.locks import locked
from tablefold.study.definition import Study
from tablefold.study.grid import run_study
from tablefold.study.loading import load_study
from tablefold.study.pool import Job, run_jobs

ONE = {
    "settings": {"dim": 4, "batch_size": 500, "model_options": {"dlrm": {"bottom_mlp": [4], "top_mlp": [4]}}},
    "grid": [{"method": "hash:collisions=4"}],
}


class Log:
    def __init__(self):
        self.lines = []

    def on_start(self, total, done):
        self.lines.append((total, done))

    def on_progress(self, running):
        assert running >= 0

    def on_run(self, request, output):
        self.lines.append((request.series, request.config.seed, output["status"]))


def test_every_run_is_a_file_in_and_a_file_out(small_study):
    names = {path.name for path in (small_study / "inputs").iterdir()}
    assert names == {path.name for path in (small_study / "outputs").iterdir()}
    assert {path.name for path in small_study.iterdir()} == {"study.json", "inputs", "outputs"}
    study = load_study(small_study)
    assert len(study.runs) == len(names) == 6
    assert [run.status for run in study.runs].count("impossible") == 2
    run = next(run for run in study.runs if run.series == "robe:block=4" and run.status == "done")
    assert run.result["compression"] == pytest.approx(4, rel=0.01)
    assert [look["step"] for look in run.curve] == [2, 4, 6, 8, 10, 12]
    impossible = next(run for run in study.runs if run.status == "impossible")
    assert "robe folds these tables at most" in impossible.error


def test_what_is_done_is_free_and_what_is_lost_is_run_again(small_study, small, data):
    study, log = Study.of(small), Log()
    began = time.perf_counter()
    run_study(study, data, small_study, [log])
    assert log.lines == [(6, 6)]
    assert time.perf_counter() - began < 5
    output = next((small_study / "outputs").glob("robe-block-4-4x*-s1-*.json"))
    before = json.loads(output.read_text())
    output.write_text(output.read_text()[:100])  # a file cut short is no answer
    other = next((small_study / "outputs").glob("full-*-s0-*.json"))
    changed = json.loads(other.read_text())
    other.write_text(json.dumps({**changed, "input_sha256": "another question's"}))
    log = Log()
    run_study(study, data, small_study, [log], processes=2)
    assert log.lines[0] == (6, 4)
    assert sorted(log.lines[1:]) == [("full", 0, "done"), ("robe:block=4", 1, "done")]
    after = json.loads(output.read_text())
    assert after["result"]["auc"] == before["result"]["auc"]
    assert [look["auc"] for look in after["curve"]] == [look["auc"] for look in before["curve"]]


def test_failed_runs_are_told_at_the_end_and_tried_again(data, tmp_path, monkeypatch):
    grid = [{"method": "full", "lr": [1e30, 0.01]}]
    study = Study.of({**ONE, "grid": grid, "settings": {**ONE["settings"], "optimizer": "sgd"}})
    tally = run_study(study, data, tmp_path / "out", processes=2)
    assert tally.done == 1
    ((name, error),) = tally.failed
    assert name.startswith("full-dlrm-sgd")
    assert "lower the lr" in error
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    log = Log()
    assert "signal 9" in run_study(study, data, tmp_path / "out", [log]).failed[0][1]
    assert log.lines == [(2, 1), ("full", 0, "failed")]
    killed.write_text("#!/bin/sh\necho 'No space left' >&2\nexit 3\n")
    assert run_study(study, data, tmp_path / "out").failed[0][1] == "exit code 3: No space left"


@pytest.fixture
def long_study(data, tmp_path):
    """The process of a study that takes hours, and the process of its run under way."""
    settings = "\n".join(["[settings]", "epochs = 100_000", "dim = 4", "[[grid]]", "method = 'full'"])
    (tmp_path / "long.toml").write_text(settings)
    command = [sys.executable, "-m", "tablefold", "study", "run", str(tmp_path / "long.toml"), "--data", str(data)]
    command += ["--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(lambda: _workers_of(process.pid))
        yield process, int(_workers_of(process.pid)[0])
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_stopped_study_ends_its_runs_and_leaves_no_half_answer(tmp_path, long_study):
    process, worker = long_study
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not Path(f"/proc/{worker}").exists()
    assert list((tmp_path / "out" / "outputs").iterdir()) == []
    assert not (tmp_path / "out" / "work").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.toml", "out"]


def test_a_study_that_is_stopped_while_it_starts_a_run_ends_that_run(monkeypatch):
    started = []

    class StoppedWhileItStarts(subprocess.Popen):
        def __init__(self, *_, **options):
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    def stop(*_):
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    monkeypatch.setattr(subprocess, "Popen", StoppedWhileItStarts)
    try:
        with pytest.raises(SystemExit):
            next(run_jobs(iter([Job(None, {}, *[Path("x")] * 4)]), 1, lambda _: None))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [process.returncode for process in started] == [-signal.SIGTERM]


def test_a_second_study_in_a_folder_is_refused_before_it_loads_anything(data, tmp_path):
    code = (
        "import sys; from tablefold.cli import main; code = main(sys.argv[1:]); "
        "heavy = [name for name in ('torch', 'polars', 'numba', 'pyarrow') if name in sys.modules]; "
        "sys.exit(code if not heavy else f'it imported {heavy}')"
    )
    command = [sys.executable, "-c", code, "study", "run", "id-order", "--data", str(data)]
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        again = subprocess.run(
            [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False, timeout=60
        )
    assert (again.returncode, again.stdout) == (2, "")
    assert f"is being written by process {os.getpid()}" in again.stderr
    assert again.stderr.count("\n") == 1


def test_the_run_of_a_killed_study_ends_with_it_and_its_folder_is_free(tmp_path, long_study):
    process, worker = long_study
    with pytest.raises(ValueError, match=f"is being written by process {process.pid}"), locked(tmp_path / "out"):
        pass
    process.kill()
    process.wait(timeout=60)
    _wait_for(lambda: "\nState:\tZ" in _status(worker), seconds=20)
    with locked(tmp_path / "out"):
        assert list((tmp_path / "out" / "outputs").iterdir()) == []


def test_what_a_killed_study_was_writing_is_cleared_by_the_next(data, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [
        f"inputs/.a.json.{dead.pid}",
        f"outputs/.a.json.{os.getpid()}",
        f".study.json.{dead.pid}",
        "models/.v.ab12_z9y/x",
    ]
    kept = [f"outputs/.b.json.{os.getppid()}", f".mine.{dead.pid}", "data/.git/x"]
    for name in (*left, *kept):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("")
    run_study(Study.of(ONE), data, tmp_path / "empty")
    for name in ("study.json", "inputs", "outputs"):
        source = tmp_path / "empty" / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / "out" / name, dirs_exist_ok=True)
        else:
            shutil.copy(source, tmp_path / "out" / name)
    run_study(Study.of(ONE), data, tmp_path / "out")
    there = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob(".*")}
    assert there == {*kept[:2], "data/.git"}


def _status(process):
    try:
        return Path(f"/proc/{process}/status").read_text()
    except OSError:
        return "\nState:\tZ"


def _workers_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["mine.txt", "work/mine.txt", "data/mine.txt", "inputs/mine.txt", "study.json"])
@pytest.mark.parametrize("content", ["keep", '{"runs": 3}', '{"runs": [], "data": {"rows": 5}}'])
def test_a_folder_of_something_else_is_left_alone(data, tmp_path, name, content):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    with pytest.raises(ValueError, match=r"that is no study|is no study's"):
        run_study(Study.of(ONE), data, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == content
    with pytest.raises(ValueError, match="is a file"):
        run_study(Study.of(ONE), data, file)


@pytest.mark.parametrize("processes", [0, 100_000])
def test_an_absurd_number_of_runs_at_a_time_is_refused(data, tmp_path, processes):
    with pytest.raises(ValueError, match=rf"processes={processes} must lie in 1 .. \d+"):
        run_study(Study.of(ONE), data, tmp_path / "out", processes=processes)
    assert list(tmp_path.iterdir()) == []
