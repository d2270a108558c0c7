"""One self-contained HTML page about some runs on one dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from tablefold.study.chart import Series, auc_against_bytes
from tablefold.tables import show_bytes

Result = Mapping[str, Any]


def render(title: str, lead: str, results: Sequence[Result], facts: Mapping[str, str]) -> str:
    """The page as text: headline, figure, table of all runs, facts. It needs no network and no script.

    Args:
        title: of the page.
        lead: a paragraph below it.
        results: of the runs, as in `result.json`, the first that of the full tables. Each other one has a `series`,
            the method as it was asked for, and `asked`, the compression asked for; the first series is the baseline.
        facts: what the figures rest on, by name.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    full, *folded = results
    series = group_series(folded)
    reference = (full["embedding_bytes"], full["auc"])
    parts = {
        "title": escape(title),
        "lead": escape(lead),
        "finding": escape(finding(full, folded)),
        "wide": auc_against_bytes(series, reference, (9.6, 5.0)),
        "narrow": auc_against_bytes(series, reference, (4.6, 4.8)),
        "rows": "\n".join(_row(result, full) for result in results),
        "facts": "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()),
    }
    page = files("tablefold.study").joinpath("report.html").read_text()
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def group_series(results: Sequence[Result]) -> list[Series]:
    """The runs of each method as a line, in the order in which the methods first occur."""
    labels = dict.fromkeys(result["series"] for result in results)
    return [
        Series(label, tuple(sorted((r["embedding_bytes"], r["auc"]) for r in results if r["series"] == label)))
        for label in labels
    ]


def finding(full: Result, folded: Sequence[Result]) -> str:
    """What the runs show, in two sentences at most: the best method against the baseline at equal bytes."""
    baseline = folded[0]["series"]
    sizes = sorted({result["asked"] for result in folded if result["series"] == baseline})
    sentences = []
    for size in (sizes[0], sizes[len(sizes) // 2]):
        equal = [result for result in folded if result["asked"] == size]
        best = max(equal, key=lambda result: result["auc"])
        plain = next(result for result in equal if result["series"] == baseline)
        if best is plain:
            sentences.append(f"In 1/{size} of the bytes, no method beats {baseline}.")
        else:
            loss, plain_loss = full["auc"] - best["auc"], full["auc"] - plain["auc"]
            sentences.append(
                f"In 1/{size} of the bytes, {best['series']} loses {loss:.3f} AUC; {baseline} loses {plain_loss:.3f}."
            )
    return " ".join(dict.fromkeys(sentences))


def _row(result: Result, full: Result) -> str:
    cells = {
        "bytes": show_bytes(result["embedding_bytes"]),
        "compression": f"{result['compression']:,.3g}x",
        "AUC": f"{result['auc']:.4f}",
        "against full": f"{result['auc'] - full['auc']:+.4f}" if result is not full else "",
        "log loss": f"{result['logloss']:.4f}",
        "samples/s": f"{result['samples_per_second']:,.0f}",
    }
    method = f"<th scope='row'><code>{escape(result['method'])}</code></th>"
    return f"<tr>{method}{''.join(f'<td data-name={name!r}>{text}</td>' for name, text in cells.items())}</tr>"
