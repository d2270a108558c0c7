"""Several processes train the model that one would have trained."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from tablefold.cli import main
from tablefold.train.world import World

# one thread each, and a group that gives up on a dead member at once
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


# float32: in few bits, a weight that rounding has moved past a level is read as the next one
SIZE = ("--method", "robe:block=4", "--compression", "4", "--storage", "fp32")

STOPPED = """
import os, sys
from tablefold.cli import main
from tablefold import train

class Stop(train.Listener):
    def on_rest(self, progress):
        if progress.step == {step}:
            os._exit(9)

train_run = train.train_run
train.train_run = lambda config, out, listeners, **options: train_run(config, out, [*listeners, Stop()], **options)
sys.exit(main({arguments}))
"""


EXCHANGE = """
import torch
from tablefold.train.metrics import Meter
from tablefold.train.world import World

world = World.join(torch.device("cpu"))
dense, sparse = torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(6, 2))
dense.grad = torch.full((3, 2), float(world.rank))
rows = [[0, 2], [2, 3, 5]][world.rank]  # one row in common, and not equally many
values = torch.ones(len(rows), 2) * (world.rank + 1)
sparse.grad = torch.sparse_coo_tensor(torch.tensor([rows]), values, (6, 2))
world.average_gradients([dense, sparse, torch.nn.Parameter(torch.zeros(1))])
assert torch.equal(dense.grad, torch.full((3, 2), 0.5))
assert sparse.grad.is_sparse
assert torch.equal(sparse.grad.to_dense()[:, 0], torch.tensor([0.5, 0, 1.5, 1, 0, 1]))
meter = Meter()
meter.update(torch.tensor([1.0 - 3 * world.rank]), torch.tensor([1.0 - world.rank]))
assert world.merge(meter).compute().auc == 1
assert world.mean(float(world.rank)) == 0.5
world.leave()
"""


def python(processes):
    """The start of a command line: Python in so many processes that know each other."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--no-python"]
    return [sys.executable, *(launcher if processes > 1 else []), *([sys.executable] if processes > 1 else [])]


def command(data, out, processes, *options):
    sizes = ["--dim", "8", "--bottom-mlp", "8", "--top-mlp", "16", "--lr", "0.01", "--device", "cpu"]
    verb = ["-m", "tablefold", "train", str(data), "--out", str(out), "--batch-size", "500", "--epochs", "2"]
    return [*python(processes), *verb, *sizes, *options]


def train(data, out, processes, *options):
    if processes == 1:
        arguments = command(data, out, 1, *options)
        assert main(arguments[arguments.index("tablefold") + 1 :]) == 0
        printed = ""
    else:
        done = subprocess.run(
            command(data, out, processes, *options),
            capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    return printed, json.loads((out / "result.json").read_text()), load_file(out / "model.safetensors")


def assert_same_training(one, two):
    result, weights = one[1:]
    again, others = two[1:]
    assert again["iterations"] == result["iterations"]
    for figure in ("auc", "logloss", "calibration_error"):
        assert again[figure] == pytest.approx(result[figure], abs=2e-5)
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-4, atol=1e-5)


def records(run):
    """The validation log loss by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["logloss"] for line in lines}


def test_gradients_dense_and_sparse_are_averaged():
    done = subprocess.run(
        [*python(2), "-c", EXCHANGE],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_two_processes_train_as_one(data, tmp_path):
    options = (*SIZE, "--eval-every", "5", "--optimizer", "adagrad")
    one = train(data, tmp_path / "one", 1, *options)
    two = train(data, tmp_path / "two", 2, *options)
    assert (one[1]["processes"], two[1]["processes"]) == (1, 2)
    assert_same_training(one, two)
    assert two[0].count("auc") == 1  # the first process alone reports
    assert records(tmp_path / "two") == pytest.approx(records(tmp_path / "one"), abs=2e-5)


def stopped(data, out, processes, step, *options):
    """Train, the first process leaving without a word after `step` steps."""
    arguments = command(data, out, 1, *options)[3:]
    done = subprocess.run(
        [*python(processes), "-c", STOPPED.format(step=step, arguments=arguments)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert not out.exists()


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on(data, tmp_path, first, then):
    options = (*SIZE, "--eval-every", "5", "--optimizer", "adagrad", "--checkpoint-every", "4")
    whole = train(data, tmp_path / "whole", 1, *options)
    broken = tmp_path / "broken"
    stopped(data, broken, first, 15, *options)
    assert [path.name[:17] for path in sorted(tmp_path.glob("broken.checkpoints/*"))] == [
        "step-000000000008", "step-000000000012",
    ]  # fmt: skip
    gone_on = train(data, broken, then, *options)
    assert gone_on[1]["processes"] == then
    assert_same_training(whole, gone_on)
    assert records(broken) == pytest.approx(records(tmp_path / "whole"), abs=2e-5)
    assert not list(tmp_path.glob("broken.checkpoints"))


@pytest.mark.slow
def test_a_killed_process_ends_the_training_and_another_number_goes_on(data, tmp_path):
    # sgd: rounding alone parts sixty epochs of one and two processes by 2e-7, those of Adagrad by 3e-3
    options = ("--epochs", "60", "--eval-every", "20", "--checkpoint-every", "5", "--optimizer", "sgd", "--lr", "0.1")
    whole = train(data, tmp_path / "whole", 1, *options)
    broken = tmp_path / "broken"
    process = subprocess.Popen(
        command(data, broken, 2, *options), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )  # fmt: skip
    while not list(tmp_path.glob("broken.checkpoints/step-*")):
        time.sleep(0.05)
    victims = subprocess.run(["pgrep", "-f", f"tablefold train .*{broken}"], capture_output=True, text=True, check=True)
    children = [int(pid) for pid in victims.stdout.split() if int(pid) != process.pid]
    os.kill(children[-1], signal.SIGKILL)
    told = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "another process of this training has died" in told or "SIGTERM" in told
    assert not broken.exists()
    assert_same_training(whole, train(data, broken, 1, *options))


def test_a_batch_that_cannot_be_shared_is_refused():
    assert World(size=4).share(500) == 125
    with pytest.raises(ValueError, match="batch_size=500 must be a multiple of the 3 processes"):
        World(size=3).share(500)


def test_alone_nothing_is_sent():
    world = World.join(torch.device("cpu"))
    assert world == World(0, 1)
    assert world.leads
    assert world.gather("x") == ["x"]
    assert world.mean(0.5) == 0.5
