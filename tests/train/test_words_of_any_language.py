"""Runs are written and read as UTF-8 whatever the locale says: a container often has none."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest

from tablefold.data.preparation import prepare
from tablefold.data.table import Columns, Table

LOCALES = {"C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "utf-8": {"PYTHONUTF8": "1"}}
USER, CITY, AGE, LABEL = "Nutzer é", "город", "âge", "ラベル"
SIZES = ["--dim", "4", "--model", "dcn_v2", "--deep-mlp", "8", "--batch-size", "50"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log and a dataset whose columns and values have names of many languages."""
    folder = tmp_path_factory.mktemp("words")
    rows = range(350)
    users, cities = [f"ñ{row % 5}" for row in rows], [("Köln", "東京")[row % 2] for row in rows]
    frame = pl.DataFrame(
        {USER: users, CITY: cities, AGE: [float(row) for row in rows], LABEL: [row % 2 for row in rows]}
    )
    frame.write_csv(folder / "log.csv")
    prepare(Table((str(folder / "log.csv"),), Columns(LABEL, (USER, CITY), (AGE,))), folder / "data")
    return folder


@pytest.mark.parametrize("locale", LOCALES)
def test_a_run_is_trained_evaluated_and_scored(folder, locale):
    def run(*arguments):
        command = [sys.executable, "-X", "warn_default_encoding", "-m", "tablefold", *arguments]
        environment = {**os.environ, **LOCALES[locale], "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
        error = done.stderr.decode()
        assert done.returncode == 0, error
        assert not [line for line in error.splitlines() if "EncodingWarning" in line and "/tablefold/" in line]
        return done.stdout.decode()

    out = f"run-{locale}"
    run("train", "data", "--out", out, *SIZES, "--checkpoint-every", "3")
    assert json.loads(run("evaluate", out))["rows"] == 25
    assert "350 rows, 350 scored" in run("predict", out, "log.csv", "--out", f"scores é {locale}")
    content = json.loads((folder / out / "config.json").read_text(encoding="utf-8"))
    assert [table["name"] for table in content["plan"]["tables"]] == [USER, CITY]
    assert content["dense"] == [AGE]
