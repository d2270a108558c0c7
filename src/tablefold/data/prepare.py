"""Prepare a raw log: count its values, rank them into ids, write its rows as shards. One pure function per shard.

Pass 1 (`count`) counts the values of every shard; the shards of the training part are then merged, per table, into a
dictionary (`rank`). Pass 2 (`encode`) reads every shard again and writes its rows, as ids, into their parts. Each step
leaves its files and, last of all, its result in a work folder beside the output; a step whose result is there is not
done again, so a killed job goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tablefold.data import dictionary
from tablefold.data.engine import Step, run_steps
from tablefold.data.rejects import MAX_REJECTS, check_rejects, save_rejects, write_rejects
from tablefold.data.schema import PARTS, RESERVED_IDS, PartSchema, Schema, TableSchema
from tablefold.data.shards import Examples, shard_name, write_shard
from tablefold.data.source import Source
from tablefold.data.split import Split
from tablefold.data.workplace import open_workplace


@dataclass(frozen=True)
class Options:
    """How to prepare.

    Args:
        min_count: values seen less often than this in training share the id of unseen values.
        max_rejects: the share of lines that may be rejected.
        workers: processes that work at a time; the output does not depend on it.
    """

    min_count: int = 1
    max_rejects: float = MAX_REJECTS
    workers: int = field(default=1, compare=False)

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ValueError(f"--min-count {self.min_count} must be at least 1")
        if not 0 <= self.max_rejects <= 1:
            raise ValueError(f"--max-rejects {self.max_rejects} must be a share between 0 and 1")
        if self.workers < 1:
            raise ValueError(f"--workers {self.workers} must be at least 1")


def prepare(source: Source, out: str | Path, options: Options | None = None) -> Schema:
    """Write the prepared dataset `out`.

    Raises:
        ValueError: for input that is missing, empty or malformed, or an `out` that is taken. Nothing is left then.
    """
    options = options or Options()
    description = {**source.describe(), "min_count": options.min_count}
    with open_workplace(Path(out), description | {"max_rejects": options.max_rejects}) as (folder, work):
        source = source.unpack(work)
        job = Job(source, folder, work, options.min_count)
        shards = source.shards()
        counted = run_steps([job.step("count", number) for number in range(len(shards))], options.workers)
        check_rejects(shards, counted, work, options.max_rejects)
        ends = np.cumsum([shard["rows"] for shard in counted]).tolist()
        split = Split.by_order(ends[-1])
        steps = [job.step("rank", number, ends, split.train_rows) for number in range(len(source.tables))]
        sizes = run_steps(steps, options.workers)
        written = run_steps([job.step("encode", number, ends, split) for number in range(len(shards))], options.workers)
        write_rejects(shards, counted, work, folder)
        tables = [TableSchema(table, size) for table, size in zip(source.tables, sizes, strict=True)]
        rejected = sum(shard["rejects"] for shard in counted)
        schema = Schema(source.dense, tuple(tables), _parts(written), description, rejected, source.best())
        schema.save(folder)
    return schema


@dataclass(frozen=True)
class Job:
    """What every step knows: the source, the output folder, the work folder."""

    source: Source
    folder: Path
    work: Path
    min_count: int

    def step(self, name: str, number: int, *arguments: Any) -> Step:
        """The call of one method below; its result is kept in the work folder."""
        return Step(getattr(self, name), number, arguments, self.work / f"{name}-{number:06d}.json")

    def count(self, number: int) -> dict[str, int]:
        """Pass 1: spill the distinct keys and counts of every column of one shard, and its rejects."""
        rows = self.source.read(self.source.shards()[number])
        self._spill(number, rows.keys)
        save_rejects(self.work, number, rows.rejects)
        return {"lines": rows.lines, "rows": len(rows.label), "rejects": len(rows.rejects)}

    def rank(self, number: int, ends: list[int], train_rows: int) -> int:
        """Merge the counts of table `number` over the training part, and rank its keys; returns the ids it has."""
        counted = []
        for shard, end in enumerate(ends):
            if end <= train_rows:
                counted.append(self._spilled(shard, number))
            else:  # only the first rows of this shard are for training
                start = ends[shard - 1] if shard else 0
                keys = self.source.read(self.source.shards()[shard]).keys[number]
                counted.append(dictionary.count_keys(keys[: train_rows - start]))
                break
        keys, counts = dictionary.rank_keys(*dictionary.merge_counts(counted), self.min_count)
        dictionary.write_lookup(self._lookup(number), keys)
        table = self.source.tables[number]
        values = pa.array(self.source.raw_values(table, keys)).cast(pa.string())
        (self.folder / "dictionary").mkdir(exist_ok=True)
        pq.write_table(pa.table({"value": values, "count": counts}), self.folder / "dictionary" / f"{table}.parquet")
        return RESERVED_IDS + len(keys)

    def encode(self, number: int, ends: list[int], split: Split) -> list[tuple[str, int, int]]:
        """Pass 2: write the rows of one shard into their parts; returns (part, rows, positives) of each piece."""
        rows = self.source.read(self.source.shards()[number])
        ids = np.empty((len(rows.label), len(self.source.tables)), dtype=np.int32)
        for table in range(len(self.source.tables)):
            dictionary.encode(dictionary.open_lookup(self._lookup(table)), rows.keys[table], ids[:, table])
        examples = Examples(rows.dense, ids, rows.label)
        pieces = split.pieces(ends[number] - len(examples), ends[number])
        for part, piece in pieces:
            (self.folder / part).mkdir(exist_ok=True)
            write_shard(self.folder / part / shard_name(number), examples[piece])
        return [(part, len(rows.label[piece]), int(rows.label[piece].sum())) for part, piece in pieces]

    def _spill(self, number: int, keys: Any) -> None:
        counts = [dictionary.count_keys(column) for column in keys]
        ends = np.cumsum([len(column) for column, _ in counts])
        np.save(self.work / f"ends-{number:06d}.npy", ends)
        np.save(self.work / f"counts-{number:06d}.npy", np.hstack([np.stack(pair) for pair in counts]))

    def _spilled(self, number: int, column: int) -> tuple[Any, Any]:
        ends = [0, *np.load(self.work / f"ends-{number:06d}.npy")]
        counts = np.load(self.work / f"counts-{number:06d}.npy", mmap_mode="r")
        return tuple(counts[:, ends[column] : ends[column + 1]])

    def _lookup(self, table: int) -> Path:
        return self.work / f"lookup-{table:06d}.npy"


def _parts(written: Iterable[list[tuple[str, int, int]]]) -> dict[str, PartSchema]:
    pieces = [piece for shard in written for piece in shard]
    return {
        name: PartSchema(
            rows=sum(rows for part, rows, _ in pieces if part == name),
            positives=sum(positives for part, _, positives in pieces if part == name),
            shards=tuple(rows for part, rows, _ in pieces if part == name),
        )
        for name in PARTS
    }
