"""Folded models in folders: saved here, loaded in another process, byte for byte."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import tablefold
from folding.toys import DeepFM, look_trained, some_ids
from tablefold import fold, from_pretrained, save_pretrained

pytestmark = pytest.mark.filterwarnings("ignore:.*tune the model")

LOAD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from folding.toys import DeepFM, some_ids
from tablefold import from_pretrained
with torch.device("meta"):
    model = DeepFM()
model = from_pretrained(sys.argv[2], model).eval()
torch.save(model(some_ids()), sys.argv[3])
"""


@pytest.fixture(scope="module", params=["keep", "new", "robe"])
def folded(request):
    model = look_trained(DeepFM()).eval()
    if request.param == "keep":
        return model, fold(model, compression=10)
    return model, fold(model, compression=20, weights="new", method={"new": "auto"}.get(request.param, "robe"))


def test_a_model_is_loaded_in_another_process(folded, tmp_path):
    model, report = folded
    save_pretrained(model, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    network = sum(each.nbytes for each in model.top.parameters())
    assert sum(each.nbytes for each in weights.values()) == report.num_bytes + network
    command = [sys.executable, "-c", LOAD, str(Path(__file__).parents[1]), str(tmp_path / "out"), str(tmp_path / "y")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "y"), model(some_ids()))
    assert "embedding tables in" in (tmp_path / "out" / "README.md").read_text()


def test_a_loaded_model_is_frozen_and_can_be_saved_again(folded, tmp_path):
    model, _ = folded
    save_pretrained(model, tmp_path / "first")
    loaded = from_pretrained(tmp_path / "first", DeepFM().eval())
    assert torch.equal(loaded(some_ids()), model(some_ids()))
    assert loaded.user.group.is_frozen
    assert loaded.same_user is loaded.user
    save_pretrained(loaded, tmp_path / "second")
    for name in ("model.safetensors", "tablefold.json", "README.md"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_drop_ins_of_ones_own_and_tied_weights_are_saved_too(tmp_path):
    def build(full):
        table = nn.Embedding(3000, 8) if full else tablefold.Embedding(3000, 8, method="qr", compression=9, seed=3)
        model = nn.ModuleDict({"table": table, "a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
        model["b"].weight = model["a"].weight
        return model

    model = build(full=False).to(torch.float32)
    save_pretrained(model, tmp_path / "out")
    loaded = from_pretrained(tmp_path / "out", build(full=True))
    assert torch.equal(loaded["table"].weight, model["table"].weight)
    assert torch.equal(loaded["b"].weight, model["a"].weight)
    assert "b.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_what_cannot_be_saved_or_loaded_is_refused(folded, tmp_path):
    model, _ = folded
    with pytest.raises(ValueError, match=r"Linear has no folded table in it: call tablefold\.fold first"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "out")
    save_pretrained(model, tmp_path / "out")
    with pytest.raises(ValueError, match="already holds something"):
        save_pretrained(model, tmp_path / "out")
    with pytest.raises(ValueError, match="must be the name of a table of this ModuleDict"):
        from_pretrained(tmp_path / "out", nn.ModuleDict({"a": nn.Embedding(5, 2)}))
    spec = json.loads((tmp_path / "out" / "tablefold.json").read_text())
    spec["groups"][0]["seed"] = 17
    spec["groups"][0]["addresses"][2] = "5"
    (tmp_path / "out" / "tablefold.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="saved by a group with other addresses"):
        from_pretrained(tmp_path / "out", DeepFM())
    (tmp_path / "out" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"model\.safetensors is missing or damaged"):
        from_pretrained(tmp_path / "out", DeepFM())
