"""The page of a study: everything on it, nothing from elsewhere."""

import dataclasses
import itertools
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tablefold.cli import _parse
from tablefold.plans import Wishes
from tablefold.study.chart import spread_out
from tablefold.study.figures import charts
from tablefold.study.findings import best_at_each_size, choices, headline, how_to_use, warnings
from tablefold.study.loading import load_study
from tablefold.study.next_commands import next_commands
from tablefold.study.palette import contrast, style_sheet
from tablefold.study.report import render, write_report
from tablefold.study.results import RunResult, Summary, difference, pareto_front, slices, summarise

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
    for cell in (
        "<summary>hash</summary><code>hash:floats=500</code>",
        "2\N{NO-BREAK SPACE}MB",
        "2x",
        "0.7810 ±\N{NO-BREAK SPACE}0.0010",
        "-0.0200 ±\N{NO-BREAK SPACE}0.0000",
        "0.2190 ±\N{NO-BREAK SPACE}0.0010",
        "17,459",
        "500\N{NO-BREAK SPACE}MB",
    ):
        assert cell in first, cell
    assert every_run.count("Pareto front</span>") == 5
    assert "<li>qr mul 10000x, dlrm: impossible" in every_run
    assert "a budget of 1 bytes is too small" in every_run


def test_settings_stand_side_by_side(make_results):
    text = render(make_results(models=("dlrm", "dcn")))
    table = text[text.index("under every setting") : text.index("<section>")]
    row = next(row for row in re.findall(r"<tr><td.*?</tr>", table) if "<code>hash:floats=62</code>" in row)
    assert re.findall(r'data-name="(.*?)"[^>]*>(.*?)</td>', row)[1:] == [
        ("size", "16x"),
        ("dlrm", "0.7610 ±\N{NO-BREAK SPACE}0.0010"),
        ("dcn", "0.7610 ±\N{NO-BREAK SPACE}0.0010"),
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
    assert text.count("<svg") == text.count("</figure>") == 7  # the first is there twice: wide, and for a phone
    ids = re.findall(r' id="(.*?)"', text)
    assert len(ids) == len(set(ids))
    for label in ("hash", "qr mul", "robe block\N{NO-BREAK SPACE}4", "full tables", "AUC (test)", "compression"):
        assert f">{label}</text>" in text
    assert "rings: the Pareto front; bands: standard deviation over 3 seeds" in text


def made(series, size, bytes_, aucs, curve=(), storage="fp32"):
    """A made-up summary of one run per AUC."""
    result = {"method": series, "embedding_bytes": bytes_, "compression": 4_000_000 / bytes_, "storage": storage}
    wishes = Wishes(storage=storage, threshold=0)
    runs = [
        RunResult(
            series, series, size, {}, wishes, seed, result={**result, "auc": auc, "logloss": 1 - auc}, curve=curve
        )
        for seed, auc in enumerate(aucs)
    ]
    return Summary(series, size, {}, wishes, tuple(runs))


def test_the_front_is_beaten_by_nobody(make_results):
    summaries = make_results().summaries()
    front = pareto_front(summaries)
    assert [one.title for one in front][-1] == "full tables"
    assert {one.series for one in front[:-1]} == {"robe:block=4"}


def test_the_front_has_a_tolerance_in_bytes_and_in_noise():
    full = made("full", "", 4_000_000, [0.80, 0.80])
    good = made("robe", "64x", 62_500, [0.770, 0.772])
    little = made("hash", "60x", 62_400, [0.510, 0.512])  # 0.2 % fewer bytes are no reason to take it
    asked = made("unified", "64x", 60_000, [0.720, 0.722])  # nor are the bytes that a size of 64x leaves unused
    alike = made("qr", "63x", 62_800, [0.769, 0.772])  # no worse than the noise
    waste = made("path", "8x", 500_000, [0.771, 0.771])  # eight times the bytes for nothing
    more = made("mixed_radix", "4x", 1_000_000, [0.79, 0.79])
    front = pareto_front([full, little, good, asked, alike, waste, more])
    assert front == [good, alike, more, full]


def test_every_badge_of_a_single_seed_needs_a_difference():
    one, other = made("hash", "4x", 1000, [0.7000]), made("qr", "4x", 1000, [0.7005])
    assert pareto_front([one, other]) == [other, one]
    better = made("qr", "4x", 1000, [0.7015])
    assert pareto_front([one, better]) == [better]


def test_the_headline_says_what_to_take_and_why(make_results):
    ((_, group),) = slices(make_results().summaries())
    assert headline(group) == [
        "Use robe block 4: 2x smaller, AUC -0.0080 ± 0.0000 (full 0.8010).",
        "It is the smallest in this study that loses at most 0.01; "
        "the best of those that are smaller, robe block 4 at 16x, loses 0.0160.",
        "Plain hashing (hash) in as many bytes: AUC -0.0200 ± 0.0000.",
    ]
    assert [(one.loss, one.taken.title, one.taken.size) for one in choices(group)] == [
        (0.01, "robe block 4", "2x"),
        (0.03, "robe block 4", "128x"),
        (0.1, "robe block 4", "1000x"),
    ]
    assert how_to_use(choices(group)[1]) == ["--method robe:block=4", "--compression 128"]
    text = render(make_results())
    assert '<p class="answer">Use robe block 4: 2x smaller, AUC -0.0080 ± 0.0000 (full 0.8010).</p>' in text
    places = [text.index(part) for part in ('class="answer"', "<svg", "It is the smallest", "<table", "run next")]
    assert places == sorted(places)
    assert "within 0.01 of the full tables&#x27; (0.03 or 0.1 where none does)" in text
    assert "<code>--method robe:block=4</code> <code>--compression 128</code>" in text
    assert 'class="warning"' not in text


def test_the_headline_bears_more_where_nothing_is_near_and_takes_the_better_of_equal_sizes():
    full = made("full", "", 4_000_000, [0.80])
    far = [made("hash", "4x", 1_000_000, [0.771]), made("qr", "4x", 1_001_000, [0.775])]
    assert headline([full, *far])[0] == "Use qr: 4x smaller, AUC -0.0250 (full 0.8000)."
    assert "loses at most 0.03, and the smallest that was tried" in headline([full, *far])[1]
    assert "Keep the full tables" in headline([full, made("hash", "4x", 1_000_000, [0.6])])[0]
    assert headline(far) == []
    int8 = made("robe in int8", "collisions=4", 1_000_000, [0.80], storage="int8")
    int8.runs[0].result.update(method="robe:block=8,floats=70")
    assert how_to_use(choices([full, int8])[0]) == ["--method robe:block=8,floats=70", "--storage int8"]


def test_what_a_plan_has_chosen_is_told_and_asked_for_again():
    full = made("full", "", 4_000_000, [0.80])
    (run,) = made("qr", "4x", 1_000_000, [0.80], storage="int4").runs
    for wishes, title, options in (
        (Wishes(compression=4), "qr in int4", ["--method qr", "--compression 4"]),
        (Wishes(budget=70, threshold=5), "qr in int4 above 5 rows", ["--method qr", "--budget 70", "--threshold 5"]),
        (
            Wishes(compression=4, storage="int4", threshold=0),
            "qr",
            ["--compression 4", "--storage int4", "--threshold 0"],
        ),
        (Wishes(compression=4, with_pointers=True), "qr in int4", ["--compression 4", "--with-pointers"]),
    ):
        (one,) = summarise([replace(run, wishes=wishes)])
        assert one.title == title
        assert how_to_use(choices([full, one])[0])[-len(options) :] == options


def test_the_figures_of_bytes_are_shown_where_they_are_known():
    one = made("qr", "4x", 1_000_000, [0.80, 0.81])
    assert one.other_bytes() == {"with pointers": None, "artefact": None, "in training": None}
    for run in one.runs:
        run.result.update(embedding_bytes_with_pointers=1_000_000, artefact_bytes=3_000_000, training_bytes=16_000_000)
    assert one.other_bytes() == {"with pointers": 1_000_000, "artefact": 3_000_000, "in training": 16_000_000}


def test_a_difference_is_taken_seed_by_seed():
    full, one = made("full", "", 4_000_000, [0.80, 0.82]), made("qr", "4x", 1_000_000, [0.79, 0.812])
    assert difference(one, full).show_change() == "-0.0090 ± 0.0014"
    more = made("qr", "4x", 1_000_000, [0.79, 0.81, 0.80])
    assert difference(more, full).mean == pytest.approx(-0.01)
    assert difference(more, full).std == pytest.approx(math.hypot(0.01, 0.02 / math.sqrt(2)))
    assert difference(one, made("full", "", 4_000_000, [0.80])).show_change() == "+0.0010"


def curve_of(*losses):
    return tuple({"logloss": loss} for loss in losses)


SCHEDULES = {
    (0.5, 0.4, 0.45): "overtrained on this schedule: their validation log loss rose again, by 0.0500",
    (0.5, 0.45, 0.4): "undertrained on this schedule: their validation log loss still fell, by 0.0500",
}


def test_a_poor_yardstick_is_told():
    better = made("qr", "4x", 1_000_000, [0.81, 0.811])
    for losses, words in {**SCHEDULES, (): "over- or undertrained on this schedule"}.items():
        full = made("full", "", 4_000_000, [0.80, 0.801], curve_of(*losses))
        (warning,) = warnings([full, better])
        assert warning.startswith("Folded tables beat the full ones here (qr at 4x by 0.0100)")
        assert words in warning
    noisy = made("full", "", 4_000_000, [0.79, 0.82])
    assert warnings([noisy, better]) == []


def test_a_poor_yardstick_is_told_also_where_it_was_not_beaten():
    worse = made("qr", "4x", 1_000_000, [0.79, 0.791])
    for losses, words in SCHEDULES.items():
        full = made("full", "", 4_000_000, [0.80, 0.801], curve_of(*losses))
        (warning,) = warnings([full, worse])
        assert warning.startswith("Mind the yardstick: the full tables are ")
        assert words in warning
    settled = made("full", "", 4_000_000, [0.80, 0.801], curve_of(0.5, 0.45, 0.4, 0.3995))
    assert warnings([settled, worse]) == []
    patient = replace(made("full", "", 4_000_000, [0.80, 0.801], curve_of(0.5, 0.4, 0.45)), settings={"patience": 1})
    assert warnings([patient, worse]) == []  # its best weights were kept


def test_the_page_ends_with_commands_that_the_command_line_takes(make_results):
    ((_, group),) = slices(make_results().summaries())
    settings = {**group[0].settings, "lr": 0.02, "batch_size": 64, "model_options": {"top_mlp": (8, 4)}, "epochs": 1}
    group = [replace(one, settings=settings) for one in group]
    (what, command), (_, then) = next_commands(group, "my data")
    assert what == "Train it on all rows"
    assert command == (
        "tablefold train 'my data' --method robe:block=4 --compression 2 "
        "--lr 0.02 --batch-size 64 --top-mlp 8,4 --out best"
    )
    for words in map(shlex.split, (command, then)):
        _, args, _ = _parse(words[1:])
        assert args.verb in ("train", "predict")
    assert next_commands(group[1:], "data") == []
    far = [group[0], made("hash", "4x", 1_000_000, [0.6])]
    assert [command.split()[:3] for _, command in next_commands(far, "data")] == [
        ["tablefold", "study", "show"],
        ["tablefold", "study", "run"],
    ]
    text = render(make_results(), data="there/data")
    assert "<code>tablefold train there/data --method robe:block=4 --compression 2 --out best</code>" in text


def test_colours_can_be_told_from_the_ground_by_day_and_at_night(make_results):
    for ground, page in re.findall(r":root { color-scheme: .*?--ground: (#\w+);(.*?) }", style_sheet()):
        colors = re.findall(r"--(\w+?)\d*: (#\w+);", page)
        assert {"series", "name", "ink", "soft", "accent", "warn"} <= {name for name, _ in colors}
        for name, color in colors:
            if name not in ("line", "faint", "answer"):
                assert contrast(color, ground) >= (3 if name == "series" else 4.5), (name, color, ground)
    text = render(make_results())
    assert "prefers-color-scheme: dark" in text
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        assert not re.search(r"#[0-9a-f]{6}\b", svg)  # every colour is the page's


def test_who_cannot_see_a_figure_is_told_what_it_shows(make_results):
    text = render(make_results())
    told = re.search(r'aria-label="(AUC on the test part.*?)"', text)[1]
    assert "full tables 0.8010 at 4 MB; hash 0.7210 at 4 kB to 0.7810 at 2 MB; " in told


def test_one_seed_has_no_spread_and_the_page_says_so(make_results):
    study = make_results()
    alone = dataclasses.replace(study, runs=tuple(run for run in study.runs if run.seed == 0))
    text = render(alone)
    assert "One seed each: there is no spread" in text
    assert "one seed, so no spread" in text
    assert "±" not in text[text.index("<section>") :]
    some = dataclasses.replace(study, runs=tuple(run for run in study.runs if run.seed == 0 or run.series == "hash"))
    assert "10 of 14 settings" not in render(some)
    assert "9 of 13 settings have one seed only" in render(some)


def test_text_in_figures_can_be_read_on_a_phone(make_results):
    text = render(make_results())
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(svgs) == 7
    for svg in svgs[1:]:  # without the wide one, which phones do not show
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )?([\d.]+)px", svg)]
        assert sizes
        assert min(sizes) * (375 - 2 * 16) / width >= 12
        assert "legend" not in svg


