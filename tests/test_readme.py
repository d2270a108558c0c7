"""What the README says is so: its Python runs, its files exist, its commands are verbs."""

import re
from pathlib import Path

import pytest

from tablefold import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_every_file_of_the_tree_exists():
    tree = next(code for language, code in BLOCKS if language == "text")
    folders: list[str] = []
    for line in tree.splitlines():
        name = line.strip().split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name.rstrip("/")]
        path = ROOT.joinpath(*folders)
        assert path.is_dir() if name.endswith("/") else path.exists(), name


def test_every_command_is_a_verb(capsys):
    words = {line.split()[1] for _, code in BLOCKS for line in code.splitlines() if line.startswith("tablefold ")}
    assert words
    for word in words:
        assert cli.main([word, "--help"]) == 0
    capsys.readouterr()


def test_pictures_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
