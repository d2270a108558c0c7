"""`tablefold demo`, small: the same steps as the one that `make demo` shows."""

import json
import re
from pathlib import Path

from tablefold.cli import main
from tablefold.cli.demo import SEEDS

MADE = {"log.txt", "log.txt.best.json", "data", "study", "report.html", "figures"}


def test_the_demo_makes_everything_it_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tablefold.cli.demo.COMPRESSIONS", (8,))
    monkeypatch.chdir(tmp_path)
    out = Path("demo")
    assert main(["demo", "--out", str(out), "--rows", "3000", "--workers", "2"]) == 0
    printed = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == MADE
    lines = printed.out.splitlines()
    assert lines[0].split()[:3] == ["method", "bytes", "compression"]
    results = [json.loads((run / "result.json").read_text()) for run in (out / "study" / "models").iterdir()]
    names = [re.split(r" {2,}", line)[0] for line in lines[1:4]]
    assert [name.partition(" in ")[0] for name in names] == ["full tables", "auto", "hash"]
    assert max(map(len, lines)) <= 80
    assert len(results) == 3 * len(SEEDS)
    assert re.search(r"^(Use \S+|Keep the full tables)", printed.out, re.M)
    assert "  tablefold study run sharing-compression --quick --data DIR --out study" in lines[-1]
    assert results[0]["rows"] == 214
    page = (out / "report.html").read_text()
    assert all(result["method"] in page for result in results)
    assert " of 6  auto 8x " in printed.err
    # and once more in its own folder, but nobody else's
    (out / "mine.txt").write_text("keep me")
    assert main(["demo", "--out", str(out), "--rows", "3000"]) == 2
    assert "holds 'mine.txt', which is no part of a demo" in capsys.readouterr().err
    assert (out / "report.html").exists()
    (out / "mine.txt").unlink()
    monkeypatch.setattr("tablefold.cli.demo._make_data", _refuse)
    assert main(["demo", "--out", str(out)]) == 2
    assert list(out.iterdir()) == []


def _refuse(out, rows):
    raise ValueError("far enough")


def test_a_file_in_the_way_is_kept(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    assert main(["demo", "--out", str(taken)]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err
    assert taken.read_text() == "mine"
