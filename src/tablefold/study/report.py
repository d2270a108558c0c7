"""The report of a study: one self-contained HTML page, and its figures as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from tablefold.files import new_file
from tablefold.study.chart import Chart, draw, to_png, to_svg
from tablefold.study.facts import describe
from tablefold.study.figures import charts
from tablefold.study.findings import PLAIN, Best, best_at_each_size, finding
from tablefold.study.results import FULL, StudyResults, Summary, pareto_front, qualities, slices
from tablefold.tables import show_bytes

Cells = Mapping[str, str]
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
        file.write_text(text)
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
        "finding": "".join(f"<p>{escape(text)}</p>" for text in finding(groups)),
        "overview": _overview(groups),
        "sections": "\n".join(_section(title, group, study.target, show) for title, group in groups),
        "notes": _not_done(summaries),
        "facts": "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in describe(study).items()),
    }
    page = files("tablefold.study").joinpath("report.html").read_text()
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _overview(groups: Sequence[tuple[str, Sequence[Summary]]]) -> str:
    """AUC of every method at every size, the settings side by side; nothing where there is one setting."""
    if len(groups) < 2:
        return ""
    rows: dict[str, dict[str, str]] = {}
    for title, group in groups:
        for one in (one for one in group if one.done):
            rows.setdefault(one.label, {"method": _code(one.label)})[title] = one.spread("auc").show()
    return f"<h3>AUC of every method under every setting</h3>{_table(list(rows.values()))}"


def _section(title: str, group: Sequence[Summary], target: str | None, show: Show) -> str:
    """Figures and tables of the runs of equal settings."""
    figures = "\n".join(
        f"<figure>{show(chart)}<figcaption>{escape(chart.title)}</figcaption></figure>"
        for chart in charts(title, group)
    )
    parts = [f"<h2>{escape(title)}</h2>" if title else "", f'<div class="figures">{figures}</div>']
    if best := best_at_each_size(group):
        parts += ["<h3>Best at each size</h3>", _table([_best_row(one) for one in best])]
    if target is not None:
        parts += [f"<h3>What it takes to reach {escape(target)}</h3>", _target_table(group, target)]
    parts += ["<h3>Every run</h3>", _table(_run_rows(group))]
    return f"<section>{''.join(parts)}</section>"


def _run_rows(group: Sequence[Summary]) -> Sequence[Cells]:
    full = next((one for one in group if one.series == FULL and one.done), None)
    front = pareto_front(group)
    rows = []
    for one in group:
        if not one.done:
            continue
        cells = {
            "method": _code(one.label) + (' <span class="front">Pareto front</span>' if one in front else ""),
            "bytes": show_bytes(one.bytes),
            "compression": "" if one.compression is None else f"{one.compression:,.4g}x",
            "AUC": one.spread("auc").show(),
            "against full": f"{one.auc - full.auc:+.4f}" if full and one is not full else "",
            "log loss": one.spread("logloss").show(),
            "samples/s": f"{one.middle('samples_per_second'):,.0f}",
            "peak memory": show_bytes(max(run.result["peak_rss_bytes"] for run in one.done)),
            "seeds": str(len(one.done)),
        }
        if any(run.result["target"] for run in one.done):
            cost = one.cost(None)
            cells["time to target"] = f"{cost['seconds']:,.1f} s" if cost else "not reached"
        rows.append(cells)
    return rows


def _best_row(best: Best) -> Cells:
    plain = best.plain
    return {
        "size": escape(best.size),
        "best method": _code(best.best.label),
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
    full = next((one for one in group if one.series == FULL and one.done), None)
    base = full.cost(quality) if full else None
    rows = []
    for one in (one for one in group if one.done):
        cells = {"method": _code(one.label), "bytes": show_bytes(one.bytes)}
        if cost := one.cost(quality):
            cells |= {"iterations": f"{cost['step']:,.0f}", "seconds": f"{cost['seconds']:,.1f}"}
            cells["samples/s"] = f"{one.middle('samples_per_second'):,.0f}"
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
        f"<li>{_code(one.label)} {escape(one.settings['model'])}: {escape(one.runs[0].status)}, "
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
    wide = next((name for name in names if any("<code>" in row.get(name, "") for row in rows)), names[0])
    head = "".join(f'<th scope="col"{_left(name, wide)}>{escape(name)}</th>' for name in names)
    body = []
    for row in rows:
        cells = "".join(
            f'<td data-name="{escape(name, quote=True)}"{_left(name, wide)}>{row.get(name, "")}</td>' for name in names
        )
        body.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _left(name: str, wide: str) -> str:
    return ' class="left"' if name == wide else ""


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
