"""Results put together: seeds, settings that differ, and the cost of a quality."""

import dataclasses
import json
import math

import pytest

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
    assert lines[0].split()[:3] == ["method", "model", "bytes"]
    assert len(lines) == 1 + 2 * 13 + 2
    full = next(line for line in lines if line.startswith("full "))
    assert full.split() == [
        *("full", "dlrm", "4", "MB", "1x", "3", "0.8010", "±", "0.0010", "0.1990", "±", "0.0010"),
        *("12,346", "8.0", "s", "500", "MB"),
    ]
    assert next(line for line in lines if line.startswith("hash:floats=1 ")).split()[-3] == "-"
    assert lines[-1] == "qr:combine=mul 10000x dcn: impossible: a budget of 1 bytes is too small"


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
