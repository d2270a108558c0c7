"""Every model through a whole run: trained, saved, read back, exported, serving raw values."""

import numpy as np
import polars as pl
import pytest
import torch

from prepared import write_dataset
from tablefold import ClickModel, Scorer
from tablefold.exporting.runs import export_run
from tablefold.models import all_models
from tablefold.train import Config, load_run, train_run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("small"), rows={"train": 600, "test": 100, "validation": 100})


@pytest.mark.parametrize("name", ["deepfm", "two_tower"])
@pytest.mark.parametrize("method", ["full", "qr:collisions=2", "robe:block=4"])
def test_a_run_is_read_back_to_the_same_figures_and_exported(name, method, small, tmp_path):
    budget = 4000 if method.startswith("robe") else None
    result = train_run(
        Config(str(small), method=method, budget=budget, dim=4, model=name, batch_size=50), tmp_path / "run"
    )
    if budget:
        assert result["embedding_bytes"] <= budget
    run = load_run(tmp_path / "run")
    assert run.evaluate().as_dict() == {figure: result[figure] for figure in run.evaluate().as_dict()}
    assert [table.name for table in run.recipe.tables] == ["user", "item", "country"]
    (exported,) = export_run(tmp_path / "run", {"pt2": tmp_path / "ship" / "model.pt2"})
    ids, dense = torch.tensor([[3, 4, 5], [399, 0, 6]]), torch.rand(2, 3)
    found = torch.export.load(exported.path).module()(dense, ids)
    torch.testing.assert_close(found, run.model.eval()(dense, ids).sigmoid(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(all_models()))
def test_every_model_scores_raw_values(name):
    rows = range(300)
    log = pl.DataFrame({"user": [f"u{row % 20}" for row in rows], "ad": [row % 7 for row in rows]})
    log = log.with_columns(clicked=(pl.col("ad") < 3).cast(pl.Int64), age=pl.Series(rows) / 300)
    model = ClickModel(dim=4, model=name).fit(log, label="clicked", categorical=["user", "ad"], dense=["age"])
    scores = Scorer(model.run).score(log.drop("clicked"))
    assert scores.shape == (300,)
    assert np.isfinite(scores).all()
