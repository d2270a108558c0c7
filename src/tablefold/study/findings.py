"""What a study has shown: which method to take at which size, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tablefold.formats import FP32
from tablefold.study.names import FULL, show_compression
from tablefold.study.results import SAME_SIZE, UNKNOWN_NOISE, Summary, difference, noise
from tablefold.tables import show_bytes

PLAIN = "hash"
"""Plain hashing: the series that every other one has to beat."""

LOSSES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Losses of AUC against the full tables that somebody may be ready to bear."""

USUAL_LOSSES = (0.01, 0.03, 0.1)
"""The loss that the headline bears: the first of these within which anything lies."""

RULE = (
    "How it is chosen: of all runs whose mean AUC lies within {} of the full tables' ({} or {} where none does), the "
    "one with the fewest bytes. Sizes within 1 % of each other count as equal: then the higher AUC decides."
).format(*USUAL_LOSSES)


RISEN, FALLEN = 0.0005, 0.002
"""Of the validation log loss of the full tables: by how much it must rise before the end to call them overtrained, and
fall in the last fifth of training to call them undertrained."""

UNKNOWN_SCHEDULE = "the full tables are over- or undertrained on this schedule. Try fewer and more epochs."


@dataclass(frozen=True)
class Best:
    """The best method at one size: its summary, and those of plain hashing at that size and of the full tables."""

    size: str
    best: Summary
    plain: Summary | None
    full: Summary | None


@dataclass(frozen=True)
class Choice:
    """What to take if so much AUC may be lost: the summary with the fewest bytes within `loss` of the full tables."""

    loss: float
    taken: Summary
    full: Summary
    plain: Summary | None


def full_tables(group: Sequence[Summary]) -> Summary | None:
    """The full tables among runs of equal settings, if they are there and done."""
    return next((one for one in group if one.series == FULL and one.done and not math.isnan(one.auc)), None)


def best_at_each_size(group: Sequence[Summary]) -> list[Best]:
    """For every size that several methods were asked for: the one with the highest mean AUC."""
    full = full_tables(group)
    sizes: dict[str, list[Summary]] = {}
    for one in group:
        if one.done and one.size:
            threshold = f", above {one.threshold:,} rows" if one.threshold else ""
            sizes.setdefault(one.size + threshold, []).append(one)
    return [Best(size, max(alike, key=_auc), _plain(alike), full) for size, alike in sizes.items() if len(alike) > 1]


def choose(group: Sequence[Summary], loss: float) -> Choice | None:
    """What to take if `loss` of AUC may be lost, None where nothing folded lies within it."""
    full = full_tables(group)
    if full is None:
        return None
    within = [one for one in _folded(group) if full.auc - one.auc <= loss]
    if not within:
        return None
    smallest = min(one.bytes for one in within)
    taken = max((one for one in within if one.bytes <= smallest * SAME_SIZE), key=_auc)
    return Choice(loss, taken, full, _plain([one for one in _folded(group) if one.size and one.size == taken.size]))


def choices(group: Sequence[Summary]) -> list[Choice]:
    """What to take for every loss of `LOSSES`; a loss that buys no smaller size is left out."""
    found: list[Choice] = []
    for loss in LOSSES:
        choice = choose(group, loss)
        if choice and (not found or choice.taken is not found[-1].taken):
            found.append(choice)
    return found


def chosen(group: Sequence[Summary]) -> Choice | None:
    """What the headline takes: the choice for the first of `USUAL_LOSSES` within which anything lies."""
    return next(filter(None, (choose(group, loss) for loss in USUAL_LOSSES)), None)


def headline(group: Sequence[Summary]) -> list[str]:
    """What to take, and then why, in a few sentences; empty where there are no full tables to hold anything against."""
    full, folded = full_tables(group), _folded(group)
    if full is None or not folded:
        return []
    choice = chosen(group)
    if choice is None:
        best = max(folded, key=_auc)
        return [
            f"Keep the full tables: nothing smaller comes within {USUAL_LOSSES[-1]} of their AUC of {full.auc:.4f}.",
            f"The nearest is {best.title} at {best.size_title}, {full.auc - best.auc:.4f} below: "
            "ask for smaller compressions, or for more training.",
        ]
    one, plain = choice.taken, choice.plain
    sentences = [f"Use {one.title}: {smaller(one)}, AUC {against(one, full)} (full {full.auc:.4f})."]
    sentences.append(f"It is the smallest in this study that loses at most {choice.loss}{_next(one, folded, full)}.")
    if plain is not None and plain is not one:
        sentences.append(f"Plain hashing ({PLAIN}) in as many bytes: AUC {against(plain, full)}.")
    return sentences


