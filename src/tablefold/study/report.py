"""The report of a study: one self-contained HTML page, and its figures as files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from tablefold.files import new_file
from tablefold.study.chart import Chart, draw, to_png, to_svg
from tablefold.study.facts import describe
from tablefold.study.figures import charts
from tablefold.study.findings import (
    PLAIN,
    RULE,
    Best,
    Choice,
    best_at_each_size,
    choices,
    full_tables,
    headline,
    how_to_use,
    warnings,
)
from tablefold.study.names import show_compression
from tablefold.study.results import StudyResults, Summary, pareto_front, qualities, slices
from tablefold.tables import show_bytes

Cells = Mapping[str, str]
_OPTIONS = "options of tablefold train"
Show = Callable[[Chart], str]


def write_report(study: StudyResults, page: str | Path, figures: str | Path) -> list[Path]:
    """Write the page, and every figure as SVG and PNG into the folder `figures`; gives the figures' paths.

    Raises:
        ValueError: for a study without a finished run, or where matplotlib is not installed.
    """
    written: list[Path] = []

    def keep(chart: Chart) -> str:
        figure = draw(chart)
        svg = to_svg(figure, escape(chart.title, quote=True))
        for suffix, content in (("svg", svg.encode()), ("png", to_png(figure))):
            with new_file(Path(figures) / f"{chart.name}.{suffix}") as file:
                file.write_bytes(content)
            written.append(Path(figures) / f"{chart.name}.{suffix}")
        return svg

    text = _render(study, keep)
    with new_file(page) as file:
        file.write_text(text, encoding="utf-8")
    return written


def render(study: StudyResults) -> str:
    """The page as text: finding, figures, tables, facts. It needs no network and no script."""
    return _render(study, lambda chart: to_svg(draw(chart), escape(chart.title, quote=True)))


def _render(study: StudyResults, show: Show) -> str:
    summaries = study.summaries()
    if not any(summary.done for summary in summaries):
        raise ValueError(f"{study.folder} holds no finished run yet, so there is nothing to report")
    groups = [(title, group) for title, group in slices(summaries) if any(one.done for one in group)]
    parts = {
        "title": escape(study.title),
        "lead": escape(study.about),
        "finding": _finding(groups),
        "overview": _overview(groups),
        "sections": "\n".join(_section(title, group, study.target, show) for title, group in groups),
        "notes": _not_done(summaries),
        "facts": "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in describe(study).items()),
    }
    page = files("tablefold.study").joinpath("report.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _finding(groups: Sequence[tuple[str, Sequence[Summary]]]) -> str:
    """What to take and why, by which rule, and what a reader must know first; of the first four settings."""
    parts, chosen = [], False
    for title, group in groups[:4]:
        sentences = headline(group)
        if sentences:
            chosen = chosen or bool(choices(group))
            first, *rest = (escape(sentence) for sentence in sentences)
            setting = f"{escape(title)}: " if title else ""
            parts.append(f"<p>{setting}<strong>{first}</strong> {' '.join(rest)}</p>")
        parts += [f'<p class="warning">{escape(text)}</p>' for text in warnings(group)]
    if chosen:
        parts.append(f'<p class="rule">{escape(RULE)}</p>')
    return "".join(dict.fromkeys(parts))


def _overview(groups: Sequence[tuple[str, Sequence[Summary]]]) -> str:
    """AUC of every method at every size, the settings side by side; nothing where there is one setting."""
    if len(groups) < 2:
        return ""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for title, group in groups:
        for one in (one for one in group if one.done):
            row = rows.setdefault((one.title, one.size), {"method": _name(one), "size": escape(one.size_title)})
            row[title] = one.spread("auc").show()
    return f"<h3>AUC of every method under every setting</h3>{_table(list(rows.values()))}"


def _section(title: str, group: Sequence[Summary], target: str | None, show: Show) -> str:
    """Figures and tables of the runs of equal settings."""
    figures = "\n".join(
        f"<figure>{show(chart)}<figcaption>{escape(chart.title)}</figcaption></figure>"
        for chart in charts(title, group)
    )
    parts = [f"<h2>{escape(title)}</h2>" if title else "", f'<div class="figures">{figures}</div>']
    if chosen := choices(group):
        parts += ["<h3>What to take for the loss you can bear</h3>", _table([_choice_row(one) for one in chosen])]
    if best := best_at_each_size(group):
        parts += ["<h3>Best at each size</h3>", _table([_best_row(one) for one in best])]
    if target is not None:
        parts += [f"<h3>What it takes to reach {escape(target)}</h3>", _target_table(group, target)]
    parts += ["<h3>Every run</h3>", _table(_run_rows(group))]
    return f"<section>{''.join(parts)}</section>"


def _run_rows(group: Sequence[Summary]) -> Sequence[Cells]:
    full = full_tables(group)
    front = pareto_front(group)
    rows = []
    for one in group:
        if not one.done:
            continue
        cells = {
            "method": _name(one) + (' <span class="front">Pareto front</span>' if one in front else ""),
            "bytes": show_bytes(one.bytes),
            "compression": "" if one.compression is None else show_compression(one.compression),
            "AUC": one.spread("auc").show(),
            "against full": f"{one.auc - full.auc:+.4f}" if full and one is not full else "",
            "log loss": one.spread("logloss").show(),
            "samples/s": _rate(one),
            "peak memory": show_bytes(max(run.result["peak_rss_bytes"] for run in one.done)),
            **{name: "" if size is None else show_bytes(size) for name, size in one.other_bytes().items()},
            "seeds": str(len(one.done)),
        }
        if any(run.result["target"] for run in one.done):
            cost = one.cost(None)
            cells["time to target"] = f"{cost['seconds']:,.1f} s" if cost else "not reached"
        rows.append(cells)
    return rows


def _rate(one: Summary) -> str:
    """Samples a second; runs of a single step have none."""
    rate = one.middle("samples_per_second")
    return "" if math.isnan(rate) else f"{rate:,.0f}"


def _choice_row(choice: Choice) -> Cells:
    one, plain = choice.taken, choice.plain
    return {
        "AUC lost, at most": f"{choice.loss:g}",
        "take": _name(one),
        "compression": escape(one.size_title),
        "bytes": show_bytes(one.bytes),
        "AUC": one.spread("auc").show(),
        "against full": f"{one.auc - choice.full.auc:+.4f}",
        f"AUC of {PLAIN}": plain.spread("auc").show() if plain else "",
        _OPTIONS: " ".join(_code(option) for option in how_to_use(choice)),
    }


def _best_row(best: Best) -> Cells:
    plain = best.plain
    return {
        "size": escape(best.size),
        "best method": _name(best.best),
        "bytes": show_bytes(best.best.bytes),
        "AUC": best.best.spread("auc").show(),
        f"AUC of {PLAIN}": plain.spread("auc").show() if plain else "",
        f"over {PLAIN}": f"{best.best.auc - plain.auc:+.4f}" if plain else "",
        "against full": f"{best.best.auc - best.full.auc:+.4f}" if best.full else "",
    }


def _target_table(group: Sequence[Summary], target: str) -> str:
    """Iterations and seconds to a quality on the validation part, and both against the full tables."""
    quality = qualities(group, target)
    if quality is None:
        return "<p>No run of the full tables has a curve to take it from.</p>"
    full = full_tables(group)
    base = full.cost(quality) if full else None
    rows = []
    for one in (one for one in group if one.done):
        cells = {"method": _name(one), "bytes": show_bytes(one.bytes)}
        if cost := one.cost(quality):
            cells |= {"iterations": f"{cost['step']:,.0f}", "seconds": f"{cost['seconds']:,.1f}"}
            cells["samples/s"] = _rate(one)
            if base and full:
                speed = one.middle("samples_per_second") / full.middle("samples_per_second")
                cells["iterations against full"] = f"{cost['step'] / base['step']:.2f}x"
                cells["speed against full"] = f"{speed:.2f}x"
                cells["seconds against full"] = f"{cost['seconds'] / base['seconds']:.2f}x"
        else:
            cells |= {"iterations": "not reached", "seconds": "not reached"}
        rows.append(cells)
    word = "at least" if quality.figure == "auc" else "at most"
    lead = f"<p>{quality.figure} of {word} {quality.value:.4f} on the validation part, by every seed; medians.</p>"
    return lead + _table(rows)


def _not_done(summaries: Sequence[Summary]) -> str:
    """The settings without a result, and why."""
    items = [
        f"<li>{_name(one)} {escape(one.size)}, {escape(one.settings['model'])}: {escape(one.runs[0].status)}, "
        f"{escape(one.runs[0].error)}</li>"
        for one in summaries
        if not one.done
    ]
    if not items:
        return ""
    head = f"<details><summary>{len(items)} settings have no result</summary>"
    return f"{head}<ul>{''.join(dict.fromkeys(items))}</ul></details>"


def _table(rows: Sequence[Cells]) -> str:
    """A table whose cells know their column's name: on a phone each row is a card."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    wide = next((name for name in names if any('class="name"' in row.get(name, "") for row in rows)), names[0])
    head = "".join(f'<th scope="col"{_left(name, wide)}>{escape(name)}</th>' for name in names)
    body = []
    for row in rows:
        cells = "".join(
            f'<td data-name="{escape(name, quote=True)}"{_left(name, wide)}>{row.get(name, "")}</td>' for name in names
        )
        body.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _left(name: str, wide: str) -> str:
    return ' class="left"' if name in (wide, _OPTIONS) else ""


def _name(one: Summary) -> str:
    """A method's name; who rests the pointer on it sees the spec to repeat it by."""
    return f'<span class="name" title="{escape(one.label, quote=True)}">{escape(one.title)}</span>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
