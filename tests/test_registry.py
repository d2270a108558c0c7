"""Methods, models and formats of other packages, found by their entry points."""

import pytest

from boxes import run
from tablefold.registry import Registry

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from tablefold.formats.codes import Codes
from tablefold.methods.full import Full
from tablefold.models.neumf import NeuMF

@dataclass(frozen=True)
class Mine(Full):
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "full, by another name"

class Other(NeuMF):
    name = "other"

INT4_MEAN = Codes("int4_mean", 4, "mean", 0.42)
"""

ENTRIES = """
[tablefold.methods]
mine = plugin:Mine
broken = plugin_that_is_missing:Broken
liar = plugin:Other
qr = plugin:Mine
[tablefold.models]
other = plugin:Other
[tablefold.formats]
int4_mean = plugin:INT4_MEAN
"""


@pytest.fixture
def installed(tmp_path):
    """A folder with a package that offers some."""
    (tmp_path / "plugin.py").write_text(PLUGIN)
    folder = tmp_path / "plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ENTRIES)
    return tmp_path


def ask(installed, code):
    done = run("-c", f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}")
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_others_are_taken_as_ours(installed):
    code = """
import torch
from tablefold import make_plan, TableSpec, parse
from tablefold.models import build_model
group = make_plan("mine", [TableSpec("user", 100, 16), TableSpec("item", 50, 16)], storage="int4_mean").build()
model = build_model("other", group, 0)
ids = torch.tensor([[3, 4]])
before = model(torch.zeros(1, 0), ids)
group.freeze().eval()
print(group, torch.equal(before, model(torch.zeros(1, 0), ids)))
"""
    printed = ask(installed, code)
    assert "mine, 2 tables" in printed
    assert "in int4_mean" in printed
    assert printed.endswith("True")


def test_nothing_of_another_package_is_imported_unasked(installed):
    assert ask(installed, "from tablefold import parse; parse('qr'); print('plugin' in sys.modules)") == "False"


def test_our_names_are_ours(installed):
    code = "from tablefold import parse; print(type(parse('qr')).__module__, 'plugin' in sys.modules)"
    assert ask(installed, code) == "tablefold.methods.qr False"


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("broken", "method 'broken' of the package 'plugin' cannot be imported (ModuleNotFoundError: No module named"),
        ("liar", "method 'liar' of the package 'plugin' is no method of that name: plugin:Other; mend or remove"),
    ],
)
def test_a_package_that_is_broken_is_named(installed, name, refusal):
    assert refusal in ask(installed, f"from tablefold import parse; parse({name!r})")


def test_a_registry_is_a_mapping():
    registry = Registry("tablefold.methods", "method", lambda value: getattr(value, "name", None) in ("qr", "full"))
    assert sorted(registry) == ["full", "qr"]
    assert len(registry) == 2
    with pytest.raises(KeyError):
        registry["nope"]
