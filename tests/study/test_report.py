"""The page of a study: everything on it, nothing from elsewhere."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tablefold.study.figures import charts
from tablefold.study.findings import best_at_each_size, finding
from tablefold.study.loading import load_study
from tablefold.study.report import render, write_report
from tablefold.study.results import pareto_front, slices

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data") and not value.startswith("#"):
                self.fetched.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing(make_results):
    text = render(make_results(models=("dlrm", "dcn")))
    assert Page(text).fetched == ["data:,"]
    assert not re.search(r"url\((?!#)|<script|@import", text)
    assert "{{" not in text
    assert "Costs &amp; &lt;benefits&gt;" in text
    assert text == render(make_results(models=("dlrm", "dcn")))


def test_every_setting_is_in_a_table_with_its_figures(make_results):
    study = make_results()
    text = render(study)
    every_run = text[text.index("Every run") :]
    rows = re.findall(r"<tr><td.*?</tr>", every_run)
    assert len(rows) == 1 + 3 * 4
    first = rows[1]
    for cell in ("hash:floats=500", "2 MB", "2x", "0.7810 ± 0.0010", "-0.0200", "0.2190 ± 0.0010", "17,459", "500 MB"):
        assert cell in first, cell
    assert every_run.count("Pareto front</span>") == 5
    assert "qr:combine=mul 10000x" in every_run  # the impossible one, with its reason
    assert "a budget of 1 bytes is too small" in every_run


def test_settings_stand_side_by_side(make_results):
    text = render(make_results(models=("dlrm", "dcn")))
    table = text[text.index("under every setting") : text.index("<section>")]
    row = re.search(r"<tr><td[^>]*><code>hash:floats=62</code>.*?</tr>", table)[0]
    assert re.findall(r'data-name="(.*?)"[^>]*>(.*?)</td>', row)[1:] == [
        ("dlrm", "0.7610 ± 0.0010"),
        ("dcn", "0.7610 ± 0.0010"),
    ]
    assert "under every setting" not in render(make_results())


def test_the_facts_say_what_the_figures_rest_on(make_results):
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", render(make_results())))
    assert facts["data"] == (
        "log: 30,000 rows, 25.00% positive, 13 dense columns, 2 tables with 1,000 ids, prepared from criteo"
    )
    assert facts["split"] == "train 10,000, test 10,000, validation 10,000 rows"
    assert facts["order of ids"] == "as prepared, by frequency"
    assert facts["runs"] == "39 done of 42, seeds 0, 1, 2, 1 at a time"
    assert facts["versions"] == "tablefold 0.1.0, torch 2.13.0, Python 3.11.7"
    assert facts["commit"] == "abc123"
    assert "A CPU, 2 cores, 24 GB" in facts["machine"]


def test_figures_show_plain_hashing_and_the_full_tables(make_results):
    ((title, group),) = slices(make_results().summaries())
    found = charts(title, group)
    assert [(one.x, one.y) for one in found] == [
        *(("bytes", f"{figure} (test)") for figure in ("AUC", "log loss")),
        *(("iterations", f"{figure} (validation)") for figure in ("AUC", "log loss")),
        *(("seconds", f"{figure} (validation)") for figure in ("AUC", "log loss")),
    ]
    for one in found:
        assert {"full tables", "hash"} <= {line.label for line in one.lines}
        for line in one.lines:
            assert list(line.points) == sorted(line.points)
            assert all(point.std == pytest.approx(0.001) for point in line.points)
    text = render(make_results())
    assert text.count("<svg") == text.count("<figure>") == 6
    for label in ("hash", "robe:block=4", "full tables", "AUC (test)", "compression", "Pareto front"):
        assert f">{label}</text>" in text


def test_the_front_is_beaten_by_nobody(make_results):
    summaries = make_results().summaries()
    front = pareto_front(summaries)
    assert [one.label for one in front][-1] == "full"
    assert {one.series for one in front[:-1]} == {"robe:block=4"}
    for one in (one for one in summaries if one.done):
        assert any(other.bytes <= one.bytes and other.auc >= one.auc for other in front)


def test_the_finding_compares_equal_sizes(make_results):
    groups = slices(make_results().summaries())
    rows = best_at_each_size(groups[0][1])
    assert [(row.size, row.best.series) for row in rows] == [
        (size, "robe:block=4") for size in ("2x", "16x", "128x", "1000x")
    ]
    assert finding(groups) == [
        "at 1000x, robe:block=4 reaches AUC 0.7690, 0.0480 ± 0.0014 more than hash; the full tables reach 0.8010."
    ]
    alone = slices(make_results(methods=("hash", "qr:combine=mul")).summaries())
    assert "qr:combine=mul" in finding(alone)[0]
    assert finding(slices(make_results(methods=("hash",)).summaries())) == []


def test_the_cost_of_a_quality_is_held_against_the_full_tables(make_results):
    text = render(make_results())
    table = text[text.index("What it takes") : text.index("Every run")]
    assert "auc of at least 0.7803" in table
    row = re.search(r"<tr><td[^>]*><code>robe:block=4:floats=62</code>.*?</tr>", table)[0]
    assert re.findall(r'data-name="(.*?)"[^>]*>(.*?)</td>', row)[2:] == [
        ("iterations", "280"),
        ("seconds", "14.0"),
        ("samples/s", "49,382"),
        ("iterations against full", "1.75x"),
        ("speed against full", "4.00x"),
        ("seconds against full", "1.75x"),
    ]
    assert "not reached" in table


def test_a_real_study_makes_a_page_and_its_figures(small_study, tmp_path):
    study = load_study(small_study)
    figures = write_report(study, tmp_path / "report.html", tmp_path / "figures")
    names = {f"{figure}-{x}.{kind}" for figure in ("auc", "logloss") for x in ("bytes", "iterations", "seconds")
             for kind in ("svg", "png")}  # fmt: skip
    assert {path.name for path in figures} == {path.name for path in (tmp_path / "figures").iterdir()} == names
    assert (tmp_path / "figures" / "auc-bytes.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "report.html").read_text()
    assert "Small &amp; &lt;new&gt;" in text
    assert all(run.result["method"] in text for run in study.runs if run.result)


def test_without_matplotlib_it_says_how_to_get_it(make_results, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'tablefold\[report\]'"):
        render(make_results())


PROBE = """<script>
const problems = [];
window.addEventListener('error', event => problems.push(String(event.message)), true);
for (const name of ['error', 'warn']) { console[name] = (...words) => problems.push(words.join(' ')); }
window.addEventListener('load', () => setTimeout(() => {
  const figures = [...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect());
  const told = {
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    figures: figures.length, smallest: Math.min(...figures.map(one => Math.min(one.width, one.height))),
    widest: Math.max(...[...document.querySelectorAll('body *')].map(one => one.getBoundingClientRect().right)),
    problems,
  };
  document.body.innerHTML = '<pre id=told>' + JSON.stringify(told) + '</pre>';
}, 50));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page is not looked at in a browser")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_without_errors_and_without_scrolling_sideways(make_results, tmp_path, width):
    # Chromium's own window is at least 500 pixels wide; a frame may be as narrow as a phone.
    page = tmp_path / "page.html"
    page.write_text(render(make_results(models=("dlrm", "dcn"))).replace("<head>", f"<head>{PROBE}"))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:800px"></iframe>'
        "<script>"
        "addEventListener('load', () => setTimeout(() => document.body.textContent ="
        "document.querySelector('iframe').contentDocument.body.textContent, 400));</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--window-size=1300,900"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    told = re.search(r"\{.*\}", done.stdout)
    assert told, done.stdout[-2000:]
    told = json.loads(told[0].replace("&amp;", "&"))
    assert told["width"] == width
    assert told["scroll"] <= width
    assert told["widest"] <= width
    assert told["figures"] == 12
    assert told["smallest"] > 200
    assert told["problems"] == []
