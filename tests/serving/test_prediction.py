"""`tablefold predict`: as many scores as lines, in order, equal to what evaluation sees."""

import csv
import gzip
import io
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from raw_logs import criteo_lines
from tablefold import Scorer
from tablefold.cli import main
from tablefold.data import Dataset, source
from tablefold.data.avazu import FIELDS, Avazu
from tablefold.data.criteo import Criteo
from tablefold.data.preparation import Options, prepare
from tablefold.data.table import Columns, Table
from tablefold.serving.prediction import predict_file
from tablefold.train import load_run, train_run
from tablefold.train.config import Config

ROWS = 420  # 360 train, 30 test, 30 validation
TEST = slice(360, 390)
# Batches of other sizes round a logit in its last float32 bits, which moves a small score by 1e-5 of itself.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
METHODS = {"dictionary": {"method": "qr"}, "hash": {"method": "robe:block=4", "budget": 4000}}
COLUMNS = Columns("clicked", ("user", "city"), dense=("age",), counts=("visits",))


def criteo(folder):
    file = folder / "train.txt"
    file.write_text("\n".join(criteo_lines(ROWS, values=50)) + "\n")
    return Criteo((str(file),)), file


def avazu(folder):
    random = np.random.default_rng(0)
    rows = [
        [number, random.integers(0, 2), f"141021{random.integers(0, 24):02d}", 1005, random.integers(0, 3)]
        + [f"{random.integers(0, 2**32):08x}"[: random.integers(0, 9)] for _ in range(9)]
        + [*random.integers(-3, 40, 10)]
        for number in range(ROWS)
    ]
    file = folder / "train.csv"
    lines = [",".join(map(str, row)) for row in ([field.name for field in FIELDS], *rows)]
    file.write_text("\n".join(lines) + "\n")
    return Avazu((str(file),)), file


def table_frame():
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user": [random.choice(["ann, the first", 'b"o', "Żaneta", "", f"u{n}"]) for n in range(ROWS)],
            "age": random.random(ROWS),
            "clicked": random.integers(0, 2, ROWS),
            "city": random.integers(0, 40, ROWS),
            "visits": [random.choice([None, -1, 7]) for _ in range(ROWS)],
        }
    )


def table_csv(folder):
    file = folder / "log.csv"
    table_frame().write_csv(file)
    return Table((str(file),), COLUMNS), file


def table_parquet(folder):
    file = folder / "log.parquet"
    table_frame().write_parquet(file)
    return Table((str(file),), COLUMNS), file


def cut(file, rows, target, without_label=False):
    """Some rows of a raw log as a file of its own."""
    if file.suffix == ".parquet":
        frame = pl.read_parquet(file)[rows]
        (frame.drop("clicked") if without_label else frame).write_parquet(target)
        return target
    text = file.read_text()
    separator, header = ("\t", 0) if file.suffix == ".txt" else (",", 1)
    lines = list(csv.reader(io.StringIO(text), delimiter=separator))
    label = lines[0].index("clicked" if "clicked" in lines[0] else "click") if header else 0
    kept = [*lines[:header], *lines[header:][rows]]
    if without_label:
        kept = [[*line[:label], *line[label + 1 :]] for line in kept]
    with target.open("w", newline="") as stream:
        csv.writer(stream, delimiter=separator, lineterminator="\n").writerows(kept)
    return target


def train(data, out, **changes):
    settings = {"dim": 4, "batch_size": 60, "model": "dcn_v2", "model_options": {"deep_mlp": [8]}, "device": "cpu"}
    train_run(Config(str(data), **{**settings, **changes}), out)
    return out


def evaluated(run):
    """The probabilities that evaluation computes on the prepared test part."""
    loaded, logits = load_run(run), []
    loaded.trainer("cpu").predict(
        Dataset(loaded.recipe.config.data).part("test").batches(4096), lambda batch, _: logits.append(batch)
    )
    return torch.cat(logits).sigmoid().numpy()


@pytest.mark.parametrize("ids", ["dictionary", "hash"])
@pytest.mark.parametrize("kind", [criteo, avazu, table_csv, table_parquet])
def test_scores_are_those_of_evaluation(kind, ids, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "SHARD_BYTES", 3000)
    raw, file = kind(tmp_path)
    permute = 3 if ids == "dictionary" else None
    prepare(raw, tmp_path / "data", Options(ids=ids, permute_ids=permute, min_count=1 if permute is None else 2))
    run = train(tmp_path / "data", tmp_path / "run", **METHODS[ids])
    expected = evaluated(run)
    assert expected.std() > 1e-4
    shutil.rmtree(tmp_path / "data")  # a run can be shipped without its data
    for without_label in (False, True):
        part = cut(file, TEST, tmp_path / f"part{file.suffix}", without_label)
        summary = predict_file(run, part, tmp_path / "scores.parquet", "cpu")
        scores = pl.read_parquet(tmp_path / "scores.parquet")
        assert (summary.lines, summary.rejected) == (30, 0)
        assert scores.schema == {"score": pl.Float32, "reject": pl.String}
        np.testing.assert_allclose(scores["score"].to_numpy(), expected, **CLOSE)
        assert scores["reject"].null_count() == 30


@pytest.fixture(scope="module")
def criteo_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("criteo")
    raw, file = criteo(folder)
    prepare(raw, folder / "data")
    return train(folder / "data", folder / "run", method="qr"), file


