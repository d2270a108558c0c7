import math

import pytest

from prepared import data  # noqa: F401  (a fixture)
from tablefold.study.definition import Study
from tablefold.study.grid import run_study

SMALL = {
    "title": "Small & <new>",
    "about": "What does it cost?",
    "target": "auc=full-0.02",
    "settings": {
        "storage": "fp32",
        "threshold": 0,
        "dim": 4,
        "batch_size": 500,
        "lr": 0.02,
        "looks": 6,
        "seed": [0, 1],
        "model_options": {"dlrm": {"bottom_mlp": [8], "top_mlp": [8]}},
    },
    "grid": [{"method": "full"}, {"method": "robe:block=4", "compression": [4, 100_000]}],
}


@pytest.fixture(scope="session")
def small():
    """A study of 4 short runs and 2 impossible ones, as its TOML reads."""
    return SMALL


@pytest.fixture(scope="session")
def small_study(data, tmp_path_factory):  # noqa: F811
    """The folder of a finished study."""
    out = tmp_path_factory.mktemp("study") / "out"
    tally = run_study(Study.of(SMALL), data, out, processes=2)
    assert (tally.done, tally.impossible, tally.failed) == (4, 2, ())
    return out


@pytest.fixture
def make_results():
    """A made-up study with results: no training."""
    from pathlib import Path

    from tablefold.plans import Wishes
    from tablefold.study.results import RunResult, StudyResults

    def result(series, size, auc):
        compression = 1.0 if not size else float(size.rstrip("x"))
        return {
            "method": f"{series}:floats={round(1000 / compression)}" if size else series,
            "storage": "fp32",
            "embedding_bytes": round(4_000_000 / compression),
            "full_bytes": 4_000_000,
            "compression": compression,
            "auc": auc,
            "logloss": 1 - auc,
            "samples_per_second": 12_345.6 * math.sqrt(compression),
            "seconds": 20.0,
            "iterations": 400,
            "epochs": 1.0,
            "peak_rss_bytes": 500_000_000,
            "target": None,
            "target_reached": None,
            "optimizer_state_bytes": 8_000_000,
            "rows": 10_000,
            "machine": {
                "cpu": "A CPU",
                "cores": 2,
                "threads": 2,
                "memory_bytes": 24_000_000_000,
                "system": "Linux x86_64",
                "device": "cpu",
                "python": "3.11.7",
                "torch": "2.13.0",
                "tablefold": "0.1.0",
            },
        }

    def wishes(size):
        return Wishes(compression=float(size.rstrip("x"))) if size else Wishes(storage="fp32", threshold=0)

    def run(series, size, seed, auc, status="done", **settings):
        settings = {"data": "log", "model": "dlrm", "optimizer": "amsgrad", "id_order": "prepared", **settings}
        curve = tuple(
            {
                "step": step,
                "examples": step * 100,
                "seconds": step / 20,
                "auc": auc - 0.1 * math.exp(-step / 80),
                "logloss": 1 - auc + 0.1 * math.exp(-step / 80),
            }
            for step in range(40, 401, 40)
        )
        done = status == "done"
        return RunResult(
            name=f"{series}-{size}-{seed}",
            series=series,
            size=size,
            settings=settings,
            wishes=wishes(size),
            seed=seed,
            status=status,
            error="" if done else "a budget of 1 bytes is too small",
            result=result(series, size, auc) if done else {},
            curve=curve if done else (),
            commit="abc123",
        )

    def make(models=("dlrm",), methods=("hash", "qr:combine=mul", "robe:block=4")):
        losses = {"hash": 0.02, "qr:combine=mul": 0.012, "robe:block=4": 0.008}
        runs = []
        for model in models:
            for seed in (0, 1, 2):
                top = 0.80 + 0.001 * seed
                runs.append(run("full", "", seed, top, model=model))
                for method in methods:
                    for number, size in enumerate(("2x", "16x", "128x", "1000x"), start=1):
                        runs.append(run(method, size, seed, top - losses[method] * number, model=model))
                runs.append(run("qr:combine=mul", "10000x", seed, 0.5, "impossible", model=model))
        facts = {
            "name": "log",
            "sha256": "0" * 64,
            "source": {"name": "criteo"},
            "dense": 13,
            "tables": [{"name": "user", "rows": 900}, {"name": "item", "rows": 100}],
            "parts": {part: {"rows": 10_000, "positives": 2_500} for part in ("train", "test", "validation")},
            "best": None,
        }
        return StudyResults(Path("out"), "Costs & <benefits>", "What is lost?", "auc=full-0.02", 1, facts, tuple(runs))

    return make
