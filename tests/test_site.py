"""The site: it builds without a warning, every link and anchor resolves, every public name is in it."""

import importlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.util.inventory import InventoryFile

import tablefold

ROOT = Path(__file__).parent.parent
BOOK = (ROOT / "studies" / "LOG.md").read_text(encoding="utf-8")
PACKAGES = ["data", "models", "ops", "train"]
"""Those that say what of them is public, beside tablefold itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder, notebooks as they are written: other tests run them."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "-D", "nb_execution_mode=off"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([*command, ROOT / "docs", out], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return out


class Page(HTMLParser):
    """What a page links to, what can be linked in it, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors, self.loaded, self.without_words = [], set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.add(given.get("id"))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe"):
            self.loaded.append(given.get("src") or "")
        if tag == "link":
            self.loaded.append(given["href"])
        if (tag == "img" and not given.get("alt")) or (given.get("role") == "img" and not given.get("aria-label")):
            self.without_words.append(given)


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_link_and_anchor_resolves(pages):
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                lost.append(f"{path.name}: {link}")
    assert not lost


def test_nothing_comes_from_a_network(site, pages):
    assert not [
        source for page in pages.values() for source in page.loaded if urlsplit(source).scheme in ("http", "https")
    ]
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?https?:", style.read_text(encoding="utf-8")), style


def test_pictures_have_words(pages):
    assert not [(path.name, page.without_words) for path, page in pages.items() if page.without_words]


def test_every_public_name_is_documented(site):
    with (site / "objects.inv").open("rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    documented = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    public = {f"tablefold.{name}" for name in tablefold.__all__}
    for package in PACKAGES:
        module = importlib.import_module(f"tablefold.{package}")
        public |= {f"{module.__name__}.{name}" for name in module.__all__}
    twice = {"tablefold.ops.backend"}  # which is tablefold.backend
    assert not public - documented - twice


def test_packages_that_say_what_is_public_are_all_here():
    packages = (ROOT / "src/tablefold").glob("*/__init__.py")
    saying = {path.parent.name for path in packages if "__all__" in path.read_text(encoding="utf-8")}
    assert saying - {"compilation"} == set(PACKAGES)  # which is for the kernels alone


def test_figures_of_the_decision_tables_are_in_the_lab_book_or_the_results():
    results = (ROOT / "studies" / "results").glob("*.jsonl")
    lines = [json.loads(line) for path in results for line in path.read_text(encoding="utf-8").splitlines()]
    measured = {f"{line['auc']:.4f}"[1:] for line in lines if "auc" in line}
    page = (ROOT / "docs" / "choose.md").read_text(encoding="utf-8")
    figures = {
        figure for line in page.splitlines() if line.startswith("|") for figure in re.findall(r"\.\d{4}\b", line)
    }
    assert len(figures) > 50
    assert not [figure for figure in sorted(figures) if figure not in BOOK and figure not in measured]
