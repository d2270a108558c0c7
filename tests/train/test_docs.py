"""The code of docs/training.md runs as printed."""

import re
import shutil
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_pages_python_runs(data, tmp_path, monkeypatch, capsys):
    shutil.copytree(data, tmp_path / "log")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    text = blocks[0].replace("num_bytes=200_000", "num_bytes=8_000")  # the log here is small
    names = {}
    exec(compile(text, "training.md, first block", "exec"), names)
    assert float(capsys.readouterr().out) > 0.55
    before = names["trainer"].evaluate(names["dataset"].part("train")).logloss
    exec(compile(blocks[1], "training.md, second block", "exec"), names)
    assert names["trainer"].evaluate(names["dataset"].part("train")).logloss < before


def test_the_page_names_every_option_and_figure(capsys):
    from tablefold.cli import main

    page = PAGE.read_text()
    main(["train", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--dim", "--device", "--out"}
    missing = {option for option in options if option not in page} - {"--batch-size", "--epochs"}
    assert not missing
