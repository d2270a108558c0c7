"""The report of a study: one self-contained HTML page, and its figures as files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from tablefold.files import new_file
from tablefold.study.chart import WIDE, Chart, draw, to_png, to_svg
from tablefold.study.chart import describe as describe_chart
from tablefold.study.facts import describe
from tablefold.study.figures import charts
from tablefold.study.findings import (
    PLAIN,
    RULE,
    Best,
    Choice,
    against,
    best_at_each_size,
    choices,
    chosen,
    full_tables,
    headline,
    how_to_use,
    warnings,
)
from tablefold.study.names import show_compression
from tablefold.study.next_commands import next_commands
from tablefold.study.palette import as_variables, style_sheet
from tablefold.study.results import StudyResults, Summary, pareto_front, qualities, slices
from tablefold.tables import show_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cells = Mapping[str, str]
Groups = Sequence[tuple[str, Sequence[Summary]]]
_OPTIONS = "options of tablefold train"
Show = Callable[[Chart], str]


def write_report(study: StudyResults, page: str | Path, figures: str | Path, data: str = "") -> list[Path]:
    """Write the page, and every figure as SVG and PNG into the folder `figures`; gives the figures' paths.

    Args:
        study: its results.
        page: the file to write.
        figures: the folder of figures to write.
        data: where the dataset lies, for the commands that the page ends with; else the name of its folder.

    Raises:
        ValueError: for a study without a finished run, or where matplotlib is not installed.
    """
    written: list[Path] = []

    def keep(chart: Chart) -> str:
        figure = draw(chart)
        svg = _inline(figure, chart, "")
        for suffix, content in (("svg", _file(figure, chart).encode()), ("png", to_png(figure))):
            with new_file(Path(figures) / f"{chart.name}.{suffix}") as file:
                file.write_bytes(content)
            written.append(Path(figures) / f"{chart.name}.{suffix}")
        return svg

    text = _render(study, keep, data)
    with new_file(page) as file:
        file.write_text(text, encoding="utf-8")
    return written


def render(study: StudyResults, data: str = "") -> str:
    """The page as text: answer, picture, tables, facts, what to run next. It needs no network and no script."""
    return _render(study, lambda chart: _inline(draw(chart), chart, ""), data)


def _file(figure: Figure, chart: Chart) -> str:
    return to_svg(figure, escape(describe_chart(chart), quote=True), chart.name)


def _inline(figure: Figure, chart: Chart, suffix: str) -> str:
    """The figure for the page, in the page's fonts and colours."""
    svg = to_svg(figure, escape(describe_chart(chart), quote=True), chart.name + suffix)
    return re.sub(r" font-family: [^;]*;", "", as_variables(svg))


