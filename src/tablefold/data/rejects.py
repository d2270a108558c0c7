"""The lines that are no examples: kept, counted, and refused when there are too many."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tablefold.data.lines import Reject
from tablefold.data.source import Shard

REJECTS_FILE = "rejects.parquet"
_SCHEMA = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("text", pa.large_string())])


def save_rejects(work: Path, number: int, rejects: list[Reject]) -> None:
    """Keep the rejects of shard `number`; bytes that are no UTF-8 are written as `\\xNN`."""
    rows = [(reject.line, reject.reason, reject.text.decode("utf-8", "backslashreplace")) for reject in rejects]
    (work / f"rejects-{number:06d}.json").write_text(json.dumps(rows))


def check_rejects(shards: Sequence[Shard], counted: Sequence[dict[str, int]], work: Path, allowed: float) -> None:
    """Refuse a log with too many rejects, or without a single example; the error names the first bad line."""
    lines, rejects = (sum(shard[key] for shard in counted) for key in ("lines", "rejects"))
    if rejects and (rejects > allowed * lines or rejects == lines):
        _, rows = next(_all_rejects(shards, counted, work))
        raise ValueError(
            f"{rows[0][0]}, line {rows[0][1]}: {rows[0][2]} "
            f"({rejects:,} of {lines:,} lines rejected; --max-rejects allows a share of {allowed:g})"
        )
    if not lines:
        raise ValueError(f"{', '.join(dict.fromkeys(shard.file for shard in shards))}: no example in it")


def write_rejects(shards: Sequence[Shard], counted: Sequence[dict[str, int]], work: Path, folder: Path) -> None:
    """Write `rejects.parquet`: one row per rejected line, in the order of the log; an empty table if all is well."""
    with pq.ParquetWriter(folder / REJECTS_FILE, _SCHEMA) as writer:
        for _, rows in _all_rejects(shards, counted, work):
            columns = [list(column) for column in zip(*rows, strict=True)]
            writer.write_table(pa.table(columns, schema=_SCHEMA))


def _all_rejects(
    shards: Sequence[Shard], counted: Sequence[dict[str, int]], work: Path
) -> Iterator[tuple[int, list[tuple[str, int, str, Any]]]]:
    """Per shard that has any: (file, line in the file, reason, text) of its rejects."""
    before: dict[str, int] = {}
    for number, (shard, count) in enumerate(zip(shards, counted, strict=True)):
        first = before.get(shard.file, 0)
        before[shard.file] = first + count["lines"]
        if count["rejects"]:
            rejects = json.loads((work / f"rejects-{number:06d}.json").read_text())
            yield number, [(shard.file, first + line, reason, text) for line, reason, text in rejects]
