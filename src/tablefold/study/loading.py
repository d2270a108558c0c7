"""Studies and runs read back from their folders: every file is checked as a whole before a figure of it is used."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from tablefold.files import new_file
from tablefold.formats import FP32, in_format
from tablefold.json_files import JsonValue, load_json, parse_json, read_bounded, show_json
from tablefold.study.layout import INPUTS, OUTPUTS, STUDY
from tablefold.study.quality import Quality
from tablefold.study.request import Request, fingerprint
from tablefold.study.results import RunResult, StudyResults, run_settings
from tablefold.study.variant import Variant
from tablefold.study.worker import DONE, FAILED, IMPOSSIBLE
from tablefold.train.recipe import asked
from tablefold.train.run import CONFIG, JOURNAL, RESULT

Some = TypeVar("Some")

MISSING = "missing"
"""The status of a run without an answer."""

_LARGEST_JOURNAL = 256 << 20  # bytes; a record has about 150
_COUNTS = ("embedding_bytes", "peak_rss_bytes")
_LATER_COUNTS = ("embedding_bytes_with_pointers", "artefact_bytes", "training_bytes")  # not in results of release 0.1
_MACHINE_WORDS = ("cpu", "system", "device", "python", "torch", "tablefold")
_MACHINE_COUNTS = ("cores", "threads", "memory_bytes")


def load_study(folder: str | Path) -> StudyResults:
    """Read the folder of a study, finished or not.

    Raises:
        ValueError: when it holds no study, or a file of it is damaged; names the file and the field.
    """
    folder = Path(folder)
    if not (folder / STUDY).is_file():
        raise ValueError(f"{folder} holds no study (no {STUDY}); see `tablefold study run`")
    content = load_json(folder / STUDY)
    content.refuse_unknown(("title", "about", "target", "processes", "data", "runs"))
    target = content["target"].optional(JsonValue.text, None)
    if target is not None:
        _or_refuse(content["target"], Quality.parse, target)
    data = _data(content["data"])
    names = [run["name"].text() for run in content["runs"].items()]
    if not names:
        content["runs"].refuse("a list of runs, at least one")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{folder / STUDY}: runs names {twice} twice; each run counts once")
    return StudyResults(
        folder=folder,
        title=content["title"].text(),
        about=content["about"].text(),
        target=target,
        processes=content["processes"].integer(least=1),
        data=data,
        runs=tuple(_study_run(folder, data["name"], run) for run in content["runs"].items()),
    )


def load_runs(folders: Sequence[str | Path]) -> list[RunResult]:
    """Runs of `tablefold train`, and all runs of studies, by their folders.

    Raises:
        ValueError: for a folder that holds neither, or a damaged file; names the file and the field.
    """
    runs: list[RunResult] = []
    for folder in map(Path, folders):
        if (folder / STUDY).is_file():
            runs += load_study(folder).runs
        elif (folder / RESULT).is_file():
            runs.append(_train_run(folder))
        else:
            raise ValueError(f"{folder} holds no finished run and no study (no {RESULT}, no {STUDY})")
    return runs


def write_lines(study: StudyResults, path: str | Path) -> None:
    """Write one JSON line per run, for a notebook or a repository: asked, status, result and curve."""
    lines = [json.dumps(json.loads(show_json(asdict(run)))) for run in study.runs]
    with new_file(path) as file:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _data(content: JsonValue) -> dict[str, Any]:
    """The facts of a study's data."""
    content.refuse_unknown(("name", "sha256", "source", "dense", "tables", "parts", "best"))
    parts = {name: _part(part) for name, part in content["parts"].fields().items()}
    if not any(part["rows"] for part in parts.values()):
        content["parts"].refuse("the parts of the data, with their rows")
    tables = [_table(table) for table in content["tables"].items()]
    if not tables:
        content["tables"].refuse("the tables of the data, at least one")
    content["source"]["name"].optional(JsonValue.text, None)
    best = _or_null(content["best"], JsonValue.fields) or {}
    return {
        "name": content["name"].text(),
        "sha256": content["sha256"].text(),
        "source": content["source"].plain,
        "dense": content["dense"].integer(least=0),
        "tables": tables,
        "parts": parts,
        "best": {part: {k: v.number() for k, v in figures.fields().items()} for part, figures in best.items()} or None,
    }


def _part(content: JsonValue) -> dict[str, int]:
    content.refuse_unknown(("rows", "positives"))
    rows = content["rows"].integer(least=0)
    return {"rows": rows, "positives": content["positives"].integer(least=0, most=rows)}


def _table(content: JsonValue) -> dict[str, Any]:
    content.refuse_unknown(("name", "rows"))
    return {"name": content["name"].text(), "rows": _or_null(content["rows"], _positive)}


def _positive(value: JsonValue) -> int:
    return value.integer(least=1, most=2**62)


def _or_null(value: JsonValue, read: Callable[[JsonValue], Some]) -> Some | None:
    """What `read` makes of it, None where it is null; a missing field is refused."""
    return None if value.plain is None else read(value)


def _study_run(folder: Path, data: str, run: JsonValue) -> RunResult:
    """A run of a study: what was asked of it, and its answer if there is one."""
    run.refuse_unknown(("name", "series", "size"))
    name, series, size = (run[key].text() for key in ("name", "series", "size"))
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,150}", name):
        run["name"].refuse("a name of at most 151 lower-case letters, digits, dots and hyphens")
    question = load_json(folder / INPUTS / f"{name}.json")
    if not name.endswith(f"-{fingerprint(question.plain)[:8]}"):
        raise ValueError(f"{question.file} is damaged: its content is not that of the run {name}")
    request = Request.of(question, series, size)
    if _method(series) != _method(request.config.method):
        run["series"].refuse(f"of the method {_method(request.config.method)}, as {question.file} says")
    return RunResult(
        name=name,
        series=series,
        size=size,
        settings=run_settings({**request.config.to_json(), "data": data}, request.variant),
        wishes=request.config.wishes,
        seed=request.config.seed,
        **read_answer(folder / OUTPUTS / f"{name}.json", question.plain),
    )


