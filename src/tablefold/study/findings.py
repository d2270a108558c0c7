"""What a study has shown, in a few sentences and one small table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tablefold.study.results import FULL, Summary

PLAIN = "hash"
"""Plain hashing: the series that every other one has to beat."""


@dataclass(frozen=True)
class Best:
    """The best method at one size: its summary, and those of plain hashing at that size and of the full tables."""

    size: str
    best: Summary
    plain: Summary | None
    full: Summary | None


def best_at_each_size(group: Sequence[Summary]) -> list[Best]:
    """For every size that several methods were asked for: the one with the highest mean AUC."""
    full = next((one for one in group if one.series == FULL and one.done), None)
    sizes: dict[str, list[Summary]] = {}
    for one in group:
        if one.done and one.size:
            threshold = f", above {one.threshold:,} rows" if one.threshold else ""
            sizes.setdefault(one.size + threshold, []).append(one)
    return [
        Best(size, max(alike, key=_auc), next((one for one in alike if one.series == PLAIN), None), full)
        for size, alike in sizes.items()
        if len(alike) > 1
    ]


def finding(groups: Sequence[tuple[str, Sequence[Summary]]]) -> list[str]:
    """At most one sentence for each of the first four groups of equal settings: the best method against plain hashing
    at the size where it gains most."""
    sentences = []
    for title, group in groups[:4]:
        rows = [row for row in best_at_each_size(group) if row.plain]
        if rows:
            sentences.append((f"{title}: " if title else "") + _sentence(max(rows, key=_gain)))
    return sentences


def _sentence(row: Best) -> str:
    assert row.plain is not None
    if row.best is row.plain:
        return f"no method beats {PLAIN} at any size."
    gain = _gain(row)
    spread = math.hypot(row.best.spread("auc").std, row.plain.spread("auc").std)
    if gain < spread:  # never where one seed leaves the spread unknown
        return f"no method beats {PLAIN} at any size by more than the spread over seeds."
    noise = "" if math.isnan(spread) else f" ± {spread:.4f}"
    full = f"; the full tables reach {row.full.auc:.4f}" if row.full else ""
    return (
        f"at {row.size}, {row.best.series} reaches AUC {row.best.auc:.4f}, {gain:.4f}{noise} more than {PLAIN}{full}."
    )


def _gain(row: Best) -> float:
    assert row.plain is not None
    return row.best.auc - row.plain.auc


def _auc(one: Summary) -> float:
    return one.auc
