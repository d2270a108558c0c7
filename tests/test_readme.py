"""What README and CONTRIBUTING say is so: the Python runs, the files exist, the commands are verbs."""

import re
from pathlib import Path

import pytest

from tablefold import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w*)\n(.*?)```", flags=re.DOTALL)
BLOCKS = BLOCK.findall(README)
PAGES = [
    block for page in ("fold", "hosts") for block in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text("utf-8"))
]


@pytest.mark.parametrize("code", [code for language, code in (*BLOCKS, *PAGES) if language == "python"])
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_every_file_of_the_tree_exists():
    tree = next(code for language, code in BLOCK.findall(CONTRIBUTING) if language == "text")
    folders: list[str] = []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in line.strip().split("   ")[0].split():
            folders[depth:] = [name.rstrip("/")]
            path = ROOT.joinpath(*folders)
            assert path.is_dir() if name.endswith("/") else path.exists(), name


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), target


def test_every_command_is_a_verb(capsys):
    words = {line.split()[1] for _, code in BLOCKS for line in code.splitlines() if line.startswith("tablefold ")}
    assert words
    for word in words:
        assert cli.main([word, "--help"]) == 0
    capsys.readouterr()


def test_pictures_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).exists(), path
