"""`ClickModel`: what a notebook needs, by the code of the commands."""

import copy
import gc
import json
import pickle
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas
import polars as pl
import pytest
import torch

from tablefold import ClickModel
from tablefold.cli import main
from tablefold.data import encoder

SMALL = {"dim": 4, "model": "dcn_v2", "model_options": {"deep_mlp": [8]}, "device": "cpu", "lr": 0.01}
COLUMNS = {"label": "clicked", "categorical": ["user", "ad"], "dense": ["age"]}


def log(rows=700, seed=0):
    random = np.random.default_rng(seed)
    user, ad = random.integers(0, 30, rows), random.integers(0, 9, rows)
    names = [f"u{number}" for number in user]
    return pl.DataFrame({"user": names, "ad": ad, "age": random.random(rows), "clicked": (user + ad) % 3 == 0})


@pytest.fixture(scope="module")
def fitted():
    return ClickModel("robe:block=4", compression=2, epochs=3, **SMALL).fit(log(), **COLUMNS)


def test_a_saved_model_predicts_the_same_here_and_on_the_command_line(fitted, tmp_path, capsys):
    assert fitted.result["compression"] >= 2
    fresh = log(100, seed=1)
    fresh[5, "user"] = "never seen"
    expected = fitted.predict_proba(fresh)
    assert (expected.shape, expected.dtype) == ((100, 2), np.float32)
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-6)
    assert expected[:, 1].std() > 1e-3
    fitted.save(tmp_path / "model")
    loaded = ClickModel.load(tmp_path / "model")
    assert np.array_equal(loaded.predict_proba(fresh), expected)
    fresh.drop("clicked").write_csv(tmp_path / "fresh.csv")
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "fresh.csv"), "--out", str(tmp_path / "out")]) == 0
    assert np.array_equal(pl.read_parquet(tmp_path / "out")["score"].to_numpy(), expected[:, 1])
    assert np.array_equal(loaded.predict_proba(tmp_path / "fresh.csv"), expected)
    again = loaded.fit(log(), **COLUMNS)  # with the settings of the one that was saved
    assert np.array_equal(again.predict_proba(fresh), expected)


def test_a_frame_a_path_and_arrow_are_one_log(fitted, tmp_path):
    log().write_parquet(tmp_path / "log.parquet")
    settings = {"compression": 2, "epochs": 3, **SMALL}
    expected = fitted.predict_proba(log())
    for data in (tmp_path / "log.parquet", log().to_arrow(), log().to_dict(as_series=False)):
        assert np.array_equal(ClickModel("robe:block=4", **settings).fit(data, **COLUMNS).predict_proba(data), expected)


def test_a_pandas_frame_will_do(fitted):
    frame = pandas.DataFrame(log().to_dict(as_series=False))
    kept = frame[frame.index % 3 > 0]  # an index with gaps
    expected = fitted.predict_proba(frame)[kept.index]
    np.testing.assert_allclose(fitted.predict_proba(kept), expected, rtol=1e-5)  # batches of another size round so


def test_a_malformed_row_keeps_its_place(fitted):
    fresh = log(4).with_columns(age=pl.Series(["1", "old", None, "3"]))
    assert np.isnan(fitted.predict_proba(fresh)).tolist() == [[False] * 2, [True] * 2, [False] * 2, [False] * 2]


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_needs_nothing_of_the_original(tmp_path, monkeypatch, make):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = ClickModel("qr", **SMALL).fit(log(), **COLUMNS)
    with torch.no_grad():
        model.run.model.group.arrays[0].add_(0.5)  # what was changed after training is copied as it is
    expected, result = model.predict_proba(log()), model.result
    other = make(model)
    assert len(list(tmp_path.iterdir())) == 2
    model.fit(log(seed=3), **COLUMNS)
    del model
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1
    assert np.array_equal(other.predict_proba(log()), expected)
    assert other.result == result
    other.save(tmp_path / "saved")
    assert np.array_equal(make(other).predict_proba(log()), expected)
    del other
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert make(ClickModel.load(tmp_path / "saved")).predict_proba(log()).shape == (700, 2)
    assert make(ClickModel("qr", dim=4)).run is None


def test_where_it_was_trained_does_not_matter(fitted, tmp_path, monkeypatch):
    expected = fitted.predict_proba(log())
    fitted.save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    content = json.loads(file.read_text())
    content["asked"]["device"] = "cuda"
    file.write_text(json.dumps(content))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    loaded = ClickModel.load(tmp_path / "model")
    assert np.array_equal(loaded.predict_proba(log()), expected)
    assert loaded.fit(log(), **COLUMNS).result["rows"] > 0
    with pytest.raises(ValueError, match="no CUDA device"):
        ClickModel.load(tmp_path / "model", device="cuda")
    asked = copy.copy(fitted)
    asked._settings["device"] = "cuda"  # as by its maker, on a machine that had one
    assert np.array_equal(copy.copy(asked).predict_proba(log()), expected)


