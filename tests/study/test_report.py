"""The page of a study: everything on it, nothing from elsewhere."""

import re
import sys
from html.parser import HTMLParser

import pytest

from tablefold.study.report import finding, group_series, render


def result(series, asked, auc, size=1_000_000):
    return {
        "method": f"{series}:floats={size // asked}",
        "series": series,
        "asked": asked,
        "embedding_bytes": size // asked,
        "compression": float(asked),
        "auc": auc,
        "logloss": 0.4,
        "samples_per_second": 12_345.6,
    }


FULL = result("full", 1, 0.80)
FOLDED = [
    *(result("plain", asked, 0.79 - 0.01 * asked) for asked in (4, 8, 2)),
    *(result("good", asked, 0.795 - 0.001 * asked) for asked in (2, 4, 8)),
]


def page(**changes):
    parts = {"title": "A <title>", "lead": "a & b", "results": [FULL, *FOLDED], "facts": {"data": "<log>"}}
    return render(**{**parts, **changes})


def test_every_run_is_on_the_page():
    text = page()
    rows = re.findall(r"<tr><th scope='row'><code>(.*?)</code>.*?</tr>", text)
    assert rows == [one["method"] for one in [FULL, *FOLDED]]
    assert "12,346" in text
    assert "<td data-name='AUC'>0.7930</td>" in text
    assert "<td data-name='against full'>-0.0070</td>" in text


def test_it_is_whole_and_well_formed():
    text = page()
    assert "{{" not in text
    assert "A &lt;title&gt;" in text
    assert "a &amp; b" in text
    assert "&lt;log&gt;" in text
    assert text.count("<svg") == text.count("</svg>") == 2
    elsewhere = re.findall(r"""(?:src|href)=["'](?!#)|url\((?!#)|<script|@import""", text)
    assert elsewhere == []
    opened = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: opened.append(tag)
    parser.handle_endtag = lambda tag: opened.remove(tag)
    parser.feed(text)
    assert set(opened) <= {"meta"}


def test_figures_name_every_series_and_are_reproducible():
    text = page()
    assert text == page()
    for label in ("plain", "good", "full tables", "AUC on the test part", "compression"):
        assert f">{label}</text>" in text


def test_series_run_from_small_to_large():
    plain, good = group_series(FOLDED)
    assert (plain.label, good.label) == ("plain", "good")
    assert [size for size, _ in plain.points] == [125_000, 250_000, 500_000]


def test_the_finding_compares_equal_bytes():
    assert finding(FULL, FOLDED) == (
        "In 1/2 of the bytes, good loses 0.007 AUC; plain loses 0.030. "
        "In 1/4 of the bytes, good loses 0.009 AUC; plain loses 0.050."
    )
    worse = [result("plain", 2, 0.79), result("bad", 2, 0.7)]
    assert finding(FULL, worse) == "In 1/2 of the bytes, no method beats plain."


def test_without_matplotlib_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'tablefold\[report\]'"):
        page()