def test_a_dictionary_that_is_missing_is_told_before_the_training(criteo_run, tmp_path, capsys):
    data = shutil.copytree(criteo_run[0].parent / "data", tmp_path / "data")
    (data / "dictionary" / "000003.parquet").unlink()
    assert main(["train", str(data), "--out", str(tmp_path / "run"), "--dim", "2", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "000003.parquet is missing" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_malformed_lines_keep_their_place(criteo_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(source, "SHARD_BYTES", 3000)
    run, raw = criteo_run
    lines = raw.read_text().splitlines()[:60]
    unseen = [*lines[7].split("\t")[:14], *["deadbeef"] * 26]
    bad = {0: "", 20: "1\t2", 41: lines[41] + "\t", 59: "x" + lines[59].replace("\t", "\tz", 1)}
    mixed = [bad.get(number, line) for number, line in enumerate(lines)]
    mixed[7] = "\t".join(unseen)
    mixed[8] = "?" + lines[8][1:]  # labels are not read
    (tmp_path / "good.txt").write_text("\n".join(lines))
    with gzip.open(tmp_path / "mixed.gz", "wt") as stream:
        stream.write("\n".join(mixed))
    assert main(["predict", str(run), str(tmp_path / "good.txt"), "--out", str(tmp_path / "good")]) == 0
    assert capsys.readouterr().err == ""
    assert main(["predict", str(run), str(tmp_path / "mixed.gz"), "--out", str(tmp_path / "mixed")]) == 0
    printed = capsys.readouterr()
    assert "60 rows, 56 scored" in printed.out
    first = f"{tmp_path}/mixed.gz, line 1: 1 field instead of 40"
    assert printed.err == f"4 lines are malformed, the first: {first}\n"
    good, mixed_scores = (pl.read_parquet(tmp_path / name) for name in ("good", "mixed"))
    assert np.flatnonzero(mixed_scores["score"].is_null()).tolist() == sorted(bad)
    assert np.flatnonzero(mixed_scores["reject"].is_not_null()).tolist() == sorted(bad)
    assert mixed_scores["reject"][20] == "2 fields instead of 40"
    same = [number for number in range(60) if number not in {*bad, 7}]
    np.testing.assert_allclose(mixed_scores["score"].to_numpy()[same], good["score"].to_numpy()[same], **CLOSE)
    assert mixed_scores["score"][7] != good["score"][7]
    assert {path.name for path in tmp_path.iterdir()} == {"good.txt", "mixed.gz", "good", "mixed"}


def test_mistakes_are_one_line_and_leave_nothing(criteo_run, data, tmp_path, capsys):
    run, raw = criteo_run
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_text("a,b\n1,2\n")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(raw.read_bytes())[:-99])
    plain = train(data, tmp_path / "plain")
    lost = shutil.copytree(run, tmp_path / "lost")
    (lost / "encoder" / "dictionary" / "000003.index").unlink()
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "encoder" / "encoder.json").write_text("{")
    swapped = shutil.copytree(run, tmp_path / "swapped")
    dictionary = swapped / "encoder" / "dictionary"
    shutil.copyfile(dictionary / "000000.index", dictionary / "000001.index")
    before = {path.name for path in tmp_path.iterdir()}
    for folder, file, message in (
        (run, "none", "none: no such file"),
        (run, "empty", "empty is empty"),
        (run, ".", "is not a file"),
        (run, "other", "line 1: 1 field instead of 40 (no line is of the format"),
        (run, "cut.gz", "the gzip stream is cut off"),
        (tmp_path / "none", raw, "holds no finished run"),
        (plain, raw, "cannot read raw lines (no encoder/encoder.json)"),
        (lost, raw, "000003.index is missing or damaged"),
        (broken, raw, "encoder.json is missing or damaged"),
        (swapped, raw, "000001.index is damaged (its digest is not that of encoder.json)"),
    ):
        assert main(["predict", str(folder), str(tmp_path / file), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert {path.name for path in tmp_path.iterdir()} == before
    shutil.copy(raw, tmp_path / "raw")
    (tmp_path / "loop").symlink_to("loop")
    for out, message in (("raw", "is the file to read"), ("loop/x", "loop")):
        assert main(["predict", str(run), str(tmp_path / "raw"), "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("place", ["model.safetensors", "config.json", "new.parquet", "encoder/scores", "../link/new"])
def test_nothing_is_written_into_a_run(criteo_run, tmp_path, capsys, place):
    run = shutil.copytree(criteo_run[0], tmp_path / "run")
    (tmp_path / "link").symlink_to(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["predict", str(run), str(criteo_run[1]), "--out", str(run / place)]) == 2
    error = capsys.readouterr().err
    assert "lies in the run" in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(["predict", str(tmp_path / "link"), str(criteo_run[1]), "--out", str(tmp_path / "scores")]) == 0


def test_scores_that_are_not_finite_are_refused(criteo_run, tmp_path, capsys):
    run, raw = shutil.copytree(criteo_run[0], tmp_path / "run"), criteo_run[1]
    weights = load_file(run / "model.safetensors")
    memory = next(array for name, array in weights.items() if name.startswith("group.memory."))
    memory[len(memory) // 2 :] = float("nan")
    save_file(weights, run / "model.safetensors")
    refusal = rf"of {ROWS} scores are not finite, the first: {raw}, row 1: the model's weights are damaged"
    with pytest.raises(ValueError, match=refusal):
        list(Scorer(run).score_file(raw))
    assert main(["predict", str(run), str(raw), "--out", str(tmp_path / "scores")]) == 2
    error = capsys.readouterr().err
    assert "train it again" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "scores").exists()


def test_the_pages_python_runs(criteo_run, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    block = next(block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "Scorer" in block)
    run, raw = criteo_run
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    shutil.copy(raw, "today.txt")
    names = {}
    exec(compile(block, "training.md, scoring", "exec"), names)
    assert names["piece"].probability.shape == (ROWS,)
