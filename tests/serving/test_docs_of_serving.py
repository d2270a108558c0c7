"""docs/serving.md: its commands lead a stranger to a service, and its options are those there are."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from serving.services import Serving
from tablefold.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page_names_every_option(capsys):
    main(["serve", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help", "--threads"}
    assert not {option for option in options if option not in PAGE}


@pytest.mark.slow
def test_a_stranger_gets_from_parquet_to_a_service(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    users, cities = random.integers(0, 300, 2000), random.integers(0, 40, 2000)
    clicks = {"clicked": users % 2, "user": [f"u{n}" for n in users], "city": cities, "age": random.random(2000) * 60}
    pl.DataFrame(clicks).write_parquet("clicks.parquet")
    Path("clicks.toml").write_text(next(text for language, text in BLOCKS if language == "toml"))
    commands, asked = [text.strip().splitlines() for language, text in BLOCKS if language == "sh"][:2]
    assert len(commands) == 3
    for command in commands[:2]:
        assert main(shlex.split(command)[1:]) == 0
    words = shlex.split(commands[2])
    assert words[:3] == ["tablefold", "serve", "run"]
    service = Serving("run")
    try:
        for command, rows in zip(asked, (1, 2), strict=True):
            _, address, _, body = shlex.split(command)
            status, _, answer = service.ask("POST", address.partition("8000")[2], body)
            assert status == 200
            assert len(json.loads(answer)["scores"]) == rows
        python = next(text for language, text in BLOCKS if language == "python" and "Scorer" in text)
        exec(compile(python, "serving.md, in memory", "exec"), {})
    finally:
        assert service.end() == 0
