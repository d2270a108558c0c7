"""Two trainings into one folder, and one that is killed: nobody waits, nobody is disturbed, nothing lives on."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tablefold.cli import main
from tablefold.train import train_run
from tablefold.train.config import Config
from tablefold.train.progress import Listener

SIZES = ["--dim", "4", "--bottom-mlp", "8", "--top-mlp", "8", "--batch-size", "500", "--eval-every", "5"]


def command(data, out, *options):
    return ["train", str(data), "--out", str(out), *SIZES, "--device", "cpu", "--checkpoint-every", "5", *options]


@pytest.fixture
def training(data, tmp_path):
    """A training of its own, under way, with a checkpoint on disk."""
    arguments = [sys.executable, "-m", "tablefold", *command(data, tmp_path / "run", "--epochs", "100000")]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (line := process.stderr.readline()).startswith("step "):
        assert line.startswith("compiling kernels"), line  # on a machine where nobody has yet
    while not list((tmp_path / "run.checkpoints").glob("step-*")):
        time.sleep(0.01)
    yield process
    process.kill()
    process.communicate(timeout=30)


def test_the_second_is_refused_at_once_and_told_by_whom(training, data, tmp_path, capsys):
    began = time.perf_counter()
    assert main(command(data, tmp_path / "run")) == 2
    assert time.perf_counter() - began < 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'run'} is being written by process {training.pid}" in error
    assert error.count("\n") == 1
    assert training.poll() is None
    assert main(command(data, tmp_path / "other")) == 0


def children_of(process):
    """Ids of all processes whose parent is `process`."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process:
            found.append(int(name))
    return found


def test_a_killed_training_leaves_no_process_and_its_folder_free(training, data, tmp_path):
    assert children_of(training.pid) == []  # it has none that could outlive it
    training.send_signal(signal.SIGKILL)
    training.wait(timeout=30)
    assert (tmp_path / ".run.lock").exists()
    told = []

    class Stop(Listener):
        def on_notice(self, text):
            told.append(text)

        def on_step(self, progress, loss):
            raise KeyboardInterrupt

    sizes = {"bottom_mlp": (8,), "top_mlp": (8,)}
    asked = Config(
        str(data), dim=4, batch_size=500, eval_every=5, device="cpu", epochs=100_000, model_options=sizes, method="full"
    )
    with pytest.raises(KeyboardInterrupt):
        train_run(asked, tmp_path / "run", [Stop()])
    assert "going on at step" in told[0]
    assert {path.name for path in tmp_path.iterdir()} == {"run.checkpoints"}


def test_what_a_killed_writer_of_checkpoints_left_is_removed(data, tmp_path):
    (tmp_path / "run.checkpoints").mkdir()
    (tmp_path / "run.checkpoints" / "writing-123").write_bytes(b"half")
    assert main(command(data, tmp_path / "run")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_two_threads_are_two_writers(data, tmp_path):
    began, go_on = threading.Event(), threading.Event()

    class Wait(Listener):
        def on_step(self, progress, loss):
            began.set()
            go_on.wait(30)

    sizes = {"bottom_mlp": (8,), "top_mlp": (8,)}
    asked = Config(str(data), dim=4, batch_size=3000, device="cpu", model_options=sizes)
    first = threading.Thread(target=train_run, args=(asked, tmp_path / "run", [Wait()]))
    first.start()
    try:
        assert began.wait(30)
        with pytest.raises(ValueError, match=f"is being written by process {os.getpid()}"):
            train_run(asked, tmp_path / "run")
    finally:
        go_on.set()
        first.join(30)
    assert (tmp_path / "run" / "result.json").exists()
