"""`tablefold study` and `tablefold compare` as a user meets them."""

import io
import json
import re
import sys
import tomllib
from pathlib import Path

from tablefold.cli import main
from tablefold.cli.study import StudyDisplay

STUDY = """
title = "Mine"
[settings]
dim = 4
batch_size = 500
model_options.dlrm = { bottom_mlp = [4], top_mlp = [4] }
[[grid]]
method = ["full", "hash:collisions=4"]
"""


def test_from_a_study_to_its_page_and_table(data, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(STUDY)
    out = tmp_path / "out"
    command = ["study", "run", str(tmp_path / "mine.toml"), "--data", str(data), "--out", str(out)]
    assert main([*command, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 2
    assert re.fullmatch(r"2 runs, about \d+ s with 1 at a time: a probe of full ran at [\d,]+ samples/s\n", printed.err)
    assert not out.exists()
    assert main([*command, "--report", "--processes", "2", "--keep-models"]) == 0
    printed = capsys.readouterr()
    assert "2 of 2  " in printed.err
    assert "to go)" in printed.err
    assert "2 runs done, 0 impossible, 0 failed" in printed.out
    assert (out / "report.html").read_text().count("<svg") == 3
    table = printed.out.splitlines()
    assert " ".join(table[0].split()) == "method bytes compression auc runs log loss samples/s artefact"
    assert {line.split()[0] for line in table[1:3]} == {"full", "hash"}

    assert main(command) == 0
    again = capsys.readouterr()
    assert again.err == "2 of 2 runs are done already\n"
    assert again.out.splitlines()[:3] == table[:3]

    assert main(["study", "report", str(out)]) == 0
    assert "report.html, 4 figures" in capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["series"] for line in lines] == ["full", "hash:collisions=4"]
    assert all(line["result"]["auc"] and line["curve"] for line in lines)

    runs = sorted(map(str, (out / "models").iterdir()))
    assert main(["compare", *runs]) == 0
    compared = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in compared[1:3]] == [line.split()[:2] for line in table[1:3]]
    result = json.loads((out / "models" / runs[0] / "result.json").read_text())
    assert f"{result['auc']:.4f}" in compared[1]

    config = Path(runs[0]) / "config.json"  # as a version before some options left it
    content = json.loads(config.read_text())
    del content["asked"]["storage"], content["asked"]["compile"]
    config.write_text(json.dumps(content))
    assert main(["compare", *runs]) == 0
    assert capsys.readouterr().out.splitlines() == compared


def test_a_bar_counts_whole_runs(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    display = StudyDisplay()
    display.on_start(10, 2)
    display.on_progress(0.37)
    display.close()
    shown = stream.getvalue()
    assert "2 of 10 runs |" in shown
    assert ".0 of" not in shown
    assert ".4 of" not in shown


def test_ready_studies_are_listed_and_shown(capsys):
    assert main(["study", "list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "sharing-compression" in names
    for name in names:
        assert main(["study", "show", name]) == 0
        assert tomllib.loads(capsys.readouterr().out)["grid"]


def test_mistakes_are_told_in_one_line(data, tmp_path, capsys):
    broken = tmp_path / "broken.toml"
    broken.write_text("[[grid]]\nmetod = 'full'\n")
    empty = tmp_path / "empty.toml"
    empty.write_text("\n")
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "mine.txt").write_text("keep")
    where = ["--data", str(data), "--out", str(tmp_path / "out")]
    for arguments, message in {
        ("study", "run", "id-ordr", *where): "did you mean 'id-order'?",
        ("study", "run", str(broken), *where): "did you mean 'method'?",
        ("study", "run", "id-order", "--data", str(tmp_path), "--out", str(tmp_path / "out")): "no prepared dataset",
        ("study", "run", "id-order", "--data", str(data), "--out", str(tmp_path / "thing")): "is no study",
        ("study", "run", "id-order", *where, "--proceses", "2"): "did you mean --processes?",
        ("study", "report", str(tmp_path)): "holds no study",
        ("study", "show", "nothing"): "no ready study",
        ("study", "show", "/etc/passwd"): "/etc/passwd is not TOML",
        ("study", "show", str(tmp_path)): "no ready study",
        ("study", "show", str(broken)): "did you mean 'method'?",
        ("study", "show", str(empty)): "empty.toml is empty: a study has at least one [[grid]]",
        ("compare", str(tmp_path)): "holds no finished run and no study",
        ("compare", "x", "--target", "auc=best"): "must be auc=NUMBER",
    }.items():
        assert main(list(arguments)) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.toml", "empty.toml", "thing"]


def test_what_a_report_needs_is_asked_for_before_the_first_run(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    where = ["--data", str(data), "--out", str(tmp_path / "out")]
    for arguments in (["study", "run", "id-order", *where, "--report"], ["demo", "--out", str(tmp_path / "out")]):
        assert main(arguments) == 2
        assert "pip install 'tablefold[report]'" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
