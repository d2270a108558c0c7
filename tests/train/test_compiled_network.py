"""Training with a compiled network equals training without; where nothing can compile it, the error says so."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tablefold import Hash
from tablefold.data import Dataset
from tablefold.models import build_model
from tablefold.train.loop import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler has its own


def model_of(data, form):
    schema = Dataset(data).schema
    group = Hash(collisions=2).build(schema.table_specs(8), seed=0)
    group.sparse = form == "rows"
    return build_model("dlrm", group, len(schema.dense), bottom_mlp=(16,), top_mlp=(16,), seed=0)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_compiled_training_equals_eager_training(data, form):
    train = Dataset(data).part("train")
    models = []
    for compile_it in (False, True):
        model = model_of(data, form)
        trainer = Trainer(model, "adagrad", 0.05, compile=compile_it)
        batches = [batch for batch, _ in zip(train.batches(200, seed=0, epoch=0), range(5), strict=False)]
        batches.append(type(batches[0])(*(tensor[:77] for tensor in batches[0])))  # as the last of an epoch
        losses = [trainer.step(batch) for batch in batches]
        assert losses[-1] < losses[0]
        models.append(model.state_dict())
    eager, fast = models
    assert eager.keys() == fast.keys()
    for name, value in eager.items():
        torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_one_line_says_so(data, tmp_path):
    command = [sys.executable, "-m", "tablefold", "train", str(data), "--compile", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "No working C++ compiler found" in done.stderr
    assert "train without --compile" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
