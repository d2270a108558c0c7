"""Pairs of users and items, scored by a model that reads what each user took before."""

import numpy as np
import polars as pl
import pytest

from serving.services import Serving
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.serving.scorer import Scorer
from tablefold.train import Config, train_run


def test_the_service_knows_histories_as_predict_does(tmp_path):
    draw = np.random.default_rng(0)
    pairs = pl.DataFrame({"who": draw.integers(0, 30, 400), "what": draw.integers(0, 40, 400)}).unique()
    pairs.write_parquet(tmp_path / "log.parquet")
    source = Interactions(str(tmp_path / "log.parquet"), "who", "what", history=4)
    prepare_interactions(source, tmp_path / "data")
    train_run(Config(str(tmp_path / "data"), model="two_tower", dim=4, lr=0.02, device="cpu"), tmp_path / "run")
    records = pairs.head(50).to_dicts()
    expected = Scorer(tmp_path / "run", "cpu").score(records)
    service = Serving(tmp_path / "run")
    try:
        assert service.score(records)["scores"] == pytest.approx(expected.tolist(), abs=1e-6)
        scores = service.score([{"who": 99, "what": 3}, records[0]])["scores"]
    finally:
        service.end()
    assert scores[0] is None  # a user whom training has not shown
    assert scores[1] == pytest.approx(float(expected[0]), abs=1e-6)
