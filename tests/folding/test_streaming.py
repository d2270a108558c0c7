"""A checkpoint folded alone, in pieces."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from folding.toys import DeepFM, look_trained, some_ids
from tablefold import cli, fold, from_pretrained
from tablefold.folding import streaming
from tablefold.folding.streaming import fold_checkpoint


def checkpoint(folder, model):
    """The file of a model, shared tables under one name."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(("same", "history"))}
    path = folder / "model.safetensors"
    save_file(state, path, metadata={"made": "by hand"})
    return path


class Two(nn.Module):
    """Two tables and a network."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.user, self.tag = nn.Embedding(5000, 16, padding_idx=0), nn.EmbeddingBag(2000, 8, mode="sum")
        self.top = nn.Linear(24, 1)
        look_trained(self).to(dtype)

    def forward(self, ids):
        return self.top(torch.cat([self.user(ids), self.tag(ids[:, None] % 2000)], 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("compression", [3.5, 7, 14])
def test_what_comes_out_loads_into_a_fresh_model_and_is_what_fold_makes(tmp_path, compression, dtype, monkeypatch):
    monkeypatch.setattr(streaming, "PIECE", 1 << 8)
    model, ids = Two(dtype), torch.arange(1, 900, 7)
    compression /= 4 / dtype.itemsize
    told = []
    path, out = checkpoint(tmp_path, model), tmp_path / "folded.safetensors"
    if compression <= 1:
        return
    found = fold_checkpoint(path, out, compression=compression, tell=lambda *each: told.append(each))
    assert found.num_bytes <= found.bytes_before / compression
    assert found.file_bytes == out.stat().st_size < found.num_bytes + 12_000
    assert told[-1][1] == told[-1][2] == 5000 * 16 * dtype.itemsize + 2000 * 8 * dtype.itemsize + 25 * dtype.itemsize
    loaded, before = from_pretrained(out, Two(dtype)), model(ids)
    report = fold(model, compression=compression)
    assert set(found.plan.parts) == set(report.plan.parts)
    assert found.num_bytes == report.num_bytes
    assert torch.equal(loaded.top.weight, model.top.weight)
    assert loaded.user.padding_idx == 0
    for each in (loaded, model):  # pieces round as they do, not in what they keep
        assert (each(ids) - before).square().mean() < 0.2 * before.square().mean()
    assert load_file(out).keys() >= {"top.weight", "top.bias"}


def test_the_command_says_what_came_out(tmp_path, capsys):
    path, out = checkpoint(tmp_path, Two()), tmp_path / "folded.safetensors"
    assert cli.main(["fold", str(path), "--budget", "60KB", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "user" in printed
    assert "tables 384 kB -> " in printed
    assert cli.main(["fold", str(path), "--compression", "3", "--tables", "user", "--out", str(out)]) == 0
    assert {name for name in load_file(out) if "group" in name} == {"user.group.memory.rows_16_int8"}
    assert cli.main(["fold", str(out), "--compression", "3", "--out", str(tmp_path / "again")]) == 2
    assert "is folded already" in capsys.readouterr().err


def test_a_model_of_many_modules(tmp_path):
    model = look_trained(DeepFM())
    path, out = checkpoint(tmp_path, model), tmp_path / "folded.safetensors"
    found = fold_checkpoint(path, out, compression=6, only=["user*", "more.tag*"])
    assert [table.name for table in found.plan.tables] == ["more.tag", "user"]
    fresh = DeepFM()
    fresh.same_user = nn.Identity()  # the file has a table once
    fresh.history = nn.EmbeddingBag(6000, 32, padding_idx=0, mode="sum", _weight=fresh.item.weight.detach())
    state = load_file(out)
    assert torch.equal(state["item.weight"], model.item.weight)
    assert model(some_ids()).isfinite().all()


def broken(content):
    """Files that are no checkpoints."""
    yield b"", "is no safetensors file"
    yield b"hello", "is no safetensors file"
    yield content[:-8], "is no safetensors file"
    yield content[:200], "is no safetensors file"
    yield (1 << 62).to_bytes(8, "little") + content[8:], "is no safetensors file"
    wild = content.replace(b'"data_offsets":[', b'"data_offsets":[9')
    yield wild, "is no safetensors file"


def test_bad_files_are_refused_in_one_line_and_leave_nothing(tmp_path):
    content = checkpoint(tmp_path, Two()).read_bytes()
    for number, (bad, message) in enumerate(broken(content)):
        path, out = tmp_path / f"bad{number}", tmp_path / "out"
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=message) as caught:
            fold_checkpoint(path, out, compression=4)
        assert "\n" not in str(caught.value)
        assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": 4, "only": ["no*"]}, r"'no\*' fits no weight of a module with rows of floats: .*user.weight"),
        ({"budget": 100}, "below the smallest possible that keeps these trained tables"),
        ({"budget": "1GB"}, "must be above 0 and below the 384000 bytes"),
        ({}, "give compression=50, or budget='64MB'"),
        ({"compression": 4, "method": "qr"}, "qr cannot keep trained tables"),
        ({"compression": 4, "method": "low_rank"}, "low_rank cannot keep"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, options, message):
    path, out = checkpoint(tmp_path, Two()), tmp_path / "out"
    out.write_text("as it was")
    with pytest.raises(ValueError, match=message) as caught:
        fold_checkpoint(path, out, **options)
    assert "\n" not in str(caught.value)
    assert out.read_text() == "as it was"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.safetensors", "out"]
    with pytest.raises(ValueError, match="is the checkpoint itself"):
        fold_checkpoint(path, path, compression=4)
    with pytest.raises(ValueError, match="is no folded checkpoint"):
        from_pretrained(path, Two())


def test_a_row_that_is_not_finite_ends_it_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "SAMPLE", 512)  # which misses the row: it is found while the file is written
    model = Two()
    with torch.no_grad():
        model.user.weight[4_001, 3] = torch.nan
    with pytest.raises(ValueError, match=r"table 'user\.weight': row 4001 is not finite"):
        fold_checkpoint(checkpoint(tmp_path, model), tmp_path / "out", compression=14)
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.slow
def test_two_gigabytes_are_folded_in_little_memory(tmp_path):
    rows, dim = 1 << 25, 16
    path, out, generator = tmp_path / "large.safetensors", tmp_path / "folded.safetensors", np.random.default_rng(0)
    header = {"user.weight": {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, rows * dim * 4]}}
    text = json.dumps(header).encode()
    low = generator.normal(size=(4, dim)).astype(np.float32)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(32):
            file.write((generator.normal(size=(rows // 32, 4)).astype(np.float32) @ low).tobytes())
    code = (
        "import resource, sys, torch, tablefold.folding.streaming as s\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"s.fold_checkpoint({str(path)!r}, {str(out)!r}, budget='40MB')\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    print(ran.stdout)
    assert float(ran.stdout) < 0.7, "GB beyond what imports take"
    assert out.stat().st_size < 41_000_000
