"""A log as it comes: described, one schema edited, prepared, trained, studied, served; nothing else is touched."""

import json
import tomllib

import numpy as np
import polars as pl
import pytest

from serving.services import Serving
from tablefold.cli import main

NAMES = {"user": "user id/№ 7", "genres": 'genres "liked" [all]', "at": "at; UTC", "paid": "paid €"}


STUDY = """
title = "A log as it comes"
[settings]
model = "dlrm"
dim = 8
batch_size = 512
lr = 0.005
seed = [0]
looks = 2
model_options.dlrm = { bottom_mlp = [16], top_mlp = [16] }
[[grid]]
method = "full"
[[grid]]
method = ["hash", "qr"]
compression = 2
"""


def write_log(path, rows, seed=0):
    """Clicks with a list column, a time, floats, nulls and strange names; who clicks depends on all of them."""
    draw = np.random.default_rng(seed)
    user, city = draw.zipf(1.3, rows) % 5000, draw.integers(0, 40, rows)
    at = np.datetime64("2024-03-01T00:00:00") + np.sort(draw.integers(0, 30 * 86400, rows)).astype("timedelta64[s]")
    genres = [draw.choice(12, size, replace=False).tolist() for size in draw.integers(0, 4, rows)]
    paid, taste = draw.exponential(2.0, rows), draw.normal(0, 1, (3, 5000))
    logit = taste[0][user] + 0.7 * taste[1][city] - 0.2 * paid + np.array([taste[2][own].sum() for own in genres])
    hour = (at - at.astype("datetime64[D]")).astype(int) // 3600
    clicked = draw.random(rows) < 1 / (1 + np.exp(1 - logit - 0.5 * np.sin(hour / 4)))
    frame = pl.DataFrame(
        {
            "clicked": clicked.astype(np.int8),
            NAMES["user"]: user,
            "stadt": pl.Series([f"Ort {number}" for number in city]),
            NAMES["genres"]: pl.Series([[f"g{value}" for value in own] for own in genres], dtype=pl.List(pl.String)),
            NAMES["at"]: at.astype("datetime64[us]"),
            NAMES["paid"]: paid,
            "request": np.arange(rows),  # tells rows apart, and nothing of new ones
        }
    )
    gaps = {name: draw.random(rows) < 0.03 for name in ("stadt", NAMES["paid"], NAMES["genres"], NAMES["at"])}
    gaps[NAMES["at"]][:] = False  # a time says which part a row is in
    frame = frame.with_columns(pl.when(~pl.Series(gap)).then(pl.col(name)).alias(name) for name, gap in gaps.items())
    frame.write_parquet(path)
    return frame


def command(*words):
    assert main([str(word) for word in words]) == 0


def prove(folder, rows, capsys):
    """From the file to the service; gives the figures of the run."""
    frame = write_log(folder / "log.parquet", rows)
    command("describe", folder / "log.parquet")
    shown = capsys.readouterr().out
    schema = shown[shown.index("label =") :]
    content = tomllib.loads(schema)
    assert content["lists"] == [NAMES["genres"]]
    assert content["times"] == [NAMES["at"]]
    assert NAMES["paid"] in content["dense"]
    assert "request" not in content["categorical"]
    (folder / "log.toml").write_text(f"{schema}\nlist_length = 3\n")  # the one edit
    command("prepare", "table", folder / "log.parquet", "--schema", folder / "log.toml", "--out", folder / "data")
    sizes = ("--dim", "8", "--bottom-mlp", "16", "--top-mlp", "16", "--batch-size", "512", "--lr", "0.005")
    command("train", folder / "data", "--method", "qr", "--compression", "4", *sizes, "--out", folder / "run")
    (folder / "study.toml").write_text(STUDY)
    command("study", "run", folder / "study.toml", "--data", folder / "data", "--out", folder / "study", "--report")
    assert (folder / "study" / "report.html").stat().st_size > 10_000
    tail = frame.tail(200).drop("clicked", "request")
    tail.write_parquet(folder / "new.parquet")
    command("predict", folder / "run", folder / "new.parquet", "--out", folder / "scores.parquet")
    expected = pl.read_parquet(folder / "scores.parquet")["score"]
    assert expected.null_count() == 0
    records = tail.with_columns(pl.col(NAMES["at"]).cast(pl.String)).to_dicts()
    service = Serving(folder / "run")
    try:
        found = service.score(records)["scores"]
    finally:
        service.end()
    assert found == pytest.approx(expected.to_list(), abs=1e-6)
    return json.loads((folder / "run" / "result.json").read_text())


def test_from_a_file_to_a_service(tmp_path, capsys):
    assert prove(tmp_path, 3_000, capsys)["auc"] > 0.5


@pytest.mark.slow
def test_from_a_file_of_two_hundred_thousand_rows_to_a_service(tmp_path, capsys):
    assert prove(tmp_path, 200_000, capsys)["auc"] > 0.65
