"""Real Criteo lines through the commands: prepare, train folded and full, compare."""

import json

import pytest
from safetensors.torch import load_file

from tablefold.cli import main


@pytest.fixture(scope="module")
def log(data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("criteo") / "log"
    assert main(["prepare", "criteo", str(data_file("criteo_kaggle_sample.txt.gz")), "--out", str(folder)]) == 0
    return folder


def train(log, out, *options):
    """One epoch of DLRM with AMSGrad at lr 1e-3 and batches of 128: the paper's settings."""
    fixed = ["--model", "dlrm", "--optimizer", "amsgrad", "--lr", "1e-3", "--batch-size", "128", "--epochs", "1"]
    assert main(["train", str(log), "--out", str(out), *fixed, *options]) == 0
    return json.loads((out / "result.json").read_text())


@pytest.fixture(scope="module")
def full(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "full"
    return folder, train(log, folder, "--method", "full")


def test_the_full_tables_learn(full):
    assert full[1]["auc"] >= 0.73
    assert full[1]["embedding_bytes"] == full[1]["full_bytes"]
    assert full[1]["normalized_entropy"] < 0.9


@pytest.mark.parametrize(
    ("options", "compression"),
    [
        (["--method", "qr:collisions=4,combine=mul"], 3.9),
        (["--method", "robe:block=16", "--compression", "100"], 100),
    ],
)
def test_folded_tables_stay_close_at_the_promised_bytes(log, full, tmp_path, options, compression):
    result = train(log, tmp_path / "run", *options)
    assert result["auc"] >= full[1]["auc"] - 0.02
    assert result["embedding_bytes"] <= full[1]["full_bytes"] / compression
    weights = load_file(tmp_path / "run" / "model.safetensors")
    held = sum(tensor.nbytes for name, tensor in weights.items() if name.startswith("group.") and "extra" not in name)
    assert held == result["embedding_bytes"]


def test_the_same_command_gives_the_same_bits(log, full, tmp_path, capsys):
    folder, result = full
    again = train(log, tmp_path / "again", "--method", "full")
    assert again["auc"] == result["auc"]
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == {name: result[name] for name in figures}
