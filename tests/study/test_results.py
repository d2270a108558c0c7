"""Results put together: seeds, settings that differ, and the cost of a quality."""

import dataclasses
import io
import json
import math
import re

import pytest

from tablefold.cli.columns import takes_colour, without_colour
from tablefold.cli.compare import results_table
from tablefold.study.loading import load_study, write_lines
from tablefold.study.quality import Quality
from tablefold.study.results import Spread, qualities, slices, summarise, varied_settings


def test_seeds_are_put_together_and_settings_kept_apart(make_results):
    summaries = make_results(models=("dlrm", "dcn")).summaries()
    assert len(summaries) == 2 * (1 + 3 * 4 + 1)
    assert {len(one.runs) for one in summaries} == {3}
    assert varied_settings(summaries) == ["model"]
    assert [title for title, _ in slices(summaries)] == ["dlrm", "dcn"]
    full = summaries[0]
    assert full.spread("auc") == Spread(pytest.approx(0.801), pytest.approx(0.001))
    assert math.isnan(Spread.of([0.5]).std)


def test_the_table_has_a_line_for_each_setting(make_results):
    summaries = make_results(models=("dlrm", "dcn")).summaries()
    lines = results_table(summaries, "auc=full-0.02").splitlines()
    head = "method model bytes compression auc time to target runs log loss samples/s peak memory"
    assert " ".join(lines[0].split()) == head
    assert len(lines) == 1 + 2 * 13 + 2
    full = next(line for line in lines if line.startswith("full "))
    assert full.split() == [
        *("full", "dlrm", "4", "MB", "1x", "0.8010", "±", "0.0010", "8.0", "s", "3", "0.1990", "±", "0.0010"),
        *("12,346", "500", "MB"),
    ]
    tiny = next(line for line in lines if line.startswith("hash:floats=1 "))
    assert re.split(r" {2,}", tiny)[5] == "-"
    assert lines[-1] == "qr:combine=mul 10000x dcn: impossible: a budget of 1 bytes is too small"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
@pytest.mark.parametrize("models", [("dlrm",), ("dlrm", "dcn", "a_model_with_quite_a_long_name")])
@pytest.mark.parametrize("target", [None, "auc=full-0.02"])
def test_the_table_fits_its_window(make_results, width, models, target):
    summaries = make_results(models=models).summaries()
    text = results_table(summaries, target, width=width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    head = lines[0].split()
    assert {"method", "bytes", "auc", *(["compression"] if width >= 80 else [])} <= set(head)
    assert ("target" in head) == (target is not None)
    assert text.count("0.8010 ± 0.0010") == len(models)
    if "peak" in head and "log" in head:
        assert width >= 100
        assert "--wide" not in text
    else:
        assert "`tablefold compare --wide` shows also:" in " ".join(lines)


def test_colour_changes_nothing_but_the_colour(make_results):
    summaries = make_results().summaries()
    plain, coloured = (results_table(summaries, width=80, colour=colour) for colour in (False, True))
    assert "\x1b" not in plain
    lines = without_colour(coloured).splitlines()
    assert [line for line in lines if not line.startswith("green: ")] == plain.splitlines()
    green = [line for line in coloured.splitlines() if line.startswith("\x1b[32m") and "x" in line]
    assert len([line for line in green if "robe block 4" in line]) == 4


def test_a_name_that_moves_the_cursor_is_shown_and_not_obeyed(make_results):
    study = make_results()
    runs = [dataclasses.replace(run, error="\x1b[2Jgone") for run in study.runs]
    text = results_table(summarise(runs), width=80)
    assert "\x1b" not in text
    assert r"\x1b[2Jgone" in text


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_colour_only_where_the_terminal_takes_it(monkeypatch, terminal, environment, coloured):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert takes_colour(stream) is coloured


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("auc=0.8025", Quality("auc", 0.8025)),
        ("auc=full", Quality("auc", 0.0, True)),
        ("logloss=full+0.01", Quality("logloss", 0.01, True)),
    ],
)
def test_a_quality_is_read_and_written(text, parsed):
    assert Quality.parse(text) == parsed
    assert str(parsed) == text


@pytest.mark.parametrize("text", ["auc", "auc=", "auc=best", "accuracy=0.9", "auc=full-", "auc=0.5x"])
def test_a_quality_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="must be auc=NUMBER"):
        Quality.parse(text)


@pytest.mark.parametrize("text", ["auc=2", "auc=-0.5", "auc=full-2", "logloss=-1", f"logloss={'9' * 400}"])
def test_a_quality_that_can_never_be_is_refused(text):
    with pytest.raises(ValueError, match="can never be"):
        Quality.parse(text)


def test_a_relative_quality_is_that_of_the_best_look_of_the_full_tables():
    curves = [[{"auc": 0.7, "logloss": 0.5}, {"auc": 0.8, "logloss": 0.4}, {"auc": 0.78, "logloss": 0.6}]]
    assert Quality.parse("auc=full-0.1").against(curves) == Quality("auc", pytest.approx(0.7))
    rising = Quality.parse("logloss=full+0.05").against(curves)
    assert rising == Quality("logloss", pytest.approx(0.45))
    assert rising.reached(curves[0])["auc"] == 0.8
    assert Quality("auc", 0.9).reached(curves[0]) is None
    assert Quality.parse("auc=full").against([]) is None


def test_a_quality_counts_as_reached_only_by_every_seed(make_results):
    summaries = make_results().summaries()
    quality = qualities(summaries, "auc=full-0.02")
    full, plain = summaries[0], summaries[1]
    assert full.cost(quality) == {"step": 160, "examples": 16000, "seconds": 8.0}
    assert plain.cost(quality) is None
    assert qualities(summaries, None) is None
    runs = [dataclasses.replace(run, curve=()) if run.seed == 1 else run for run in full.runs]
    assert summarise(runs)[0].cost(quality) is None


def test_lines_keep_every_run(make_results, tmp_path):
    study = make_results()
    write_lines(study, tmp_path / "results.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["name"], line["seed"], line["status"]) for line in lines] == [
        (run.name, run.seed, run.status) for run in study.runs
    ]
    assert lines[0]["curve"][0]["step"] == 40


def test_seconds_leave_the_compiling_first_step_out(small_study):
    for run in (run for run in load_study(small_study).runs if run.result):
        for look in run.curve:
            assert look["seconds"] == pytest.approx(look["examples"] / run.result["samples_per_second"])
