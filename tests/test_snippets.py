"""Every command and every snippet of the README and of the site's pages runs as it is printed.

A page is read from top to bottom in a folder of its own: Python runs in one namespace, `tablefold` commands in this
process, and blocks whose first line is `# name.py` or `# name.toml` become files. Pages of reference begin with a log,
a run and what else their words stand for. What is not run here is listed, with the test that does.
"""

import re
import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from boxes import run
from tablefold import cli

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")
OTHERS = {"pip", "make", "curl", "torchrun", "RUN"}
"""Programs that are not ours. `make demo` has a test in tests/cli, torchrun in tests/train, curl in tests/serving."""
ELSEWHERE = {"serve", "study", "demo", "warmup"}
"""Commands that run for minutes, or until they are ended: their own tests run them. Here their words are checked."""


@dataclass(frozen=True)
class Page:
    """How a page is run: other words for some of its own, smaller sizes for one; the rest is as printed.

    Args:
        path: of it.
        words: to put in the place of others, in order.
        begins: with a prepared log and a run.
        python: whether its Python is run here; other tests have that of the others.
    """

    path: str
    words: dict[str, str] = field(default_factory=dict)
    begins: bool = False
    python: bool = True


SMALL = {"--rows 20000": "--rows 2000", "--rows 4000": "--rows 2000"}
RUNS = {"--out RUN": "--out RUN --bottom-mlp 16 --top-mlp 16", "--out run": "--out run --bottom-mlp 16 --top-mlp 16"}
RANKED = {
    "--epochs 8 --out RUN": "--epochs 1 --out RANKED",
    "evaluate RUN --ranking": "evaluate RANKED --ranking",
    "recommend RUN": "recommend RANKED",
}
PAGES = [
    Page("README.md", {**RUNS, "--out best": "--out best --bottom-mlp 16 --top-mlp 16"}, begins=True),
    Page("docs/index.md"),
    Page("docs/start.md", SMALL),
    Page("docs/log-to-model.md", {**SMALL, "--patience 2 --lr-decay linear": "--bottom-mlp 16 --top-mlp 16"}),
    Page("docs/choose.md", begins=True),
    Page("docs/ship.md", SMALL),
    Page("docs/scale.md", {"DIR": "log", **RUNS, "--checkpoint-every 500": "--checkpoint-every 5"}, begins=True),
    Page("docs/fold.md", {"500MB": "50KB"}, begins=True),
    Page("docs/hosts.md"),
    Page("docs/formats.md", RUNS, begins=True),
    Page("docs/export.md", begins=True),
    Page(
        "docs/data.md",
        {"SOURCE FILE...": "criteo train.txt", "OUT --rows N": "made.txt --rows 500"},
        True,
        python=False,
    ),
    Page("docs/training.md", {"DIR": "log", **RANKED, **RUNS}, begins=True, python=False),
    Page("docs/serving.md", RUNS, begins=True, python=False),
    Page("docs/studies.md", begins=True),
]


