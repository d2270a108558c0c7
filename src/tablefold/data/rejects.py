"""The lines that are no examples: kept, counted, and refused when there are too many."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tablefold.data.lines import Reject
from tablefold.data.source import Shard

RejectRow = tuple[str, int, str, str]
"""File, line (or record of a Parquet file, from 1), reason, text."""

REJECTS_FILE = "rejects.parquet"
MAX_REJECTS = 0.001
"""Share of the lines that may be rejected, if the user does not say otherwise."""

_SCHEMA = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.large_string())])


def path_text(path: str) -> str:
    r"""A path as a file can hold it: bytes of it that are no UTF-8 as `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def save_rejects(work: Path, number: int, rejects: list[Reject]) -> None:
    """Keep the rejects of shard `number`."""
    rows = [(reject.line, reject.reason, reject.shown_text) for reject in rejects]
    (work / f"rejects-{number:06d}.json").write_text(json.dumps(rows), encoding="utf-8")


def check_rejects(shards: Sequence[Shard], counted: Sequence[dict[str, int]], work: Path, allowed: float) -> None:
    """Refuse a log with too many rejects, or without a single example; the error names the first bad line."""
    lines, rejects = (sum(shard[key] for shard in counted) for key in ("lines", "rejects"))
    first = next(_all_rejects(shards, counted, work), [])
    check_share(first, lines, allowed, ", ".join(dict.fromkeys(shard.file for shard in shards)), rejects)


def check_share(rejects: Sequence[RejectRow], lines: int, allowed: float, file: str, number: int | None = None) -> None:
    """Refuse `number` rejects (by default as many as are given) of `lines`; the error names the first."""
    number = len(rejects) if number is None else number
    if number and (number > allowed * lines or number == lines):
        name, line, reason, _ = rejects[0]
        raise ValueError(
            f"{name}, line {line}: {reason} "
            f"({number:,} of {lines:,} lines rejected; --max-rejects allows a share of {allowed:g})"
        )
    if not lines:
        raise ValueError(f"{file}: no example in it")


def write_rejects(shards: Sequence[Shard], counted: Sequence[dict[str, int]], work: Path, folder: Path) -> None:
    """Write `rejects.parquet`: one row per rejected line, in the order of the log; an empty table if all is well."""
    with pq.ParquetWriter(folder / REJECTS_FILE, _SCHEMA) as writer:
        for rows in _all_rejects(shards, counted, work):
            writer.write_table(_table(rows))


def write_reject_rows(rows: Sequence[RejectRow], folder: Path) -> None:
    """`write_rejects` for rejects that are in memory."""
    pq.write_table(_table(rows), folder / REJECTS_FILE)


def _table(rows: Sequence[RejectRow]) -> pa.Table:
    return pa.table([[row[column] for row in rows] for column in range(len(_SCHEMA))], schema=_SCHEMA)


def _all_rejects(shards: Sequence[Shard], counted: Sequence[dict[str, int]], work: Path) -> Iterator[list[RejectRow]]:
    """Per shard that has any: (file, line in the file, reason, text) of its rejects."""
    before: dict[str, int] = {}
    for number, (shard, count) in enumerate(zip(shards, counted, strict=True)):
        first = before.get(shard.file, 1 if shard.header else 0)
        before[shard.file] = first + count["lines"]
        if count["rejects"]:
            rejects = json.loads((work / f"rejects-{number:06d}.json").read_text(encoding="utf-8"))
            yield [(path_text(shard.file), first + line, reason, text) for line, reason, text in rejects]
