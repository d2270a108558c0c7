"""The examples run as printed and learn what a plain loop learns."""

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from tablefold import parse
from tablefold.data import Dataset
from tablefold.models import build_model
from tablefold.optim import Adagrad
from tablefold.train import Trainer

EXAMPLES = Path(__file__).parents[2] / "examples"
BESIDE = Path(sys.executable).parent
IN_TWO = {
    "with_fabric.py": [BESIDE / "fabric", "run", "--accelerator", "cpu", "--strategy", "ddp", "--devices", "2"],
    "with_accelerate.py": [BESIDE / "torchrun", "--standalone", "--nproc-per-node", "2"],
}
"""How an example is started in two processes."""


def auc(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    (found,) = re.findall(r"test AUC (0\.\d+)", done.stdout)
    return float(found)


def plain_loop(data, batch_size, steps):
    """The AUC of the same training without any of them."""
    dataset = Dataset(data)
    group = parse("robe:block=16,floats=4000").build(dataset.schema.table_specs(16), seed=0)
    model = build_model("dlrm", group, len(dataset.schema.dense), seed=0)
    optimizer = Adagrad(model.parameters(), lr=0.02)
    for batch in islice(dataset.part("train").batches(batch_size, seed=0), steps):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(batch.dense, batch.ids), batch.label).backward()
        optimizer.step()
    figure = Trainer(model, device="cpu").evaluate(dataset.part("test")).auc
    assert figure > 0.6
    return figure


@pytest.fixture(params=IN_TWO)
def example(request):
    return EXAMPLES / request.param


def test_an_example_learns_what_a_plain_loop_learns(data, example):
    assert auc(sys.executable, example, data) == pytest.approx(plain_loop(data, 128, None), abs=1e-3)


@pytest.mark.slow
def test_two_processes_learn_from_batches_twice_as_large(data, example):
    """6,000 rows are 23 batches of 128 for each, and a rest that is left out."""
    assert auc(*IN_TWO[example.name], example, data) == pytest.approx(plain_loop(data, 256, 23), abs=1e-3)


@pytest.mark.parametrize("name", ["with_torch.py", "with_trainer.py"])
def test_a_model_of_ones_own_is_folded_and_learns(data, name):
    assert auc(sys.executable, EXAMPLES / name, data) > 0.6


def test_every_example_is_tested():
    elsewhere = {"onnx_scores.py", "with_torch.py", "with_trainer.py"}  # tests/exporting/test_export_run.py, and above
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(IN_TWO) | elsewhere
