"""What release 0.1 left behind still gives the same answers, or says in one line what to do.

`make.py` says how it was made.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from golden.digests import LATER
from tablefold import all_methods
from tablefold.cli import main
from tablefold.data import Dataset
from tablefold.models import all_models
from tablefold.serving.prediction import predict_file
from tablefold.train import Config, Listener, load_run, train_run

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "scores.json").read_text())
RUNS, CHECKPOINTS = GOLDEN["runs"], GOLDEN["checkpoints"]

REFUSED = {
    "robe-mean": "robe has no option 'gradient' since release 0.2",
    "robe-share-names": "robe has no option 'share' since release 0.2",
    "robe-share-table": "robe has no option 'share' since release 0.2",
}
"""Runs that this version does not load: name, and what the refusal must say."""

PARTS = {"shop": (660, 55, 55), "hashed": (660, 55, 55), "criteo": (283, 24, 23), "interactions": (584, 68, 34)}


@pytest.fixture(autouse=True)
def golden_folder(monkeypatch):
    """All paths in golden files are relative to their folder."""
    monkeypatch.chdir(HERE)


@pytest.fixture
def run(request, tmp_path):
    """A copy of a golden run with its encoder, which it shares with the other runs of its data."""
    folder = shutil.copytree(HERE / "runs" / request.param, tmp_path / "run")
    encoder = HERE / "encoders" / RUNS[request.param]["data"]
    if encoder.is_dir():
        shutil.copytree(encoder, folder / "encoder")
    return folder, RUNS[request.param]


def test_a_run_of_every_method_storage_and_model_of_old_is_there():
    configs = [json.loads((HERE / "runs" / name / "config.json").read_text()) for name in RUNS]
    assert {path.name for path in (HERE / "runs").iterdir()} == set(RUNS)
    methods = {(one["placement"]["method"]["method"], one["placement"]["storage"]) for one in configs}
    assert methods >= {
        (method, storage) for method in set(all_methods()) - LATER for storage in ("fp32", "bf16", "fp16", "int8")
    }
    assert {one["asked"]["model"] for one in configs} >= set(all_models()) - {"deepfm", "two_tower"}  # which came later


@pytest.mark.parametrize("run", sorted(RUNS), indirect=True)
def test_an_old_run_gives_the_scores_of_old_or_says_what_to_do(run, tmp_path, request):
    folder, golden = run
    if (name := request.node.callspec.params["run"]) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]) as caught:
            load_run(folder)
        assert "\n" not in str(caught.value)
        return
    loaded = load_run(folder)
    metrics = loaded.evaluate(device="cpu").as_dict()
    assert metrics == pytest.approx(golden["figures"], rel=1e-5)
    assert loaded.evaluate(f"data/{golden['data']}", "test", "cpu").as_dict() == metrics
    if "scores" not in golden:
        return
    lines = "criteo.txt" if golden["data"] == "criteo" else "lines.csv"
    predict_file(folder, HERE / "raw" / lines, tmp_path / "scores.parquet", "cpu")
    scores = pl.read_parquet(tmp_path / "scores.parquet")["score"].to_list()
    assert [score is None for score in scores] == [score is None for score in golden["scores"]]
    now, then = ([score for score in side if score is not None] for side in (scores, golden["scores"]))
    np.testing.assert_allclose(now, then, rtol=1e-5)
    assert np.std(then) > 0.02  # else the embeddings would hardly count


@pytest.mark.parametrize("name", sorted(PARTS))
def test_an_old_dataset_opens(name):
    dataset = Dataset(HERE / "data" / name)
    assert tuple(dataset.schema.parts[part].rows for part in ("train", "test", "validation")) == PARTS[name]
    for part in ("train", "test", "validation"):
        batches = list(dataset.part(part).batches(100, seed=1))
        assert sum(len(batch.label) for batch in batches) == dataset.schema.parts[part].rows
        positives = sum(int(batch.label.sum()) for batch in batches)
        assert positives == dataset.schema.parts[part].positives
        for table, ids in zip(dataset.schema.tables, batches[0].ids.unbind(1), strict=True):
            assert table.rows is None or 0 <= int(ids.min()) <= int(ids.max()) < table.rows


def test_an_old_study_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    study = shutil.copytree(HERE / "study", tmp_path / "study")
    assert main(["compare", "--wide", str(study)]) == 0
    printed = capsys.readouterr().out
    for words in ("0.5951 ± 0.1268", "3.52 kB", "0.6311 ± 0.1297", "880 B", "impossible: a budget of 0 bytes"):
        assert words in printed
    assert main(["study", "report", str(study)]) == 0
    assert "0.5951" in (study / "report.html").read_text(encoding="utf-8")


class Notices(Listener):
    """Keeps where training began, and what was told."""

    def __init__(self):
        self.first, self.notices = None, []

    def on_start(self, progress, steps):
        self.first = progress.step

    def on_notice(self, text):
        self.notices.append(text)


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_an_old_checkpoint_is_resumed_or_refused(name, tmp_path):
    golden, checkpoints = CHECKPOINTS[name], tmp_path / "run.checkpoints"
    shutil.copytree(HERE / "checkpoints" / f"{name}.checkpoints", checkpoints)
    notices, refusal, result = Notices(), "", {}
    try:
        result = train_run(Config.from_json(golden["asked"]), tmp_path / "run", [notices])
    except ValueError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        assert str(checkpoints) in refusal
        assert "remove" in refusal  # what to do
        assert not (tmp_path / "run").exists()
        return
    assert notices.first == golden["step"], notices.notices
    assert {key: result[key] for key in golden["figures"]} == pytest.approx(golden["figures"], rel=1e-4)
