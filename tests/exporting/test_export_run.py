"""`tablefold export` and `tablefold embed`: what a stranger gets, who has numpy, onnxruntime and a Parquet reader."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from prepared import write_dataset
from raw_logs import criteo_lines
from tablefold.cli import main
from tablefold.data.criteo import Criteo
from tablefold.data.preparation import Options, prepare
from tablefold.train import load_run, train_run
from tablefold.train.config import Config

pytestmark = pytest.mark.filterwarnings("ignore")
STRANGER = Path(__file__).parents[2] / "examples" / "onnx_scores.py"


def log(folder, lines=420):
    file = folder / "log.txt"
    file.write_text("\n".join(criteo_lines(lines, values=50)) + "\n")
    return file


def trained(folder, ids="dictionary", **changes):
    prepare(Criteo((str(log(folder)),)), folder / "data", Options(ids=ids))
    settings = {"dim": 8, "batch_size": 60, "model_options": {"bottom_mlp": [8], "top_mlp": [8]}, "device": "cpu"}
    train_run(Config(str(folder / "data"), **{**settings, **changes}), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("export"), method="qr", storage="int4")


def test_a_stranger_gets_the_probabilities_of_predict(run, tmp_path, capsys):
    ship = tmp_path / "ship"
    assert main(["export", str(run), "--onnx", str(ship / "model.onnx"), "--pt2", str(ship / "model.pt2")]) == 0
    assert "from torch on random ids" in capsys.readouterr().out
    assert sorted(path.name for path in ship.iterdir()) == ["encoder", "model.onnx", "model.pt2", "signature.json"]
    raw = tmp_path / "today.txt"
    lines = criteo_lines(50, seed=9, values=80)
    raw.write_text("\n".join(lines) + "\n")
    assert main(["predict", str(run), str(raw), "--out", str(tmp_path / "scores.parquet")]) == 0
    code = (
        f"import sys; sys.modules['tablefold'] = sys.modules['torch'] = None; sys.argv = {['', str(ship), str(raw)]!r};"
    )
    code += f"exec(open({str(STRANGER)!r}).read())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    scores = np.array(done.stdout.split(), dtype=float)
    np.testing.assert_allclose(scores, pl.read_parquet(tmp_path / "scores.parquet")["score"], atol=1e-6)


def test_vectors_come_with_their_raw_values(run, tmp_path, capsys):
    assert main(["embed", str(run), "--table", "C3", "--out", str(tmp_path / "c3.parquet")]) == 0
    assert "id 1 for a value that training has not seen" in capsys.readouterr().out
    found = pl.read_parquet(tmp_path / "c3.parquet")
    table = load_run(run).model.eval().group["C3"]
    rows = table.table.rows
    with torch.inference_mode():
        np.testing.assert_array_equal(np.stack(found["vector"].to_list()), table(torch.arange(rows)))
    assert found["id"].to_list() == list(range(rows))
    assert found.schema["vector"] == pl.Array(pl.Float32, 8)
    assert found["value"][:2].to_list() == [None, None]
    assert found["value"][2:].null_count() == 0
    (dictionary,) = list((run / "encoder" / "dictionary").glob("000002*.parquet"))
    assert found["value"][2:].to_list() == pl.read_parquet(dictionary)["value"].to_list()
    assert main(["embed", str(run), "--table", "C3", "--out", str(tmp_path / "c3.npy"), "--format", "npy"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "c3.npy"), np.stack(found["vector"].to_list()))
    assert pl.read_parquet(tmp_path / "c3.values.parquet").equals(found.select("id", "value"))


def test_vectors_are_written_in_pieces(run, tmp_path, monkeypatch):
    monkeypatch.setattr("tablefold.exporting.table_vectors.CHUNK", 7)
    assert main(["embed", str(run), "--table", "C1", "--out", str(tmp_path / "c1.parquet")]) == 0
    found = pl.read_parquet(tmp_path / "c1.parquet")
    assert found["id"].to_list() == list(range(load_run(run).model.group["C1"].table.rows))


def test_hashed_ids_are_exported_and_their_values_are_not_known(tmp_path, capsys):
    run = trained(tmp_path, ids="hash", method="robe:block=4", budget=4000)
    assert main(["export", str(run), "--pt2", str(tmp_path / "ship" / "model.pt2")]) == 0
    signature = json.loads((tmp_path / "ship" / "signature.json").read_text())
    assert signature["inputs"][1]["tables"][0] == {"name": "C1", "rows": None}
    assert main(["embed", str(run), "--table", "C1", "--out", str(tmp_path / "c1.parquet")]) == 2
    assert "raw values of 'C1' are not known: its ids are hashes" in capsys.readouterr().err


def test_a_run_of_prepared_data_has_no_dictionaries_to_ship(tmp_path, capsys):
    write_dataset(tmp_path / "data", dense=0, rows={"train": 300, "test": 50, "validation": 50})
    config = Config(str(tmp_path / "data"), dim=4, batch_size=50, model="neumf", model_options={"top_mlp": [4]})
    train_run(config, tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--pt2", str(tmp_path / "model.pt2")]) == 0
    assert [each["name"] for each in json.loads((tmp_path / "signature.json").read_text())["inputs"]] == ["ids"]
    assert not (tmp_path / "encoder").exists()
    assert main(["embed", str(tmp_path / "run"), "--table", "user", "--out", str(tmp_path / "out.npy")]) == 2
    assert "has no dictionary of them" in capsys.readouterr().err


def test_bad_calls_end_in_one_line(run, tmp_path, capsys):
    (tmp_path / "encoder").mkdir()
    out = str(tmp_path / "vectors.parquet")
    calls = [
        (["export", str(run)], "nothing to write"),
        (["export", str(tmp_path), "--onnx", str(tmp_path / "new" / "m.onnx")], "holds no finished run"),
        (["export", str(run), "--onnx", str(tmp_path / "m.onnx")], "encoder is there already"),
        (["export", str(run), "--onnx", str(tmp_path / "new" / "m.onnx"), "--opset", "4"], "must be 18 .. 25"),
        (["export", str(run), "--onnx", str(tmp_path / "new" / "m.onnx"), "--compile"], "--compile is for --pt2"),
        (["export", str(run), "--onnx", str(tmp_path / "new" / "m.pt2")], "ends in .onnx"),
        (["export", str(run), "--onnx", str(tmp_path / "new" / "m.onnx"), "--outside", "x"], "must be one of nan"),
        (["embed", str(run), "--table", "C33", "--out", out], "no table 'C33'"),
        (["embed", str(run), "--table", "C3", "--out", out, "--format", "csv"], "must be one of parquet, npy"),
        (["embed", str(tmp_path), "--table", "C3", "--out", out], "holds no finished run"),
        (["embed", str(run), "--table", "C3", "--out", str(tmp_path / "encoder")], "is a folder"),
    ]
    for arguments, words in calls:
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1, error
    assert [each.name for each in tmp_path.iterdir()] == ["encoder"]
