"""A training that was killed goes on, and ends with the same bits as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tablefold.train import train_run
from tablefold.train.config import Config
from tablefold.train.progress import Listener

TIMES = {"seconds", "samples_per_second", "total_seconds", "peak_rss_bytes"}


def config(data, **changes):
    """24 steps: 2 epochs of 12."""
    sizes = {"top_mlp": (16,), "bottom_mlp": (8,)}
    values = {"method": "robe:block=4", "compression": 4, "storage": "fp32", "dim": 8, "batch_size": 500, "epochs": 2}
    return Config(
        str(data), **{**values, "lr": 0.02, "eval_every": 5, "device": "cpu", "model_options": sizes, **changes}
    )


class KilledError(Exception):
    """What a kill is to a test in one process."""


class Killer(Listener):
    """Kills after a step, before anything that follows it; keeps what it was told."""

    def __init__(self, step=None):
        self.step, self.notices, self.first = step, [], None

    def on_start(self, progress, steps):
        self.first = progress.step

    def on_step(self, progress, loss):
        if progress.step == self.step:
            raise KilledError

    def on_notice(self, text):
        self.notices.append(text)


def train(config, out, *, kill_at=(), every=4):
    """Train, killed after the given steps, until it ends; gives the listener of the last attempt."""
    for step in kill_at:
        with pytest.raises(KilledError):
            train_run(config, out, [Killer(step)], checkpoint_every=every)
        assert not out.exists()
    last = Killer()
    train_run(config, out, [last], checkpoint_every=every)
    return last


def content(run):
    """All that a run says, but for times."""
    result = json.loads((run / "result.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in values.items() if k not in TIMES} for values in (result, *lines)]
    return (run / "model.safetensors").read_bytes(), told


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    train_run(config(data), out)
    return content(out)


@pytest.mark.parametrize("kill_at", [(3,), (4,), (5,), (12,), (13,), (20,), (24,), (9, 9, 14, 23)])
def test_a_killed_training_ends_as_if_it_had_not_been(data, unbroken, tmp_path, kill_at):
    last = train(config(data), tmp_path / "run", kill_at=kill_at)
    assert last.first == (kill_at[-1] - 1) // 4 * 4
    assert content(tmp_path / "run") == unbroken
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adagrad"},
        {"optimizer": "sgd", "lr": 0.5},
        {"method": "qr", "model": "dcn", "model_options": {"deep_mlp": (8,)}},
        {"patience": 2, "lr": 0.3, "epochs": 9},
        {"until": "auc=0.7", "epochs": 9},
        {"precision": "bf16"},
    ],
)
def test_whatever_the_training_is(data, tmp_path, changes):
    asked = config(data, **changes)
    train_run(asked, tmp_path / "whole")
    train(asked, tmp_path / "broken", kill_at=(7, 11), every=5)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_a_damaged_checkpoint_is_passed_over(data, unbroken, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train_run(config(data), out, [Killer(18)], checkpoint_every=4)
    older, newest = sorted((tmp_path / "run.checkpoints").iterdir())
    assert ("step-000000000012-" in older.name, "step-000000000016-" in newest.name) == (True, True)
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    last = train(config(data), out)
    assert last.first == 12
    assert last.notices[0] == f"{newest} is damaged; falling back to the one before it"
    assert "going on at step 12" in last.notices[1]
    assert content(out) == unbroken


def test_without_a_good_one_it_starts_anew(data, unbroken, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train_run(config(data), out, [Killer(10)], checkpoint_every=4)
    for path in (tmp_path / "run.checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    last = train(config(data), out)
    assert (last.first, len(last.notices)) == (0, 2)
    assert content(out) == unbroken


def test_checkpoints_of_another_command_are_refused(data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KilledError):
        train_run(config(data), out, [Killer(10)], checkpoint_every=4)
    with pytest.raises(ValueError, match=r"another command \(its batch_size was 500, here it is 250\)"):
        train_run(config(data, batch_size=250), out)
    with pytest.raises(ValueError, match="its seed was 0, here it is 1"):
        train_run(config(data, seed=1), out)
    train_run(config(data, device="auto"), out)  # where it runs is no part of what it is


def test_a_diverged_training_leaves_its_last_good_checkpoint(data, tmp_path):
    asked = config(data, optimizer="sgd", lr=3e4)
    with pytest.raises(ValueError, match=r"loss is|not finite"):
        train_run(asked, tmp_path / "run", checkpoint_every=1)
    kept = list((tmp_path / "run.checkpoints").iterdir())
    assert 1 <= len(kept) <= 2


def killed_by_signal(data, out, kills, rng):
    """Train in a process of its own, killed by SIGKILL at random moments; gives how often it was."""
    sizes = ["--dim", "8", "--bottom-mlp", "8", "--top-mlp", "16", "--batch-size", "50", "--epochs", "2"]
    options = ["--out", str(out), *sizes, "--device", "cpu", "--checkpoint-every", "10", "--eval-every", "25"]
    command = [sys.executable, "-m", "tablefold", "train", str(data), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not kills:
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return 0
    done = 0
    while not (out / "result.json").exists():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        if done < kills:
            line = process.stderr.readline()
            while line and not line.startswith("step "):  # training has begun: from here on at any moment
                line = process.stderr.readline()
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        done += process.returncode == -signal.SIGKILL
    return done


def check_kills(data, tmp_path, kills):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert killed_by_signal(data, whole, 0, random.Random(0)) == 0
    assert killed_by_signal(data, broken, kills, random.Random(1)) >= 1
    assert content(broken) == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


def test_sigkill(data, tmp_path):
    check_kills(data, tmp_path, 1)


@pytest.mark.slow
def test_twenty_sigkills(data, tmp_path):
    check_kills(data, tmp_path, 20)
