"""Runs whose ids are in an order of their own: they read the data, and raw values, in that order."""

import numpy as np
import polars as pl
import pytest
import torch

from raw_logs import criteo_lines
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.numbering import Numbering
from tablefold.data.preparation import Options, prepare
from tablefold.serving.prediction import predict_file
from tablefold.train.config import Config
from tablefold.train.progress import Listener
from tablefold.train.run import load_run, train_run


class KilledError(Exception):
    """The process was killed."""


class Kill(Listener):
    """Kills the training after its second step."""

    def on_rest(self, progress):
        if progress.step == 2:
            raise KilledError


SIZES = {"bottom_mlp": [8], "top_mlp": [8]}


def write_log(folder, rows=420, seed=0):
    file = folder / "train.txt"
    file.write_text("\n".join(criteo_lines(rows, seed)) + "\n")
    return file


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    prepare(Criteo((str(write_log(folder)),)), folder / "data", Options())
    return folder


@pytest.fixture(scope="module")
def numbered(log):
    """A run in an order of its own, and the dataset in that order."""
    given = Dataset(log / "data")
    view = given.numbered(Numbering.permuted(given.schema, 7))
    train_run(Config(str(log / "data"), dim=4, lr=0.05, model_options=SIZES), log / "run", dataset=view)
    return log / "run", view


def test_it_scores_raw_values(log, numbered, tmp_path):
    folder, view = numbered
    run, scores = load_run(folder), []
    for part in ("train", "test", "validation"):
        run.trainer("cpu").predict(view.part(part).batches(100), lambda logits, _: scores.append(logits.sigmoid()))
    predict_file(folder, log / "train.txt", tmp_path / "scores.parquet", "cpu")
    found = pl.read_parquet(tmp_path / "scores.parquet")["score"].to_numpy()
    np.testing.assert_allclose(found, torch.cat(scores).numpy(), rtol=1e-5)
    assert found.std() > 0.01


def test_checkpoints_of_another_order_are_refused(log, tmp_path):
    given = Dataset(log / "data")

    config = Config(str(log / "data"), dim=4, model_options=SIZES)
    view = given.numbered(Numbering.permuted(given.schema, 7))
    with pytest.raises(KilledError):
        train_run(config, tmp_path / "run", [Kill()], checkpoint_every=1, dataset=view)
    with pytest.raises(ValueError, match="checkpoints of another command"):
        train_run(config, tmp_path / "run", checkpoint_every=1)
    result = train_run(config, tmp_path / "run", checkpoint_every=1, dataset=view)
    assert result["iterations"] == 3