def read_answer(path: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    """What an output file says of its run: status, error, result, curve and commit, as `RunResult` has them.

    Args:
        path: of the output file; where there is none, the run is missing.
        question: the content of the run's input file.

    Raises:
        ValueError: for a file that is damaged, or answers another question; names the file and the field.
    """
    if not path.exists():
        return {"status": MISSING, "error": "not run yet"}
    try:
        return _answer(load_json(path), question)
    except ValueError as error:
        raise ValueError(f"{error} (`tablefold study run` does this run again)") from error


def _answer(output: JsonValue, question: Mapping[str, Any]) -> dict[str, Any]:
    output.refuse_unknown(("input_sha256", "status", "error", "result", "curve", "commit"))
    if output["input_sha256"].text() != fingerprint(question):
        output["input_sha256"].refuse("the hash of the run's input")
    status = output["status"].choice((DONE, FAILED, IMPOSSIBLE))
    if status != DONE:
        return {"status": status, "error": output["error"].text()}
    result = _result(output["result"])
    return {
        "status": status,
        "result": result,
        "curve": _curve(output["curve"].items(), result),
        "commit": output["commit"].optional(JsonValue.text, None),
    }


def _train_run(folder: Path) -> RunResult:
    """A run of `tablefold train`."""
    config = asked(load_json(folder / CONFIG))
    result, path = _result(load_json(folder / RESULT)), folder / JOURNAL
    lines = read_bounded(path, _LARGEST_JOURNAL).splitlines()
    records = [parse_json(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]
    looks = [record for record in records if record["part"].choice(("train", "validation")) == "validation"]
    size, wishes = f"{config.compression:g}x" if config.compression else "", config.wishes
    size = size or (f"{config.budget} bytes" if config.budget else "")
    if config.compression is None and config.budget is None:  # a plan had nothing to choose
        wishes = replace(wishes, threshold=config.threshold or 0, storage=config.storage or FP32.name)
    return RunResult(
        name=folder.name,
        series=in_format(config.method, FP32.name if config.storage is None else result["storage"]),
        size=f"{size} with pointers" if config.with_pointers else size,
        settings=run_settings(config.to_json(), Variant()),
        wishes=wishes,
        seed=config.seed,
        result=result,
        curve=_curve(looks, result),
    )


def _result(content: JsonValue) -> dict[str, Any]:
    """The content of a `result.json`; figures that were undefined, null in JSON, are NaN."""
    content["method"].text()
    content["storage"].optional(JsonValue.text, "fp32")
    content["target"].optional(JsonValue.text, None)
    content["target_reached"].optional(JsonValue.flag, None)
    for name in _COUNTS:
        _positive(content[name])
    _check_compression(content)
    for name in _MACHINE_WORDS:
        content["machine"][name].text()
    for name in _MACHINE_COUNTS:
        _positive(content["machine"][name])
    rate = _figure(content["samples_per_second"], 0)
    later = {name: content[name].optional(_positive, None) for name in _LATER_COUNTS}
    defaults = {"storage": "fp32", "target": None, "target_reached": None, **later}
    return {**defaults, **content.plain, **_figures(content), "samples_per_second": rate}


def _check_compression(content: JsonValue) -> None:
    """Refuse bytes and a compression that contradict each other."""
    full = _or_null(content["full_bytes"], _positive)
    if full is None:
        if content["compression"].plain is not None:
            content["compression"].refuse("null, for full_bytes is null")
        return
    compression = content["compression"].number(least=0)
    if not math.isclose(compression, full / content["embedding_bytes"].plain, rel_tol=1e-6):
        content["compression"].refuse("full_bytes / embedding_bytes")


def _curve(looks: Sequence[JsonValue], result: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The looks, with the seconds that their examples take at the run's speed: a first run on a machine compiles its
    kernels in its first step, which is no cost of the method."""
    rate = result["samples_per_second"]
    return tuple(_look(look, rate) for look in looks)


def _look(look: JsonValue, rate: float) -> dict[str, Any]:
    seconds, examples = look["seconds"].number(least=0), look["examples"].integer(least=0)
    timed = {"examples": examples, "seconds": examples / rate if rate > 0 else seconds}
    return {"step": look["step"].integer(least=0), **timed, **_figures(look)}


def _figures(content: JsonValue) -> dict[str, float]:
    """AUC and log loss; JSON has no NaN: a figure that was undefined comes back as null."""
    return {"auc": _figure(content["auc"], 0, 1), "logloss": _figure(content["logloss"], 0)}


def _figure(value: JsonValue, least: float, most: float | None = None) -> float:
    """A figure, NaN where it is null; a missing one is refused."""
    figure = _or_null(value, lambda value: value.number(least, most))
    return math.nan if figure is None else figure


def _method(spec: str) -> str:
    """The method's name, of a spec string or a series."""
    return re.split("[: ]", spec)[0]


def _or_refuse(value: JsonValue, check: Any, text: str) -> None:
    """Refuse a value that `check` refuses, naming its file and field."""
    try:
        check(text)
    except ValueError as error:
        value.refuse(str(error))
