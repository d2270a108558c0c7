"""What runs have shown: the seeds of each setting put together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from tablefold.formats import FP32, in_format
from tablefold.plans import Wishes
from tablefold.study.names import FULL, show_compression, shown_name
from tablefold.study.quality import Quality
from tablefold.study.variant import Variant
from tablefold.study.worker import DONE

SAME_SIZE = 1.01
"""Sizes that differ by a smaller factor count as the same."""

UNKNOWN_NOISE = 0.001
"""The difference in AUC that counts as chance where a single seed has no spread."""

_OF_SIZE = (
    *("method", "compression", "budget", "with_pointers", "seed", "eval_every", "threshold", "storage", "device"),
)
"""Parts of a config that are not settings common to the methods compared, or say nothing about quality."""


@dataclass(frozen=True)
class RunResult:
    """One run as it ended.

    Args:
        name: of its folder or files.
        series: the method as it was asked for, without its size.
        size: what was asked of its size, in a word.
        settings: what it shares with the runs it is compared with: model, optimiser, data, order of ids and so on.
        wishes: what was asked of its plan: bytes, format, a threshold.
        seed: of the run.
        status: "done", "impossible", "failed", or "missing".
        error: why it is not done.
        result: as in `result.json`; empty if it is not done.
        curve: figures of the validation part on the way: "step", "examples", "seconds" (at the run's speed, without
            compiling), "auc", "logloss".
        commit: of tablefold, if known.
    """

    name: str
    series: str
    size: str
    settings: dict[str, Any]
    wishes: Wishes
    seed: int
    status: str = DONE
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    curve: tuple[dict[str, Any], ...] = ()
    commit: str | None = None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of a sample; NaN of one value) over seeds."""

    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of values; NaN where one of them is."""
        if any(map(math.isnan, values)):
            return cls(math.nan, math.nan)
        return cls(fmean(values), stdev(values) if len(values) > 1 else math.nan)

    def show(self, digits: int = 4) -> str:
        """`mean ± std`, or the mean alone.

        >>> Spread.of([0.75, 0.76]).show(), Spread.of([0.75]).show()
        ('0.7550 ± 0.0071', '0.7500')
        """
        return f"{self.mean:.{digits}f}{self._deviation(digits)}"

    def show_change(self, digits: int = 4) -> str:
        """`show` with a sign.

        >>> Spread.of([-0.004, -0.005]).show_change(), Spread.of([0.0]).show_change()
        ('-0.0045 ± 0.0007', '+0.0000')
        """
        return f"{self.mean:+.{digits}f}{self._deviation(digits)}"

    def _deviation(self, digits: int) -> str:
        return "" if math.isnan(self.std) else f" ± {self.std:.{digits}f}"


@dataclass(frozen=True)
class Summary:
    """The runs of one setting that differ in their seed alone; `runs` are all of them, `done` those with a result."""

    series: str
    size: str
    settings: dict[str, Any]
    wishes: Wishes
    runs: tuple[RunResult, ...]

    @cached_property
    def done(self) -> tuple[RunResult, ...]:
        """The runs with a result."""
        return tuple(run for run in self.runs if run.status == DONE)

    @property
    def method(self) -> str:
        """The final spec string, or what was asked where no run is done."""
        if not self.done:
            return f"{self.series} {self.size}".strip()
        result = self.done[0].result
        return in_format(result["method"], result.get("storage", "fp32"))

    @property
    def label(self) -> str:
        """`method`, and the threshold if there is one."""
        return self.method + self._above

    @property
    def title(self) -> str:
        """What people call it, whatever its size: the name of its series, the format that its plan has chosen, and the
        threshold if there is one."""
        chosen = self.done[0].result["storage"] if self.done and self.wishes.storage is None else FP32.name
        return shown_name(in_format(self.series, chosen)) + self._above

    @property
    def size_title(self) -> str:
        """Its size for people: the compression it came to, or where that is not known what was asked for."""
        return self.size if not self.done or self.compression is None else show_compression(self.compression)

    @property
    def threshold(self) -> int:
        """Rows up to which tables stayed full because that was asked."""
        return self.wishes.threshold or 0

    @property
    def _above(self) -> str:
        return f" above {self.threshold:,} row{'s' * (self.threshold > 1)}" if self.threshold else ""

    def spread(self, figure: str) -> Spread:
        """Mean and deviation of a figure of `result.json`."""
        return Spread.of([run.result[figure] for run in self.done])

    def middle(self, figure: str) -> float:
        """Median of a figure of `result.json`."""
        return float(median(run.result[figure] for run in self.done))

    @property
    def bytes(self) -> int:
        """Bytes of all embeddings."""
        return int(self.middle("embedding_bytes"))

    def other_bytes(self) -> dict[str, int | None]:
        """The other figures of bytes, by what they are called in tables; None where not every run has one."""
        names = {"with pointers": "embedding_bytes_with_pointers", "artefact": "artefact_bytes"}
        names["in training"] = "training_bytes"
        known = {title: all(run.result.get(name) for run in self.done) for title, name in names.items()}
        return {title: int(self.middle(name)) if known[title] else None for title, name in names.items()}

    @property
    def compression(self) -> float | None:
        """Full bytes over bytes; None for an open vocabulary."""
        compression: float | None = self.done[0].result["compression"]
        return compression

    @property
    def auc(self) -> float:
        """Mean AUC on the test part."""
        return self.spread("auc").mean

    def cost(self, quality: Quality | None) -> dict[str, float] | None:
        """Median steps, examples and seconds to a quality; None unless every seed reached it."""
        looks = [look for run in self.done if (look := _cost(run, quality)) is not None]
        if not looks or len(looks) < len(self.done):
            return None
        return {name: median(look[name] for look in looks) for name in ("step", "examples", "seconds")}


@dataclass(frozen=True)
class StudyResults:
    """A study read back: title, about, target, facts of its data, and its runs in order."""

    folder: Path
    title: str
    about: str
    target: str | None
    processes: int
    data: dict[str, Any]
    runs: tuple[RunResult, ...]

    def summaries(self) -> list[Summary]:
        """Its runs with the seeds put together."""
        return summarise(self.runs)


def summarise(runs: Sequence[RunResult]) -> list[Summary]:
    """Put runs together that differ in their seed alone, in the order of their first."""
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        key = json.dumps([run.series, run.size, asdict(run.wishes), run.settings], sort_keys=True)
        groups.setdefault(key, []).append(run)
    return [
        Summary(first.series, first.size, first.settings, first.wishes, (first, *rest))
        for first, *rest in groups.values()
    ]


def slices(summaries: Sequence[Summary]) -> list[tuple[str, list[Summary]]]:
    """What may be compared: summaries of equal settings, under a title of the settings that set them apart."""
    varied = varied_settings(summaries)
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(", ".join(show_setting(name, summary.settings[name]) for name in varied), []).append(summary)
    return list(groups.items())


def varied_settings(summaries: Sequence[Summary]) -> list[str]:
    """The names of the settings that are not the same everywhere; sizes of models only where models are the same."""
    names = list(summaries[0].settings) if summaries else []
    varied = [name for name in names if len({json.dumps(summary.settings[name]) for summary in summaries}) > 1]
    return [name for name in varied if not (name == "model_options" and "model" in varied)]


def show_setting(name: str, value: Any) -> str:
    """A setting for people: words speak for themselves, numbers come with their name."""
    if isinstance(value, str):
        return f"ids {value}" if name == "id_order" else value
    return f"{name.replace('_', ' ')} {value}"


def noise(one: Summary, other: Summary) -> float:
    """How far the mean AUCs of two summaries lie apart by chance: the deviations over their seeds put together.

    Where one of them has a single seed nobody knows, and `UNKNOWN_NOISE` is taken.
    """
    known = math.hypot(one.spread("auc").std, other.spread("auc").std)
    return UNKNOWN_NOISE if math.isnan(known) else known


def difference(one: Summary, other: Summary, figure: str = "auc") -> Spread:
    """How much more of a figure `one` has than `other`: seed by seed where both have the same seeds, whose common luck
    then cancels; otherwise the difference of the means, with their deviations put together."""
    pairs = [{run.seed: float(run.result[figure]) for run in each.done} for each in (one, other)]
    if pairs[0].keys() == pairs[1].keys():
        return Spread.of([pairs[0][seed] - pairs[1][seed] for seed in pairs[0]])
    spreads = one.spread(figure), other.spread(figure)
    return Spread(spreads[0].mean - spreads[1].mean, math.hypot(spreads[0].std, spreads[1].std))


def pareto_front(summaries: Sequence[Summary]) -> list[Summary]:
    """The summaries that no other dominates, by rising bytes.

    One is dominated by another that is better by more than the noise and as large, or smaller and no worse. As large:
    within 1 %, or asked for the same size. A few bytes less are no reason to take what knows nothing.
    """
    done = [one for one in summaries if one.done]
    front = [one for one in done if not any(_dominates(other, one) for other in done)]
    return sorted(front, key=lambda one: (one.bytes, -one.auc))


def _dominates(other: Summary, one: Summary) -> bool:
    asked_alike = other.size != "" and other.size == one.size
    if asked_alike or one.bytes / SAME_SIZE <= other.bytes <= one.bytes * SAME_SIZE:
        return other.auc > one.auc + noise(one, other)
    return other.bytes < one.bytes and other.auc >= one.auc


def qualities(summaries: Sequence[Summary], target: str | None) -> Quality | None:
    """The quality that a study's target means among runs of equal settings; None if there is none or it is unknown."""
    if target is None:
        return None
    full = [run.curve for summary in summaries if summary.series == FULL for run in summary.done]
    return Quality.parse(target).against(full)


def _cost(run: RunResult, quality: Quality | None) -> dict[str, Any] | None:
    """The look at which a run reached a quality, or without one, its own target."""
    if quality is not None:
        return quality.reached(run.curve)
    reached = run.result["target_reached"] and run.curve
    return run.curve[-1] if reached else None


def run_settings(config: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """The settings of a run that it shares with the runs it is compared with."""
    common = {name: value for name, value in config.items() if name not in _OF_SIZE}
    return {**common, "id_order": variant.id_order, "train_rows": variant.train_rows}
