"""`tablefold.export`: files that compute what torch computes, published whole or not at all."""

import json
import subprocess
import sys
from zipfile import ZipFile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import tablefold
from tablefold import Embedding, EmbeddingBag, TableSpec, make_plan
from tablefold.exporting import EXPORTERS, find_exporter, publish
from tablefold.models import build_model

pytestmark = pytest.mark.filterwarnings("ignore")
TABLES = [TableSpec(f"C{number}", 2000 + number, 16) for number in range(6)]
MODELS = {
    "full int4": ("full", "int4"),
    "qr int4": ("qr:combine=mul", "int4"),
    "robe": ("robe:block=16,floats=4000", "fp32"),
}


def click_model(name="full int4", model="neumf"):
    spec, storage = MODELS[name]
    group = make_plan(spec, TABLES, storage=storage).build(seed=1)
    return build_model(model, group, 3, seed=1).eval(), group


def batch(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(table.rows, (rows,), generator=generator) for table in TABLES], dim=1)
    return torch.randn(rows, 3, generator=generator), ids


def run(path, *inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_the_same_in_every_file(tmp_path, name):
    model, group = click_model(name)
    for suffix in (".onnx", ".pt2"):
        exported = tablefold.export(model, tmp_path / suffix / f"model{suffix}", batch(4))
        assert exported.difference <= 1e-6
    group.freeze()
    weights = sum(value.nbytes for value in model.state_dict().values())
    path = tmp_path / ".onnx" / "model.onnx"
    for each in (path, tmp_path / ".pt2" / "model.pt2"):
        assert each.stat().st_size <= max(1.1 * weights, weights + 50_000)
    with torch.no_grad():
        for rows in (1, 40):
            inputs = batch(rows, seed=rows)
            np.testing.assert_allclose(run(path, *inputs)[0], model(*inputs), atol=1e-5)
            program = torch.export.load(tmp_path / ".pt2" / "model.pt2").module()
            torch.testing.assert_close(program(*inputs), model(*inputs), atol=1e-5, rtol=0)
    content = onnx.load(path)
    assert not [node for node in content.graph.node if node.domain or node.metadata_props or node.op_type == "Loop"]
    assert not content.graph.value_info


@pytest.mark.parametrize("method", ["graded", "clusters:rows=200", "robe:block=4"])
def test_a_file_of_torch_is_as_small_as_promised(tmp_path, method):
    tables = [TableSpec(f"table {number}", rows, 16) for number, rows in enumerate((300_000, 20_000, 3_000) * 4)]
    budget = None if "rows" in method else 300_000
    group = make_plan(method, tables, budget=budget, threshold=0, storage="int2").build().freeze()
    model = build_model("dlrm", group, 2, bottom_mlp=(64, 16), top_mlp=(512, 64)).eval()
    ids = torch.randint(3_000, (4, len(tables)))
    exported = tablefold.export(model, tmp_path / "model.pt2", (torch.randn(4, 2), ids))
    weights = sum(value.nbytes for value in model.state_dict().values())
    assert exported.num_bytes <= max(1.1 * weights, weights + 50_000)
    with ZipFile(tmp_path / "model.pt2") as archive:
        whole = [each for each in archive.infolist() if each.file_size >= 1 << 16 and "weight_" in each.filename]
        content = (tmp_path / "model.pt2").read_bytes()
        assert whole
        for each in whole:
            assert content.find(archive.read(each)[:4096]) % 64 == 0
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(torch.zeros(4, 2), ids), model(torch.zeros(4, 2), ids), atol=1e-6, rtol=0)


def test_the_signature_says_what_the_file_takes(tmp_path):
    model, _ = click_model()
    tablefold.export(model, tmp_path / "model.pt2", batch(4), outputs=["logit"], outside="zero")
    found = json.loads((tmp_path / "signature.json").read_text())
    tables = [{"name": table.name, "rows": table.rows} for table in TABLES]
    assert found == {
        "format": 1,
        "model": "NeuMF",
        "ids_outside_their_table": "zero",
        "inputs": [
            {"name": "dense", "type": "float32", "shape": ["batch", 3]},
            {"name": "ids", "type": "int64", "shape": ["batch", 6], "tables": tables},
        ],
        "outputs": [{"name": "logit", "type": "float32", "shape": ["batch"]}],
        "files": ["model.pt2"],
    }


class Two(torch.nn.Module):
    """A drop-in for each of two columns, and a bag."""

    def __init__(self):
        super().__init__()
        self.user = Embedding(1000, 8, method="qr", storage="int8")
        self.tags = EmbeddingBag(500, 8, method="hash:collisions=4", mode="sum")

    def forward(self, user, tags, offsets):
        return (self.user(user) * self.tags(tags, offsets)).sum(1)