def smaller(one: Summary) -> str:
    """How much smaller it is than the full tables, in words."""
    return show_bytes(one.bytes) if one.compression is None else f"{show_compression(one.compression)} smaller"


def against(one: Summary, full: Summary) -> str:
    """Its AUC against that of the full tables, with the deviation over seeds."""
    return difference(one, full).show_change()


def how_to_use(choice: Choice) -> list[str]:
    """The options of `tablefold train` that give what was taken."""
    one, wishes = choice.taken, choice.taken.wishes
    result, planned = one.done[0].result, wishes.budget is not None or wishes.compression is not None
    method = one.series.partition(" in ")[0] if planned else result["method"]
    options = [f"--method {method}", f"--compression {wishes.compression:g}" if wishes.compression is not None else ""]
    options.append(f"--budget {wishes.budget}" if wishes.budget is not None else "")
    options.append("--with-pointers" if wishes.with_pointers else "")
    if wishes.storage is not None and (planned or result["storage"] != FP32.name):
        options.append(f"--storage {result['storage']}")
    if wishes.threshold is not None and (planned or wishes.threshold):
        options.append(f"--threshold {wishes.threshold}")
    return list(filter(None, options))


def warnings(group: Sequence[Summary]) -> list[str]:
    """What a reader must know before believing the figures: a poor yardstick, no spread."""
    found = []
    full, done = full_tables(group), [one for one in group if one.done]
    better = [one for one in _folded(group) if full and one.auc > full.auc + noise(one, full)]
    schedule = _schedule(full) if full else ""
    if full and better:
        best = max(better, key=_auc)
        found.append(
            f"Folded tables beat the full ones here ({best.title} at {best.size_title} by {best.auc - full.auc:.4f}): "
            f"{schedule or UNKNOWN_SCHEDULE} Until then this is no gain of folding."
        )
    elif schedule:
        found.append(f"Mind the yardstick: {schedule}")
    single = sum(len(one.done) == 1 for one in done)
    if single == len(done):
        found.append(
            f"One seed each: there is no spread, and differences below about {UNKNOWN_NOISE} may be chance. "
            "Three seeds show it: seed = [0, 1, 2]."
        )
    elif single:
        found.append(f"{single} of {len(done)} settings have one seed only, and so no spread.")
    return found


def _schedule(full: Summary) -> str:
    """Whether the full tables were trained too long or not long enough, as their log loss on the way tells."""
    curves = [[look["logloss"] for look in run.curve] for run in full.done if len(run.curve) > 2]
    if not curves or any(math.isnan(value) for curve in curves for value in curve):
        return ""
    risen = median(curve[-1] - min(curve) for curve in curves)
    if risen > RISEN and not full.settings.get("patience"):  # with which the best weights are kept
        return (
            f"the full tables are overtrained on this schedule: their validation log loss rose again, by {risen:.4f}, "
            "before the end. Train for fewer epochs, or set patience."
        )
    fallen = median(curve[-1 - max(1, len(curve) // 5)] - curve[-1] for curve in curves)
    if fallen > FALLEN:
        return (
            f"the full tables are undertrained on this schedule: their validation log loss still fell, by {fallen:.4f} "
            "in the last fifth. Train for longer, or on more rows."
        )
    return ""


def _next(one: Summary, folded: Sequence[Summary], full: Summary) -> str:
    smaller = [other for other in folded if other.bytes * SAME_SIZE < one.bytes]
    if not smaller:
        return ", and the smallest that was tried"
    best = max(smaller, key=_auc)
    return f"; the best of those that are smaller, {best.title} at {best.size_title}, loses {full.auc - best.auc:.4f}"


def _folded(group: Sequence[Summary]) -> list[Summary]:
    """All that has an AUC and is not the full tables."""
    return [one for one in group if one.done and one.series != FULL and not math.isnan(one.auc)]


def _plain(group: Sequence[Summary]) -> Summary | None:
    return next((one for one in group if one.series == PLAIN), None)


def _auc(one: Summary) -> float:
    return one.auc
