"""Prepare a raw log: count its values, rank them into ids, write its rows as shards.

Pass 1 (`Job.count`) counts the values of every shard; the counts of the training part are merged, per table, into a
dictionary (`Job.rank`); pass 2 (`Job.encode`) reads every shard again and writes its rows, as ids, into their parts.
With hashed ids one pass is enough. Every step leaves its result in a work folder beside the output; a step whose result
is there is not done again, so a killed job goes on where it was.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

from tablefold.data.engine import ENGINES, Engine
from tablefold.data.extension import Earlier
from tablefold.data.job import Job, Piece
from tablefold.data.private import SECRET_FILE, Private, write_secret
from tablefold.data.proposal import check_distinct
from tablefold.data.rejects import MAX_REJECTS, check_rejects, write_rejects
from tablefold.data.schema import FORMAT, IDS, PARTS, RESERVED_IDS, PartSchema, Schema, TableSchema
from tablefold.data.source import RawSource, Shard, Source, id_columns_of, identify
from tablefold.data.split import Split
from tablefold.data.table import Table
from tablefold.data.workplace import is_finished, open_workplace
from tablefold.fields import settle_fields
from tablefold.quoting import quoted

MEMORY = 512 << 20
_WORKERS_PER_CORE, _ALWAYS_WORKERS = 4, 16


@dataclass(frozen=True)
class Options:
    """How to prepare. The output depends on the first six alone.

    Args:
        ids: "dictionary" (ids ranked by frequency) or "hash" (one pass, open vocabulary: any int64 is an id).
        min_count: values seen less often than this in training share the id of unseen values.
        permute_ids: seed of a permutation of the ids; None keeps them ranked.
        max_rejects: the share of lines that may be rejected.
        keep_negatives: the share of the training part's rows of label 0 to keep, drawn at random. What a model then
            learns is corrected for those left out: it predicts as if none were.
        extend: folder of an earlier dataset whose values keep their ids; values that it lacks come behind.
        workers: processes that work at a time.
        engine: "local", or "ray" for the same steps as Ray tasks (all machines must see the input and the output).
        memory: bytes that merging counts may take, all workers together.
    """

    ids: str = "dictionary"
    min_count: int = 1
    permute_ids: int | None = None
    max_rejects: float = MAX_REJECTS
    keep_negatives: float = 1.0
    extend: str | None = None
    workers: int = 1
    engine: str = "local"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        settle_fields(self)
        for option, value, allowed in (("--ids", self.ids, IDS), ("--engine", self.engine, ENGINES)):
            if value not in allowed:
                raise ValueError(f"{option} {quoted(value)}: choose one of {', '.join(allowed)}")
        if self.workers > max_workers():
            cores = os.cpu_count() or 1
            raise ValueError(
                f"--workers {quoted(self.workers)}: at most {max_workers()} on a machine of {cores} cores; a worker "
                "per core is quickest"
            )
        for option, number in (("--min-count", self.min_count), ("--workers", self.workers)):
            if number < 1:
                raise ValueError(f"{option} {number} must be at least 1")
        self._check_shares()
        if self.ids == "hash" and (self.min_count > 1 or self.permute_ids is not None):
            raise ValueError("--ids hash has no dictionary, so --min-count and --permute-ids do not apply to it")
        if self.permute_ids is not None and self.permute_ids < 0:
            raise ValueError(f"--permute-ids {self.permute_ids} must not be negative")
        if self.memory < 1:
            raise ValueError(f"--memory {self.memory} must be at least 1 byte")

    def _check_shares(self) -> None:
        if not 0 <= self.max_rejects <= 1:
            raise ValueError(f"--max-rejects {self.max_rejects} must be a share between 0 and 1")
        if not 0 < self.keep_negatives <= 1:
            raise ValueError(f"--keep-negatives {self.keep_negatives} must be a share above 0, at most 1")

    def output(self) -> dict[str, Any]:
        """The options that the output depends on."""
        options = {name: getattr(self, name) for name in ("ids", "min_count", "permute_ids", "max_rejects")}
        return options if self.keep_negatives == 1 else {**options, "keep_negatives": self.keep_negatives}


def max_workers() -> int:
    """Processes that may work at a time: more would take memory and gain nothing."""
    return max(_ALWAYS_WORKERS, _WORKERS_PER_CORE * (os.cpu_count() or 1))


def prepare(source: Source, out: str | Path, options: Options | None = None) -> Schema:
    """Write the prepared dataset `out`.

    Raises:
        ValueError: for input that is missing, empty or malformed, or an `out` that is taken. Nothing is left then.
    """
    options = options or Options()
    description = {**source.describe(), **options.output()}
    earlier = None if options.extend is None else _earlier(options, source)
    if earlier is not None:
        description["extends"] = earlier.digest
    if is_finished(Path(out), description):
        return Schema.load(out)
    source.check_room(Path(out))
    best = source.best()
    with open_workplace(Path(out), {"format": FORMAT, **description, **identify(source)}) as (folder, work):
        source = source.unpack(work)
        memory = max(1, options.memory // options.workers)
        job = Job(source, folder, work, options.min_count, options.permute_ids, memory, options.keep_negatives, earlier)
        shards = source.shards()
        with Engine(options.engine, options.workers) as engine:
            if options.ids == "hash":
                counted, sizes, written = _hash(job, shards, engine, options.max_rejects)
            else:
                counted, sizes, written = _rank_and_encode(job, shards, engine, options.max_rejects)
        write_rejects(shards, counted, work, folder)
        if isinstance(source, Private):
            write_secret(source.secret, folder / SECRET_FILE)
        tables = tuple(TableSchema(table, size) for table, size in zip(source.tables, sizes, strict=True))
        rejected = sum(shard["rejects"] for shard in counted)
        schema = Schema(
            source.dense,
            tables,
            _parts(written),
            description,
            rejected,
            best,
            id_columns=id_columns_of(source),
            negatives_kept=options.keep_negatives,
            weighted=bool(description.get("columns", {}).get("weight")),
        )
        schema.save(folder)
    return schema


def _earlier(options: Options, source: Source) -> Earlier:
    """The dataset to extend, which this log goes with."""
    earlier, raw = Earlier.open(options.extend or ""), cast("RawSource", source)  # every source of a log knows its keys
    earlier.check_log(raw, options.ids, options.permute_ids)
    return earlier


Outcome = tuple[list[dict[str, int]], list[int | None], list[list[Piece]]]
"""Per shard lines, rows and rejects; per table the ids it has; per shard what it gave to which part."""


def _rank_and_encode(job: Job, shards: list[Shard], engine: Engine, max_rejects: float) -> Outcome:
    counted = engine.run([job.step("count", number, shard) for number, shard in enumerate(shards)])
    check_rejects(shards, counted, job.work, max_rejects)
    rows = [shard["rows"] for shard in counted]
    ends, split = list(accumulate(rows)), _split(job, shards, counted)
    last = bisect_left(ends, split.train_rows)  # the shard in which training ends
    spills = list(range(last))
    if split.train_rows:
        first = split.train_rows - (ends[last - 1] if last else 0)
        engine.run([job.step("recount", len(shards), shards[last], first)])
        spills.append(len(shards))
    sizes = engine.run([job.step("rank", table, spills) for table in range(len(job.source.tables))])
    if isinstance(job.source, Table):
        old = [job.earlier.size(table) if job.earlier else 0 for table in range(len(sizes))]
        found = zip(job.source.tables, sizes, old, strict=True)
        check_distinct(job.source, {name: size - RESERVED_IDS - kept for name, size, kept in found}, split.train_rows)
    steps = [job.step("encode", number, shard, ends[number], split) for number, shard in enumerate(shards)]
    return counted, sizes, engine.run(steps)


def _split(job: Job, shards: list[Shard], counted: list[dict[str, int]]) -> Split:
    """How rows are dealt to the parts: by a date where the source counts the rows before one."""
    rows = [shard["rows"] for shard in counted]
    if not all("before" in shard for shard in counted):
        return job.source.split(shards, rows)
    table: Any = getattr(job.source, "source", job.source)  # whose values may be hashed
    split: Split = table.split_at([shard["before"] for shard in counted], rows)
    return split


def _hash(job: Job, shards: list[Shard], engine: Engine, max_rejects: float) -> Outcome:
    counted = engine.run([job.step("hash", number, shard) for number, shard in enumerate(shards)])
    check_rejects(shards, counted, job.work, max_rejects)
    rows = [shard["rows"] for shard in counted]
    ends, split = list(accumulate(rows)), _split(job, shards, counted)
    written = [
        job.step("place", number, shard["rows"], ends[number], split, shard["positives"], shard["checksum"])()
        for number, shard in enumerate(counted)
    ]
    return counted, [None] * len(job.source.tables), written


def _parts(written: Iterable[list[Piece]]) -> dict[str, PartSchema]:
    pieces = [piece for shard in written for piece in shard]
    return {
        name: PartSchema(
            rows=sum(rows for part, rows, _, _ in pieces if part == name),
            positives=sum(positives for part, _, positives, _ in pieces if part == name),
            shards=tuple(rows for part, rows, _, _ in pieces if part == name),
            checksums=tuple(checksum for part, _, _, checksum in pieces if part == name),
        )
        for name in PARTS
    }
