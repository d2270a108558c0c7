"""Files are UTF-8 whatever the locale says: a container often has none."""

import os
import subprocess
import sys

import polars as pl
import pytest

from raw_logs import read_dictionary, tree

LOCALES = {"C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "utf-8": {"PYTHONUTF8": "1"}}
USER, CITY, LABEL = "Nutzer é", "город", "ラベル"


def run(folder, locale, *arguments):
    """The command in a process of its own, whose text files would be ASCII by default; no file may be left to that."""
    command = [sys.executable, "-X", "warn_default_encoding", "-m", "tablefold", *arguments]
    environment = {**os.environ, **LOCALES[locale]}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    error = done.stderr.decode()
    assert done.returncode == 0, error
    assert "EncodingWarning" not in "".join(line for line in error.splitlines() if "tablefold/data" in line)


@pytest.fixture
def log(tmp_path):
    rows = range(60)
    frame = pl.DataFrame(
        {
            LABEL: [row % 2 for row in rows],
            USER: [f"ü{row % 5}" for row in rows],
            CITY: [f"город {row % 7}" for row in rows],
        }
    )
    frame.write_csv(tmp_path / "log.csv")
    frame.write_parquet(tmp_path / "log.parquet")
    schema = f'label = "{LABEL}"\ncategorical = ["{USER}", "{CITY}"]\n'
    (tmp_path / "schema.toml").write_text(schema, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("file", ["log.csv", "log.parquet"])
def test_a_table_is_prepared_alike_in_every_locale(log, file):
    for locale in LOCALES:
        run(log, locale, "prepare", "table", file, "--schema", "schema.toml", "--out", locale)
    assert tree(log / "C") == tree(log / "utf-8")
    assert set(read_dictionary(log / "C", USER)["value"]) == {f"ü{number}" for number in range(5)}


@pytest.mark.parametrize("file", ["log.csv", "log.parquet"])
def test_interactions_are_prepared_alike_in_every_locale(log, file):
    """Names on the command line are bytes; those of a file are UTF-8."""
    for locale in LOCALES:
        columns = ["--user", USER, "--item", CITY, "--negatives", "0"]
        run(log, locale, "prepare", "interactions", file, *columns, "--out", locale)
    assert tree(log / "C") == tree(log / "utf-8")
    assert set(read_dictionary(log / "C", CITY)["value"]) == {f"город {number}" for number in range(7)}


def test_a_log_is_generated_alike_in_every_locale(log):
    for locale in LOCALES:
        run(log, locale, "generate", locale, "--rows", "100")
    assert (log / "C").read_bytes() == (log / "utf-8").read_bytes()
