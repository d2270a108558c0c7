"""A process that serves a model in few bits holds its bytes, and no float32 of their size."""

import json
import subprocess
import sys

import pytest
import torch

from tablefold.formats import FORMATS
from tablefold.tables import TableSpec
from tablefold.train.config import Config
from tablefold.train.recipe import Recipe
from tablefold.train.run import CONFIG, RESULT, WEIGHTS
from tablefold.train.tensors import save_tensors

SERVE = """
import sys
import torch
from tablefold.train import load_run

def private():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) * 1024

model = load_run(sys.argv[1]).model.eval()
ids = torch.stack([torch.randint(table.rows, (2048,)) for table in model.group.tables], dim=1)
with torch.inference_mode():
    model(torch.zeros(2048, 1), ids)
print(private())
"""


def make_run(folder, rows, storage):
    """A finished run whose memory is random codes: what a training of that size leaves, without one."""
    tables = (TableSpec("user", rows, 16), TableSpec("item", 1000, 16))
    config = Config("log", storage=storage)
    recipe = Recipe(config, config.plan(tables), ("dense",))
    model = recipe.frame()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randint(200, like.shape, generator=generator, dtype=torch.uint8).view(like.dtype)
        if like.is_meta
        else like
        for name, like in model.state_dict().items()
    }
    folder.mkdir()
    save_tensors(folder / WEIGHTS, state, {})
    (folder / CONFIG).write_text(json.dumps(recipe.to_json()))
    (folder / RESULT).write_text("{}")
    return model.group.num_bytes


def served_bytes(folder):
    done = subprocess.run([sys.executable, "-c", SERVE, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["int8", "int4", "int2"])
def test_a_process_holds_the_bytes_that_the_model_promises(tmp_path, storage):
    rows = 500_000_000 // FORMATS[storage].num_bytes(32) * 2  # of 16 floats
    promised = make_run(tmp_path / "large", rows, storage)
    make_run(tmp_path / "small", 1000, storage)
    assert promised >= 500_000_000 - 1000
    held = served_bytes(tmp_path / "large") - served_bytes(tmp_path / "small")
    assert held <= 1.1 * promised