def blocks(path):
    return BLOCK.findall((ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def beginning(tmp_path_factory):
    """What pages of reference speak of: raw lines, a prepared log, a run, somebody's files."""
    folder = tmp_path_factory.mktemp("beginning")
    raw, log = str(folder / "train.txt"), str(folder / "log")
    assert cli.main(["generate", raw, "--rows", "2000", "--preset", "criteo-kaggle"]) == 0
    assert cli.main(["prepare", "criteo", raw, "--out", log, "--min-count", "1"]) == 0
    sizes = ["--bottom-mlp", "16", "--top-mlp", "16"]
    assert cli.main(["train", log, "--method", "qr", "--compression", "4", *sizes, "--out", str(folder / "RUN")]) == 0
    shutil.copytree(folder / "RUN", folder / "run")
    shutil.copy(raw, folder / "today.txt")
    random = np.random.default_rng(0)
    likes = {"user": random.integers(0, 90, 3_000), "item": random.integers(0, 60, 3_000)}
    frame = pl.DataFrame(likes).unique(maintain_order=True)
    for name in ("likes", "log", "movielens1m"):
        frame.write_parquet(folder / f"{name}.parquet")
    frame.select("user").unique().write_parquet(folder / "new.parquet")
    users = random.integers(0, 300, 2_000)
    clicks = {"clicked": users % 2, "user": users, "city": users % 7, "age": users % 60 + 0.5}
    pl.DataFrame(clicks).write_parquet(folder / "clicks.parquet")
    days = pl.DataFrame(clicks).with_columns(user=pl.col("user") + pl.int_range(pl.len()) // 1000 * 20)
    days.head(1_000).write_parquet(folder / "monday.parquet")
    days.tail(1_000).write_parquet(folder / "tuesday.parquet")
    rows = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)[random.integers(0, 64, 4_000)]
    save_file({"user.weight": rows}, folder / "model.safetensors")
    return folder


def clear(words):
    """Remove what a command is going to write: pages write to one place more than once."""
    if "--out" in words:
        out = Path(words[words.index("--out") + 1])
        if out.is_dir():
            shutil.rmtree(out)
        out.unlink(missing_ok=True)


def command(line):
    """Run a line of a page."""
    words = shlex.split(line, comments=True)
    if not words or words[0] in OTHERS or "..." in words:
        return
    assert words[0] == "tablefold", line
    if words[1] in ELSEWHERE:
        assert_known(words)
        return
    clear(words)
    assert cli.main(words[1:]) == 0, line


def assert_known(words):
    """That a verb has every option it is given."""
    verbs = [word for word in words[1:3] if re.fullmatch("[a-z]+", word)] if words[1] == "study" else words[1:2]
    shown = run("-m", "tablefold", *verbs, "--help").stdout
    assert not [word for word in words if word.startswith("--") and word not in shown], words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: Path(page.path).stem)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, request):
    here = tmp_path / "here"
    if page.begins:
        shutil.copytree(request.getfixturevalue("beginning"), here)
    here.mkdir(exist_ok=True)
    monkeypatch.chdir(here)
    names = {}
    for language, code in blocks(page.path):
        for word, other in page.words.items():
            code = code.replace(word, other)
        if written := FILE.match(code):
            (here / written[1]).write_text(code)
        elif language == "python" and page.python:
            exec(compile(code, page.path, "exec"), names)
        elif language in ("sh", ""):
            for line in code.splitlines():
                if line.startswith(("tablefold ", *OTHERS)):
                    command(line)


def test_every_page_is_run_or_has_nothing_to_run():
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} | {"README.md"}
    run_elsewhere = {"docs/extend.md"}
    for path in pages - {page.path for page in PAGES} - run_elsewhere:
        assert not [code for language, code in blocks(path) if language in ("python", "sh")], path


def test_a_package_of_ones_own_is_found(tmp_path):
    """docs/extend.md: its files are installed as a package's, and its commands run in a process that finds it."""
    for _, code in blocks("docs/extend.md"):
        if written := FILE.match(code):
            (tmp_path / written[1]).write_text(code)
    entries = (tmp_path / "pyproject.toml").read_text()
    folder = tmp_path / "shop-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    groups = re.findall(r'\[project\.entry-points\."([\w.]+)"\]\n((?:\w+ = ".*"\n)+)', entries)
    (folder / "entry_points.txt").write_text("\n".join(f"[{name}]\n{lines}" for name, lines in groups).replace('"', ""))
    parts = [f"import os, sys; os.chdir({str(tmp_path)!r}); sys.path.insert(0, {str(tmp_path)!r})"]
    for language, code in blocks("docs/extend.md"):
        if language == "python" and not FILE.match(code):
            parts.append(code)
        if language == "sh":
            words = [shlex.split(line, comments=True)[1:] for line in code.splitlines()]
            parts.append(f"from tablefold.cli import main\nassert not any(main(words) for words in {words!r})")
    done = run("-c", "\n".join(parts))
    assert done.returncode == 0, done.stderr
    assert "shop_nets: the penalty is on the folded memory now" in done.stdout
    assert "frequent ids own a row, the others share one" in done.stdout
