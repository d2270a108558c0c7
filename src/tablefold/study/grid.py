"""Run a study: every request an input file, every answer an output file (their folder: `tablefold.study.layout`).

A study that was interrupted goes on where it was; one that is finished answers at once; one that has grown runs what is
new. Runs that cannot be (a budget below a method's smallest) are recorded as impossible.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from tablefold.data import Dataset, Schema
from tablefold.data.schema import SCHEMA_FILE
from tablefold.files import clear_leftovers, new_file
from tablefold.json_files import write_json
from tablefold.locks import locked
from tablefold.study.definition import Study
from tablefold.study.layout import INPUTS, MODELS, OUTPUTS, STUDY, WORK, check_out
from tablefold.study.loading import MISSING, read_answer
from tablefold.study.pool import Job, check_processes, run_jobs
from tablefold.study.request import Request
from tablefold.study.worker import DONE, FAILED, IMPOSSIBLE, answer, write_answer


class Watcher(Protocol):
    """Who is told how a study goes."""

    def on_start(self, total: int, done: int) -> None:
        """`done` of `total` runs were there already."""

    def on_progress(self, running: float) -> None:
        """The runs under way, each counted by the share of it that is done."""

    def on_run(self, request: Request, output: dict[str, Any]) -> None:
        """A run has ended, with this output file."""


@dataclass(frozen=True)
class Tally:
    """How a study ended: the number of runs by status, and (name, error) of the failed ones."""

    done: int
    impossible: int
    failed: tuple[tuple[str, str], ...]


def run_study(
    study: Study,
    data: str | Path,
    out: str | Path,
    watchers: Sequence[Watcher] = (),
    *,
    processes: int = 1,
    keep_models: bool = False,
) -> Tally:
    """Run what is not yet done of `study`.

    Args:
        study: read for this data's source (`schema.source["name"]`).
        data: a prepared dataset.
        out: the study's folder; made, or gone on with.
        watchers: told of every run.
        processes: runs at a time; they share the cores.
        keep_models: keep every trained run under `OUT/models`.

    Raises:
        ValueError: before anything is written, for a study that does not parse on this data, a folder that holds
            something else, or one in which a study is running.
    """
    check_processes(processes)
    dataset, out = Dataset(data), Path(out)
    requests = study.requests(dataset.schema)
    data_hash = data_fingerprint(dataset)
    with locked(out), _workplace(out):
        # First of all: from then on everybody can see whose folder it is.
        _write_study(out, study, requests, dataset, data_hash, processes)
        todo = _write_inputs(requests, data_hash, out)
        for watcher in watchers:
            watcher.on_start(len(requests), len(requests) - len(todo))
        _record_impossible(todo, dataset.schema, data_hash, out, watchers)
        jobs = _jobs(todo, dataset, data_hash, out, keep_models)

        def on_progress(running: float) -> None:
            for watcher in watchers:
                watcher.on_progress(running)

        for job, output in run_jobs(jobs, processes, on_progress):
            shutil.rmtree(out / WORK / job.run.name, ignore_errors=True)
            for watcher in watchers:
                watcher.on_run(job.request, output)
    answers = {request.name(data_hash): _answer(request, data_hash, out) for request in requests}
    status = [one["status"] for one in answers.values()]
    failed = tuple((name, one["error"]) for name, one in answers.items() if one["status"] == FAILED)
    return Tally(status.count(DONE), status.count(IMPOSSIBLE), failed)


def _write_inputs(requests: Sequence[Request], data_hash: str, out: Path) -> list[Request]:
    """Write the input files; gives the requests that have no answer yet."""
    for folder in (INPUTS, OUTPUTS):
        (out / folder).mkdir(exist_ok=True)
    todo = []
    for request in requests:
        with new_file(out / INPUTS / f"{request.name(data_hash)}.json") as file:
            write_json(file, request.content(data_hash))
        if _answer(request, data_hash, out)["status"] not in (DONE, IMPOSSIBLE):
            todo.append(request)
    return todo


def _answer(request: Request, data_hash: str, out: Path) -> dict[str, Any]:
    """The answer to a request; one that is damaged, or belongs to another request, is none."""
    try:
        return read_answer(out / OUTPUTS / f"{request.name(data_hash)}.json", request.content(data_hash))
    except ValueError:
        return {"status": MISSING}


def data_fingerprint(dataset: Dataset) -> str:
    """SHA-256 of the dataset's schema: another preparation has another one."""
    return hashlib.sha256((dataset.folder / SCHEMA_FILE).read_bytes()).hexdigest()


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """The facts of a dataset that a report states."""
    schema = dataset.schema
    return {
        "name": dataset.folder.absolute().name,
        "sha256": data_fingerprint(dataset),
        "source": schema.source,
        "dense": len(schema.dense),
        "tables": [asdict(table) for table in schema.tables],
        "parts": {name: {"rows": part.rows, "positives": part.positives} for name, part in schema.parts.items()},
        "best": schema.best,
    }


def _write_study(
    out: Path, study: Study, requests: Sequence[Request], dataset: Dataset, data_hash: str, processes: int
) -> None:
    content = {
        "title": study.title,
        "about": study.about,
        "target": study.target,
        "processes": processes,
        "data": describe_data(dataset),
        "runs": [{"name": one.name(data_hash), "series": one.series, "size": one.size} for one in requests],
    }
    write_answer(out / STUDY, content)


def _record_impossible(
    todo: list[Request], schema: Schema, data_hash: str, out: Path, watchers: Sequence[Watcher]
) -> None:
    """Write the answer to requests whose size the tables do not allow, and take them off the list."""
    for request in list(todo):
        tables = schema.table_specs(request.config.dim)
        try:
            request.config.plan(tables).build(device="meta")
        except ValueError as error:
            output = answer(request.content(data_hash), IMPOSSIBLE, error=str(error))
            write_answer(out / OUTPUTS / f"{request.name(data_hash)}.json", output)
            todo.remove(request)
            for watcher in watchers:
                watcher.on_run(request, output)


def _jobs(todo: Sequence[Request], dataset: Dataset, data_hash: str, out: Path, keep_models: bool) -> Iterator[Job]:
    """The processes to start, each when its turn has come."""
    for request in todo:
        name = request.name(data_hash)
        run = out / (MODELS if keep_models else WORK) / name
        shutil.rmtree(run, ignore_errors=True)  # of a run whose answer was lost
        yield Job(
            request=request,
            content=request.content(data_hash),
            source=out / INPUTS / f"{name}.json",
            out=out / OUTPUTS / f"{name}.json",
            data=dataset.folder,
            run=run,
        )


@contextmanager
def _workplace(out: Path) -> Iterator[None]:
    """The folder of a study, made where there is none, and cleared of what was being written, before and after."""
    check_out(out)
    out.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out, STUDY)
    for folder in (INPUTS, OUTPUTS, MODELS):
        clear_leftovers(out / folder)
    try:
        yield
    finally:
        shutil.rmtree(out / WORK, ignore_errors=True)