def test_scores_that_are_not_finite_are_refused(fitted):
    wild = copy.copy(fitted)
    with torch.no_grad():
        wild.run.model.group.arrays[0].fill_(float("nan"))
    refusal = r"700 of 700 scores are not finite, the first: the data frame, row 1: .* train it again"
    with pytest.raises(ValueError, match=refusal):
        wild.predict_proba(log())


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: ClickModel(colour=1), "no setting 'colour'"),
        (lambda: ClickModel(compression=2, budget=3), "give one of them"),
        (lambda: ClickModel("qrr"), r"no method 'qrr' \(did you mean 'qr'\?\); methods: "),
        (lambda: ClickModel("automatic"), "no method 'automatic'.*methods: .*full, graded, hash, .*robe"),
        (lambda: ClickModel(model="dlmr"), "did you mean 'dlrm'"),
        (lambda: ClickModel("qr", dim=0), "dim=0 must be at least 1"),
        (lambda: ClickModel(precision="x"), "unknown precision 'x'; choose one of fp32, tf32, bf16"),
        (lambda: ClickModel(optimizer="adagrd"), "unknown optimizer 'adagrd'; did you mean 'adagrad'"),
        (lambda: ClickModel(lr=-1), "lr=-1 must be greater than 0"),
        (lambda: ClickModel(device="x"), "unknown device 'x'; choose auto, cpu or cuda"),
        (lambda: ClickModel(5), "method=5 must be text"),
        (lambda: ClickModel().predict_proba(log()), "call fit"),
        (lambda: ClickModel().save("model"), "call fit"),
        (lambda: ClickModel().fit([1], **COLUMNS), "data is a list"),
        (lambda: ClickModel().fit(log()["ad"], **COLUMNS), "data is a Series without columns"),
        (
            lambda: ClickModel().fit({"ad": [1, 2], "clicked": [1]}, **COLUMNS),
            "data is a dict without columns of equal",
        ),
        (lambda: ClickModel().fit(np.zeros((2, 2)), **COLUMNS), "data is a ndarray without columns"),
        (lambda: ClickModel().fit(log()[:0], **COLUMNS), "has no rows"),
        (lambda: ClickModel().fit(log(), **{**COLUMNS, "dense": ["aeg"]}), "no column 'aeg'"),
        (lambda: ClickModel().fit(log(), **{**COLUMNS, "dense": ["ad"]}), "a column twice"),
        (lambda: ClickModel().fit(log(), **{**COLUMNS, "categorical": []}), "at least one categorical"),
        (lambda: ClickModel().fit("none.csv", **COLUMNS), "none.csv: no such file"),
    ],
)
def test_mistakes_are_one_line(use, message):
    with pytest.raises(ValueError, match=message) as caught:
        use()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("ad"), "the data frame has no column 'ad'; it has user, age"),
        (lambda frame: frame[:0], "the data frame has no rows"),
        (lambda frame: frame.with_columns(ad=pl.lit([1])), "the data frame: the column 'ad' is of type List"),
        (lambda frame: frame["ad"], "data is a Series without columns"),
        (lambda frame: None, "data is a NoneType without columns"),
    ],
)
def test_new_data_must_have_the_columns(fitted, change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        fitted.predict_proba(change(log()))
    assert tempfile.gettempdir() not in str(caught.value)


def test_predicting_writes_no_file(fitted, tmp_path, monkeypatch):
    expected = fitted.predict_proba(log())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # whoever makes one fails
    for one in (fitted, ClickModel.load(fitted.run.folder)):
        assert np.array_equal(one.predict_proba(log()), expected)
        assert np.array_equal(one.predict_proba(log().to_dict(as_series=False)), expected)


def test_a_frame_of_many_pieces_is_scored_as_its_rows(fitted, monkeypatch):
    monkeypatch.setattr(encoder, "PARQUET_ROWS", 64)
    fresh = log(200, seed=4).with_columns(age=pl.Series([*["1"] * 130, "old", *["2"] * 69]))
    together = fitted.predict_proba(fresh)
    apart = np.concatenate([fitted.predict_proba(fresh[start : start + 50]) for start in range(0, 200, 50)])
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    assert np.flatnonzero(np.isnan(together[:, 1])).tolist() == [130]


def test_errors_of_a_fit_speak_of_the_frame(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for frame in (log().drop("ad"), log().with_columns(age=pl.lit("old")), log().with_columns(clicked=pl.lit(7))):
        with pytest.raises(ValueError, match="the data frame") as caught:
            ClickModel("qr", **SMALL).fit(frame, **COLUMNS)
        assert str(tmp_path) not in str(caught.value)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_temporary_folders_go_with_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="no column"):
        ClickModel().fit(log(), **{**COLUMNS, "dense": ["aeg"]})
    assert list(tmp_path.iterdir()) == []
    model = ClickModel("qr", **SMALL).fit(log(), **COLUMNS).fit(log(), **COLUMNS)
    assert len(list(tmp_path.iterdir())) == 1
    del model
    assert list(tmp_path.iterdir()) == []


def test_the_pages_python_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    block = next(block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "ClickModel" in block)
    monkeypatch.chdir(tmp_path)
    frame = log().rename({"ad": "city"})
    exec(compile(block.replace("compression=100", "compression=2"), "training.md, notebook", "exec"), {"frame": frame})
    assert (tmp_path / "run" / "result.json").exists()
