"""How long a study will take, from one short run of it."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tablefold.data import Dataset, Schema
from tablefold.files import new_file
from tablefold.json_files import write_json
from tablefold.study.definition import Study
from tablefold.study.names import FULL
from tablefold.study.pool import Job, check_processes, run_jobs
from tablefold.study.request import Request
from tablefold.study.worker import DONE

PROBE_ROWS, PROBE_STEPS = 20_000, 20
"""Rows that the probe trains on: so many, and at least so many steps."""

EVALUATION = 1 / 3
"""What a row costs that is scored, against one that is trained on."""


@dataclass(frozen=True)
class Estimate:
    """How long a study takes on this machine.

    Args:
        seconds: of all runs, so many at a time.
        runs: that can be; the others' sizes cannot.
        impossible: the number of those others.
        probe: the request that was tried, on its first rows.
        samples_per_second: that it trained at.
    """

    seconds: float
    runs: int
    impossible: int
    probe: Request
    samples_per_second: float


def estimate(study: Study, data: str | Path, processes: int = 1) -> Estimate:
    """Train one run of a study on some rows, and reckon from there: every row of every run takes as long as one of the
    probe's, every run as long to start. Good to a factor of two: methods differ in speed.

    Args:
        study: read for this data's source.
        data: a prepared dataset.
        processes: runs at a time.

    Raises:
        ValueError: for a study of which no run can be, or whose probe fails.
    """
    check_processes(processes)
    dataset = Dataset(data)
    requests = study.requests(dataset.schema)
    possible = [request for request in requests if _is_possible(request, dataset.schema)]
    if not possible:
        raise ValueError("no run of the study can be: these tables cannot be as small as it asks")
    probe = min(possible, key=lambda request: request.series != FULL)  # the first of the full tables
    rate, start = _probe(probe, dataset)
    seconds = sum(start + _rows(request, dataset.schema) / rate for request in possible)
    side_by_side = min(processes, len(possible))
    return Estimate(seconds / side_by_side, len(possible), len(requests) - len(possible), probe, rate)


def _probe(request: Request, dataset: Dataset) -> tuple[float, float]:
    """Samples a second that a run trains at, and the seconds that it takes beside."""
    rows = max(PROBE_ROWS, PROBE_STEPS * request.config.batch_size)
    variant = replace(request.variant, train_rows=min(rows, request.variant.rows(dataset.schema)))
    config = replace(request.config, epochs=1, eval_every=None, until=None, patience=None)
    request = Request(config, variant, request.series, request.size)
    with tempfile.TemporaryDirectory(prefix="tablefold-probe-") as folder:
        source, out, run = (Path(folder) / name for name in ("input.json", "output.json", "run"))
        with new_file(source) as file:
            write_json(file, request.content())
        began = time.monotonic()
        job = Job(request, request.content(), source, out, dataset.folder, run)
        ((_, output),) = run_jobs(iter([job]), 1, lambda _: None)
        took = time.monotonic() - began
    if output["status"] != DONE:
        raise ValueError(f"no estimate: a first run of the study fails: {output['error']}")
    rate = output["result"]["samples_per_second"]
    if rate is None or math.isnan(rate):
        raise ValueError("no estimate: the data has too few rows to train for more than a step")
    return rate, max(0.0, took - _rows(request, dataset.schema) / rate)


def _rows(request: Request, schema: Schema) -> float:
    """The rows that a run trains on, and of those that it scores a share."""
    config, variant = request.config, request.variant
    train = variant.rows(schema)
    share = train / max(1, schema.parts["train"].rows)
    scored = {name: part.rows * share for name, part in schema.parts.items()}
    steps = -(-train // config.batch_size) * config.epochs
    looks = steps / config.eval_every if config.eval_every else config.epochs
    once = train * config.epochs + EVALUATION * (looks * scored.get("validation", 0) + scored.get("test", 0))
    return once * _trainings(request, schema)


def _trainings(request: Request, schema: Schema) -> int:
    """How many trainings a run is: more than one where it tries several methods, or learns from trained tables."""
    tried = request.config.tiers(schema.table_specs(request.config.dim))[0]
    return len(tried) + any(method.learns for method in tried)


def _is_possible(request: Request, schema: Schema) -> bool:
    try:
        request.config.plan(schema.table_specs(request.config.dim)).build(device="meta")
    except ValueError:
        return False
    return True
