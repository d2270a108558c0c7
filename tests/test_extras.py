"""What is not installed is said in one line; the core does without what it does not need."""

import subprocess
import sys

import pytest

from tablefold.cli import main
from tablefold.extras import MissingExtraError, installed, require

HEAVY = ("polars", "pyarrow", "matplotlib", "pandas", "starlette", "onnx")
CORE = """
import sys
for name in {absent!r}:
    sys.modules[name] = None
import tablefold
assert "torch" not in sys.modules
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Embedding(2000, 16), nn.Flatten(), nn.Linear(16, 1))

model = build()
tablefold.fold(model, compression=20, weights="new")
model(torch.arange(64)).sum().backward()
tablefold.save_pretrained(model, sys.argv[1])
again = tablefold.from_pretrained(sys.argv[1], build())
assert torch.equal(model(torch.arange(64)), again(torch.arange(64)))
tablefold.unfold(model)
tablefold.EmbeddingBag(1000, 16, method="qr", compression=10)
tablefold.make_plan("robe:block=8", [tablefold.TableSpec("user", 1000, 16)], budget=8000).build(seed=0)
print([name for name in {heavy!r} if sys.modules.get(name)])
for use in (lambda: tablefold.ClickModel, lambda: tablefold.Scorer):
    try:
        use()
        print("found")
    except ImportError as error:
        print(error)
"""


@pytest.mark.parametrize("absent", [(), HEAVY])
def test_the_core_folds_a_model_without_what_extras_bring(tmp_path, absent):
    code = CORE.format(absent=absent, heavy=HEAVY)
    command = [sys.executable, "-c", code, str(tmp_path / "folded")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    loaded, *uses = done.stdout.splitlines()
    assert loaded == "[]"
    told = "click logs need polars, pyarrow: pip install 'tablefold[data]'"
    assert uses == ([told] * 2 if absent else ["found"] * 2)


def test_the_command_names_the_extra_in_one_line(tmp_path):
    code = (
        "import sys; sys.modules['polars'] = None; from tablefold.cli import main; "
        "print(main(['methods'])); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "prepare", "criteo", "log.txt", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "tablefold prepare criteo: click logs need polars: pip install 'tablefold[data]'\n"
    assert done.stdout.endswith("0\n")  # what needs no log is there


def test_what_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "polars", None)
    assert installed("numpy")
    assert not installed("numpy", "polars")
    with pytest.raises(MissingExtraError, match=r"^logs need polars: pip install 'tablefold\[data\]'$"):
        require("logs need", "data", "numpy", "polars")
    with pytest.raises(ValueError, match="polars"):  # the user's mistake, as the command line has it
        require("logs need", "data", "polars")
    assert main(["--version"]) == 0
    capsys.readouterr()
