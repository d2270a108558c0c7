"""Runs side by side: the same results as one by one, and a failure that stops the rest."""

import json
import time

import pytest

from tablefold.study.grid import run_all, usable_cores
from tablefold.train.config import Config


def config(data, **changes):
    sizes = {"top_mlp": (8,), "bottom_mlp": (8,)}
    return Config(str(data), dim=4, batch_size=500, model_options=sizes, device="cpu", **changes)


def test_results_come_in_the_order_of_the_jobs(data, tmp_path):
    seeds = [5, 6, 7]
    told = []
    jobs = [(config(data, seed=seed), tmp_path / str(seed)) for seed in seeds]
    results = run_all(jobs, 2, lambda asked, result: told.append((asked.seed, result["seed"])))
    assert [result["seed"] for result in results] == seeds
    assert sorted(told) == [(seed, seed) for seed in seeds]
    assert [json.loads((out / "result.json").read_text()) for _, out in jobs] == results
    assert results[0]["machine"]["threads"] == 1


def test_a_failing_run_stops_the_rest(data, tmp_path):
    jobs = [
        (config(data, method="full", epochs=100_000), tmp_path / "long"),
        (config(data, method="hash:collisions=0.1"), tmp_path / "bad"),
    ]
    began = time.perf_counter()
    with pytest.raises(ValueError, match="collisions"):
        run_all(jobs, 2, lambda *_: None)
    assert time.perf_counter() - began < 60
    assert not (tmp_path / "long").exists()


def test_there_is_a_core():
    assert usable_cores() >= 1