def test_drop_ins_and_bags_are_exported_without_a_loop(tmp_path):
    model = Two()
    inputs = (torch.arange(3), torch.arange(10), torch.tensor([0, 4, 4]))
    tablefold.export(model, tmp_path / "model.onnx", inputs)
    more = (torch.arange(5) * 100, torch.arange(0, 490, 10), torch.tensor([0, 0, 7, 20, 49]))
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path / "model.onnx", *more)[0], model.eval()(*more), atol=1e-6)
    assert not [node for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type in ("Loop", "If")]
    inputs = {each["name"]: each for each in json.loads((tmp_path / "signature.json").read_text())["inputs"]}
    assert inputs["user"]["tables"][0]["rows"] == 1000
    assert "tables" not in inputs["offsets"]


def test_ids_outside_their_table_are_answered_in_onnx(tmp_path):
    model, _ = click_model()
    tablefold.export(model, tmp_path / "model.onnx", batch(4))
    dense, ids = batch(3)
    ids[1, 2] = 1 << 62
    assert np.isnan(run(tmp_path / "model.onnx", dense, ids)[0]).tolist() == [False, True, False]


def test_a_file_that_differs_is_not_published(tmp_path, monkeypatch):
    model, _ = click_model()
    write = type(EXPORTERS["pt2"]).write

    def wrong(self, captured, path, **options):
        name = next(name for name in captured.program.state_dict if name.endswith("bias"))
        captured.program.state_dict[name] = torch.nn.Parameter(captured.program.state_dict[name] + 1)
        write(self, captured, path, **options)

    monkeypatch.setattr(type(EXPORTERS["pt2"]), "write", wrong)
    with pytest.raises(ValueError, match="differ from torch's by up to"):
        tablefold.export(model, tmp_path / "new" / "model.pt2", batch(4))
    assert not list(tmp_path.iterdir())


class Fixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = Embedding(100, 4, method="hash:collisions=2")

    def forward(self, ids):
        return self.embedding(ids).reshape(5, 4)


class Odd(Fixed):
    def forward(self, ids):
        return torch.linalg.eigvals(self.embedding(ids)[:, :, None] * self.embedding(ids)[:, None]).real


def test_what_cannot_be_is_refused_in_one_line(tmp_path):
    model, _ = click_model()
    path, example = tmp_path / "model.onnx", batch(4)
    (tmp_path / "taken.pt2").write_text("")
    refusals = [
        ("no folded table", lambda: tablefold.export(torch.nn.Linear(2, 2), path, torch.zeros(3, 2))),
        ("is there already", lambda: tablefold.export(model, tmp_path / "taken.pt2", example)),
        ("exporters: onnx", lambda: tablefold.export(model, tmp_path / "model.xyz", example)),
        ("no exporter 'mine'", lambda: tablefold.export(model, path, example, exporter="mine")),
        ("must be 18 .. 25", lambda: tablefold.export(model, path, example, opset=5)),
        ("no option 'opset'", lambda: tablefold.export(model, tmp_path / "model.pt2", example, opset=18)),
        ("outside=never", lambda: tablefold.export(model, path, example, outside="never")),
        ("give 2 or more", lambda: tablefold.export(model, path, batch(1))),
        ("do not fit the forward", lambda: tablefold.export(model, path, torch.zeros(3, 3))),
        ("must be a tensor", lambda: tablefold.export(model, path, (3, 4))),
        ("for any batch", lambda: tablefold.export(Fixed(), path, torch.arange(5))),
        ("ONNX cannot say", lambda: tablefold.export(Odd(), path, torch.arange(5))),
        ("2 names were given", lambda: tablefold.export(model, path, example, outputs=["a", "b"])),
        ("no exporter 'h5'", lambda: find_exporter("h5")),
    ]
    for words, call in refusals:
        with pytest.raises(ValueError, match=words) as refusal:
            call()
        assert "\n" not in str(refusal.value), words
    assert [each.name for each in tmp_path.iterdir()] == ["taken.pt2"]


def test_without_onnx_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"need onnxruntime: pip install 'tablefold\[onnx\]'"):
        tablefold.export(click_model()[0], tmp_path / "model.onnx", batch(4))


def test_a_pt2_file_runs_where_tablefold_is_not(tmp_path):
    model, _ = click_model("robe")
    tablefold.export(model, tmp_path / "model.pt2", batch(4))
    code = (
        "import sys, torch; sys.modules['tablefold'] = None;"
        f"run = torch.export.load({str(tmp_path / 'model.pt2')!r}).module();"
        "print(len(run(torch.zeros(7, 3), torch.zeros(7, 6, dtype=torch.int64))))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7"


def test_nothing_is_written_over(tmp_path):
    model, _ = click_model("robe")
    (tmp_path / "signature.json").write_text("mine")
    with pytest.raises(ValueError, match=r"signature\.json is there already"):
        publish.export(model, tmp_path / "model.pt2", batch(4))
    assert (tmp_path / "signature.json").read_text() == "mine"
