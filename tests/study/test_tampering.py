"""Files of studies and runs that somebody has changed: refused in a line that names file and field."""

import copy
import json
import math
import shutil

import pytest

from tablefold.cli import main
from tablefold.cli.compare import results_table
from tablefold.study.facts import describe
from tablefold.study.figures import charts
from tablefold.study.findings import headline, warnings
from tablefold.study.loading import load_runs, load_study
from tablefold.study.results import slices, summarise
from tablefold.train import train_run
from tablefold.train.config import Config

WRONG = ([], {"x": {"y": 1}}, "/etc/passwd", None, True, -1, 10**30, "\ud800")
FREE = ("title", "about", "error", "commit", "name", "sha256", "size", "cpu", "system", "device", "python", "torch")
"""Texts that a reader may see changed, for nothing depends on them."""


def places(content, where=()):
    """The way to every value of a JSON document."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items)[:1] if isinstance(content, list) else items:
        yield (*where, key)
        yield from places(value, (*where, key))


def changes(content):
    """(way, document with one value changed or left out)."""
    for way in places(content):
        for wrong in (*WRONG, "left out"):
            changed = copy.deepcopy(content)
            parent = changed
            for key in way[:-1]:
                parent = parent[key]
            if wrong == "left out":
                del parent[way[-1]]
            elif parent[way[-1]] == wrong and type(parent[way[-1]]) is type(wrong):
                continue
            else:
                parent[way[-1]] = wrong
            yield way, wrong, changed


def shown(folder):
    """All that a report and a comparison would say of a folder."""
    study = load_study(folder)
    groups = [(title, group) for title, group in slices(study.summaries()) if any(one.done for one in group)]
    drawn = [charts(title, group) for title, group in groups]
    text = results_table(study.summaries(), study.target)
    return repr((text, describe(study), [headline(group) + warnings(group) for _, group in groups], drawn))


def refusal(act, *arguments):
    """The words of the `ValueError` that `act` raises, empty if it does not."""
    try:
        act(*arguments)
    except ValueError as error:
        return str(error)
    return ""


def names(text, file):
    """Whether these words are a line that names the file."""
    return str(file) in text and "\n" not in text and len(text) < 1000


@pytest.fixture
def copied(small_study, tmp_path):
    return shutil.copytree(small_study, tmp_path / "study")


@pytest.mark.parametrize("pattern", ["study.json", "inputs/full-*-s0-*.json", "outputs/robe-block-4-4x*-s1-*.json"])
def test_every_field_of_a_study_is_checked(copied, pattern):
    _keep_two_runs(copied)
    (file,) = copied.glob(pattern)
    content = json.loads(file.read_text())
    before, tried, refused = shown(copied), 0, 0
    for way, wrong, changed in changes(content):
        file.write_text(json.dumps(changed))
        tried += 1
        if why := refusal(load_study, copied):
            refused += 1
            assert names(why, file), (way, wrong, why)
            continue
        plain = isinstance(wrong, str) or wrong is None
        # What nothing is computed from (dense columns, epochs, seconds of training in all) may have any fit value.
        after = shown(copied)
        free = way[0] in ("data", "result", "curve", "processes") or (way[-1] in FREE and plain)
        assert after == before or free or (way[0] == "runs" and wrong == "left out"), (way, wrong)
    assert tried > 100
    assert refused > tried / 2


def _keep_two_runs(folder):
    """Leave the runs out whose files this test does not change: each is read anew with every change."""
    content = json.loads((folder / "study.json").read_text())
    content["runs"] = [run for run in content["runs"] if run["name"].startswith(("full", "robe-block-4-4x"))]
    content["runs"] = [content["runs"][0], *(run for run in content["runs"][1:] if "-s1-" in run["name"])]
    (folder / "study.json").write_text(json.dumps(content))


FIGURES = (
    "auc",
    "logloss",
    "samples_per_second",
    "embedding_bytes",
    "compression",
    "peak_rss_bytes",
    "machine",
    "method",
)


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("wrong", ["left out", [], -1, math.inf])
def test_a_result_without_a_figure_is_refused(copied, figure, wrong):
    (file,) = copied.glob("outputs/robe-block-4-4x*-s1-*.json")
    content = json.loads(file.read_text())
    content["result"][figure] = wrong
    if wrong == "left out":
        del content["result"][figure]
    file.write_text(json.dumps(content))
    why = refusal(load_study, copied)
    assert names(why, file)
    assert (figure if wrong != math.inf else "damaged") in why
    assert "`tablefold study run` does this run again" in why


RAW = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000]


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
@pytest.mark.parametrize("pattern", ["study.json", "inputs/full-*-s0-*.json", "outputs/robe-block-4-4x*-s1-*.json"])
def test_what_is_no_json_of_ours_is_refused(copied, pattern, raw, capsys):
    (file,) = copied.glob(pattern)
    file.write_bytes(raw)
    for command in (["study", "report", str(copied)], ["compare", str(copied)]):
        assert main(command) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        assert str(file) in captured.err
    assert not (copied / "report.html").exists()


def test_answers_cannot_be_swapped_nor_questions_changed(copied):
    answers = sorted(copied.glob("outputs/robe-block-4-4x*.json"))
    one, other = (file.read_text() for file in answers)
    answers[0].write_text(other)
    why = refusal(load_study, copied)
    assert names(why, answers[0])
    assert "it must be the hash of the run's input" in why
    answers[0].write_text(one)
    (asked,) = copied.glob("inputs/full-*-s0-*.json")
    content = json.loads(asked.read_text())
    content["config"]["seed"] = 7
    asked.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged: its content is not that of the run full-"):
        load_study(copied)


@pytest.mark.parametrize("name", ["../../secret-12345678", "/etc/passwd", "a\x00b", "", "x" * 5000])
def test_names_of_runs_are_no_paths(copied, name):
    content = json.loads((copied / "study.json").read_text())
    content["runs"][0]["name"] = name
    (copied / "study.json").write_text(json.dumps(content))
    why = refusal(load_study, copied)
    assert names(why, copied / "study.json")
    assert "runs[0].name is" in why


def test_a_run_named_twice_would_count_twice(copied):
    content = json.loads((copied / "study.json").read_text())
    content["runs"].append(content["runs"][0])
    (copied / "study.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="twice"):
        load_study(copied)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a run of `tablefold train`."""
    out = tmp_path_factory.mktemp("trained") / "run"
    sizes = {"bottom_mlp": (4,), "top_mlp": (4,)}
    train_run(Config(str(data), dim=4, batch_size=1000, eval_every=3, model_options=sizes, device="cpu"), out)
    return out


@pytest.mark.parametrize("name", ["result.json", "config.json", "metrics.jsonl"])
def test_every_field_of_a_run_is_checked(trained, tmp_path, name):
    folder = shutil.copytree(trained, tmp_path / "run")
    file = folder / name
    first, *rest = file.read_text().splitlines() if name == "metrics.jsonl" else [file.read_text()]
    tried = refused = 0
    for _, _, changed in changes(json.loads(first)):
        file.write_text("\n".join([json.dumps(changed), *rest]))
        tried += 1
        if why := refusal(load_runs, [folder]):
            refused += 1
            assert names(why, file), why
        else:
            results_table(summarise(load_runs([folder])))
    assert tried > 50
    assert refused