def _render(study: StudyResults, show: Show, data: str) -> str:
    summaries = study.summaries()
    if not any(summary.done for summary in summaries):
        raise ValueError(f"{study.folder} holds no finished run yet, so there is nothing to report")
    groups = [(title, group) for title, group in slices(summaries) if any(one.done for one in group)]
    figures = [charts(title, group) for title, group in groups]
    sections = [
        _section(title, group, study.target, "".join(_figure(chart, show) for chart in found[1:]))
        for (title, group), found in zip(groups, figures, strict=True)
    ]
    parts = {
        "colours": style_sheet(),
        "title": escape(study.title),
        "lead": escape(study.about),
        "answers": _answers(groups),
        "pictures": _pictures([found[0] for found in figures], show),
        "reasons": _reasons(groups),
        "overview": _overview(groups),
        "sections": "\n".join(sections),
        "notes": _not_done(summaries),
        "facts": "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in describe(study).items()),
        "next": _next(groups, data or study.data["name"]),
    }
    page = files("tablefold.study").joinpath("report.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _answers(groups: Groups) -> str:
    """What to take, and what a reader must know first; of the first four settings."""
    answers, told = [], []
    for title, group in groups[:4]:
        if sentences := headline(group):
            setting = f"<span>{escape(title)}</span> " if title else ""
            answers.append(f'<p class="answer">{setting}{escape(sentences[0])}</p>')
        of = f"{title}: " if title else ""
        told += [f'<p class="warning">{escape(of + text)}</p>' for text in warnings(group)]
    return "".join(dict.fromkeys([*answers, *told]))


def _reasons(groups: Groups) -> str:
    """Why to take that, and by which rule."""
    reasons = []
    for title, group in groups[:4]:
        if rest := " ".join(headline(group)[1:]):
            reasons.append(f"<p>{escape(f'{title}: {rest}' if title else rest)}</p>")
    if any(chosen(group) for _, group in groups[:4]):
        reasons.append(f'<p class="rule">{escape(RULE)}</p>')
    return "".join(reasons)


def _pictures(first: Sequence[Chart], show: Show) -> str:
    """The figure that answers, of every setting; where there is one setting, as wide as the page has room."""
    if len(first) > 1:
        return f'<div class="figures">{"".join(_figure(chart, show) for chart in first)}</div>'
    (chart,) = first
    wide = _inline(draw(chart, WIDE), chart, "-wide")
    caption = f"<figcaption>{escape(chart.title)}</figcaption>"
    return f'<figure class="wide">{wide}{caption}</figure><figure class="narrow">{show(chart)}{caption}</figure>'


def _figure(chart: Chart, show: Show) -> str:
    return f"<figure>{show(chart)}<figcaption>{escape(chart.title)}</figcaption></figure>"


def _next(groups: Groups, data: str) -> str:
    """The commands to run next, for the first setting that has an answer."""
    commands = next(filter(None, (next_commands(group, data) for _, group in groups)), [])
    if not commands:
        return ""
    items = "".join(f"<li>{escape(what)}:<pre><code>{escape(command)}</code></pre></li>" for what, command in commands)
    return f"<h2>What to run next</h2><ol>{items}</ol>"


def _overview(groups: Groups) -> str:
    """AUC of every method at every size, the settings side by side; nothing where there is one setting."""
    if len(groups) < 2:
        return ""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for title, group in groups:
        for one in (one for one in group if one.done):
            row = rows.setdefault((one.title, one.size), {"method": _name(one), "size": escape(one.size_title)})
            row[title] = one.spread("auc").show()
    return f"<h3>AUC of every method under every setting</h3>{_table(list(rows.values()))}"


def _section(title: str, group: Sequence[Summary], target: str | None, figures: str) -> str:
    """Tables and the other figures of the runs of equal settings."""
    parts = [f"<h2>{escape(title)}</h2>" if title else ""]
    if found := choices(group):
        parts += ["<h3>What to take for the loss you can bear</h3>", _table([_choice_row(one) for one in found])]
    if best := best_at_each_size(group):
        parts += ["<h3>Best at each size</h3>", _table([_best_row(one) for one in best])]
    parts.append(f'<div class="figures">{figures}</div>')
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
            "against full": against(one, full) if full and one is not full else "",
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
        "against full": against(one, choice.full),
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
        f"over {PLAIN}": against(best.best, plain) if plain else "",
        "against full": against(best.best, best.full) if best.full else "",
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
        f"<li>{escape(one.title)} {escape(one.size)}, {escape(one.settings['model'])}: {escape(one.runs[0].status)}, "
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
    told = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in told if any(row.get(name) for row in rows)]
    wide = next((name for name in names if any('class="name"' in row.get(name, "") for row in rows)), names[0])
    head = "".join(f'<th scope="col"{_left(name, wide)}>{escape(name)}</th>' for name in names)
    body = []
    for row in rows:
        cells = "".join(
            f'<td data-name="{escape(name, quote=True)}"{_left(name, wide)}>{_unbroken(row.get(name, ""))}</td>'
            for name in names
        )
        body.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _unbroken(cell: str) -> str:
    """The cell with its numbers kept together with their units and deviations, where a column is narrow."""
    return re.sub(r"(?<=\d) (?=(?:[kMGT]?B|s)\b)|(?<=±) ", "\N{NO-BREAK SPACE}", cell)


def _left(name: str, wide: str) -> str:
    return ' class="left"' if name in (wide, _OPTIONS) else ""


def _name(one: Summary) -> str:
    """A method's name; who opens it sees the spec to repeat it by."""
    spec = _code(one.label)
    return f'<details class="name"><summary>{escape(one.title)}</summary>{spec}</details>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