@pytest.mark.parametrize("count", [1, 5, 9])
def test_labels_stand_near_their_lines_and_never_on_another(count):
    wanted = [50 + (number % 3) for number in range(count)]
    heights = [10.0 + number % 2 for number in range(count)]
    places = spread_out(wanted, heights, 120)
    edges = sorted((place - height / 2, place + height / 2) for place, height in zip(places, heights, strict=True))
    assert edges[0][0] >= 0
    assert edges[-1][1] <= 120
    assert all(below[1] <= above[0] + 1e-9 for below, above in itertools.pairwise(edges))
    assert spread_out([-5, 130], [10, 10], 120) == [5, 115]


def test_the_best_at_each_size_is_compared_with_hashing(make_results):
    ((_, group),) = slices(make_results().summaries())
    assert [(row.size, row.best.series, row.plain.series) for row in best_at_each_size(group)] == [
        (size, "robe:block=4", "hash") for size in ("2x", "16x", "128x", "1000x")
    ]


def test_the_cost_of_a_quality_is_held_against_the_full_tables(make_results):
    text = render(make_results())
    table = text[text.index("What it takes") : text.index("Every run")]
    assert "auc of at least 0.7803" in table
    row = next(row for row in re.findall(r"<tr><td.*?</tr>", table) if "<code>robe:block=4:floats=62</code>" in row)
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
  const shown = one => one.getClientRects().length > 0;
  const figures = [...document.querySelectorAll('figure svg')].filter(shown).map(svg => svg.getBoundingClientRect());
  const told = {
    width: innerWidth, scroll: document.documentElement.scrollWidth,
    figures: figures.length, smallest: Math.min(...figures.map(one => Math.min(one.width, one.height))),
    letters: Math.min(...[...document.querySelectorAll('figure svg text')].filter(shown).map(
      one => parseFloat(getComputedStyle(one).fontSize) * Math.hypot(one.getScreenCTM().a, one.getScreenCTM().b))),
    widest: Math.max(...[...document.querySelectorAll('body *')].map(one => one.getBoundingClientRect().right)),
    problems,
  };
  document.body.innerHTML = '<pre id=told>' + JSON.stringify(told) + '</pre>';
}, 50));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the page is not looked at in a browser")
@pytest.mark.parametrize("width", [375, 800, 1200])
@pytest.mark.parametrize("models", [("dlrm",), ("dlrm", "dcn")])
def test_a_browser_shows_it_without_errors_and_without_scrolling_sideways(make_results, tmp_path, width, models):
    # Chromium's own window is at least 500 pixels wide; a frame may be as narrow as a phone.
    page = tmp_path / "page.html"
    page.write_text(render(make_results(models=models)).replace("<head>", f"<head>{PROBE}"))
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
    assert told["figures"] == 6 * len(models)
    assert told["smallest"] > 200
    assert told["letters"] >= 12
    assert told["problems"] == []
