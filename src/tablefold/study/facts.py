"""What the figures of a study rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tablefold.study.results import RunResult, StudyResults, show_setting, varied_settings
from tablefold.study.variant import ID_ORDERS

_SHOWN = ("model", "optimizer", "lr", "batch_size", "epochs", "dim", "precision", "train_rows", "patience", "until")


def describe(study: StudyResults) -> dict[str, str]:
    """Data, split, order of ids, settings, machine, versions and commit, by name."""
    data, done = study.data, [run for run in study.runs if run.result]
    parts = {name: part for name, part in data["parts"].items() if part["rows"]}
    rows = sum(part["rows"] for part in parts.values())
    positives = sum(part["positives"] for part in parts.values())
    sizes = [table["rows"] for table in data["tables"]]
    ids = f"{sum(sizes):,} ids" if None not in sizes else "an open vocabulary"
    best = (data["best"] or {}).get("test", {})
    summaries = study.summaries()
    common = [name for name in _SHOWN if name not in varied_settings(summaries)]
    settings = summaries[0].settings
    told = [show_setting(name, settings[name]) for name in common if settings.get(name) is not None]
    facts = {
        "data": f"{data['name']}: {rows:,} rows, {positives / rows:.2%} positive, {data['dense']} dense columns, "
        f"{len(sizes)} tables with {ids}{_source(data['source'])}",
        "split": _split(data["source"])
        + ", ".join(f"{name} {part['rows']:,}" for name, part in parts.items())
        + " rows",
        "order of ids": _orders(study.runs, data["source"]),
        "best reachable": ", ".join(f"{name} {value:.4f}" for name, value in best.items()),
        "settings": ", ".join(told),
        "runs": f"{len(done)} done of {len(study.runs)}, seeds {_listed(run.seed for run in study.runs)}, "
        f"{study.processes} at a time",
    }
    return {name: text for name, text in {**facts, **_machine(done)}.items() if text}


def _source(source: dict[str, Any]) -> str:
    name = source.get("name")
    return f", prepared from {name}" if name else ""


def _split(source: dict[str, Any]) -> str:
    split = source.get("split")
    words = {"leave-last-out": "the last of every user", "by-time": "by time", "random": "at random"}
    return f"{words.get(split, split)}: " if isinstance(split, str) else ""


def _orders(runs: Sequence[RunResult], source: dict[str, Any]) -> str:
    orders = dict.fromkeys(run.settings["id_order"] for run in runs)
    permuted = source.get("permute") is not None
    words = {
        **ID_ORDERS,
        "prepared": "permuted when the data was prepared" if permuted else "as prepared, by frequency",
    }
    return "; ".join(f"{order}: {words[order]}" if len(orders) > 1 else words[order] for order in orders)


def _machine(done: Sequence[RunResult]) -> dict[str, str]:
    machines = [run.result["machine"] for run in done]
    described = [
        f"{one['device'] + ', ' if one['device'] != 'cpu' else ''}{one['cpu']}, {one['cores']} cores, "
        f"{one['memory_bytes'] / 1e9:.0f} GB, {one['system']}; threads per run: {one['threads']}"
        for one in machines
    ]
    versions = [f"tablefold {one['tablefold']}, torch {one['torch']}, Python {one['python']}" for one in machines]
    return {
        "machine": _listed(described, "; "),
        "versions": _listed(versions, "; "),
        "commit": _listed(run.commit for run in done if run.commit),
    }


def _listed(values: Any, separator: str = ", ") -> str:
    """Every value once."""
    return separator.join(map(str, dict.fromkeys(values)))
