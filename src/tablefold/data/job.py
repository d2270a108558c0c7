"""The steps of preparing a log: one pure function per shard, or per table, that leaves files in the work folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tablefold.data import dictionary
from tablefold.data.dictionary_file import write_dictionary
from tablefold.data.engine import Step
from tablefold.data.extension import Earlier, Known
from tablefold.data.lines import MISSING
from tablefold.data.permutation import permute_ids
from tablefold.data.rejects import save_rejects
from tablefold.data.schema import PARTS, RESERVED_IDS, dictionary_file
from tablefold.data.shards import Examples, read_shard, shard_name, write_shard
from tablefold.data.source import RawSource, Rows, Shard, Source, id_columns_of, tables_of_ids
from tablefold.data.spill import Spill, merge_spills
from tablefold.data.split import Split
from tablefold.data.texts import rank_texts, write_texts
from tablefold.tables import NOTHING

Piece = tuple[str, int, int, int]
"""What a shard gave to a part: the part's name, rows, positives, the checksum of the file."""

_GROUP_ROWS = 1 << 20
"""Rows that a dictionary file is written in at a time."""


@dataclass(frozen=True)
class Job:
    """What every step knows.

    Args:
        source: where the rows come from.
        folder: the dataset in the making.
        work: spilled counts, look-ups, and the results of finished steps.
        min_count: see `Options`.
        permute: see `Options`.
        memory: bytes that one step may take to merge counts.
        keep_negatives: see `Options`.
        earlier: the dataset whose ids are kept, if there is one.
    """

    source: Source
    folder: Path
    work: Path
    min_count: int
    permute: int | None
    memory: int
    keep_negatives: float = 1.0
    earlier: Earlier | None = None

    def step(self, name: str, number: int, *arguments: Any) -> Step:
        """The call of one method below; its result is kept in the work folder."""
        return Step(getattr(self, name), number, arguments, self.work / f"{name}-{number:06d}.json")

    def count(self, number: int, shard: Shard) -> dict[str, int]:
        """Pass 1: spill the counts of one shard, and its rejects."""
        rows = self.source.read(shard)
        Spill(self.work, number).write(self._by_table(rows.keys))
        if self.source.text:
            write_texts(self.work, number, rows.texts)
        return self._summary(number, rows)

    def recount(self, number: int, shard: Shard, rows: int) -> None:
        """Spill the counts of the first `rows` rows of a shard that is only partly for training, as `number`."""
        Spill(self.work, number).write(self._by_table(self.source.read(shard).keys[:, :rows]))

    def _by_table(self, keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The keys of every table, whichever columns of ids they are of."""
        tables = self._tables
        return [keys[tables == table].reshape(-1) for table in range(len(self.source.tables))]

    @property
    def _tables(self) -> NDArray[np.int64]:
        """The table of every column of ids."""
        return np.array(tables_of_ids(id_columns_of(self.source), self.source.tables))

    def _without_padding(self, ids: NDArray[Any], keys: NDArray[np.int64]) -> NDArray[Any]:
        """Ids, with `NOTHING` where a list has ended."""
        singles = sum(column.length is None for column in id_columns_of(self.source))
        ids[:, singles:][keys[singles:].T == MISSING] = NOTHING
        return ids

    def rank(self, table: int, spills: list[int]) -> int:
        """Merge the counts of a table, give its keys ids, write dictionary and look-up; returns the ids it has."""
        ranges = [Spill(self.work, number) for number in spills]
        if self.source.text:
            return self._rank_texts(table, ranges)
        known = Known(self._earlier_keys(table))
        old, merged = len(known.keys), merge_spills(ranges, table, self.memory)
        ranking = dictionary.Ranking((counts[known.places(keys) < 0] for keys, counts in merged), self.min_count)
        size = old + ranking.size
        cells = dictionary.create_lookup(self._lookup(table), size)
        by_id = dictionary.create_array(self.work / f"by-id-{table:06d}", (2, max(1, size)))
        dictionary.insert(cells, known.keys, np.arange(RESERVED_IDS, RESERVED_IDS + old))
        by_id[0, :old], by_id[1, :old] = known.keys, 0
        for keys, counts in merge_spills(ranges, table, self.memory):
            places = known.places(keys)
            by_id[1, places[places >= 0]] = counts[places >= 0]
            keys, counts, ids = ranking.take(keys[places < 0], counts[places < 0])
            ids = self._permuted(table, ids + old, size)
            dictionary.insert(cells, keys, ids)
            by_id[:, ids - RESERVED_IDS] = keys, counts
        write_dictionary(self.folder / dictionary_file(table), self._pieces(table, by_id[:, :size]))
        return RESERVED_IDS + size

    def _earlier_keys(self, table: int) -> NDArray[np.int64]:
        """The keys that have an id already, in the order of their ids."""
        return np.empty(0, dtype=np.int64) if self.earlier is None else self.earlier.keys(table, self._raw)

    @property
    def _raw(self) -> RawSource:
        return cast("RawSource", self.source)  # what can be extended knows the keys of raw values

    def _rank_texts(self, table: int, ranges: list[Spill]) -> int:
        """`rank` for keys that are hashes of texts, which are ranked as texts: all of the table in memory."""
        known = None if self.earlier is None else self.earlier.texts(table, self._raw)
        frame = rank_texts(self.work, table, merge_spills(ranges, table, self.memory), self.min_count, known)
        ids = self._permuted(table, np.arange(RESERVED_IDS, RESERVED_IDS + len(frame), dtype=np.int64), len(frame))
        cells = dictionary.create_lookup(self._lookup(table), len(frame))
        dictionary.insert(cells, frame["key"].to_numpy(), ids)
        by_id = frame.select("value", "count")[np.argsort(ids)]
        write_dictionary(
            self.folder / dictionary_file(table),
            ((piece["value"].to_arrow(), piece["count"].to_numpy()) for piece in by_id.iter_slices(_GROUP_ROWS)),
        )
        return RESERVED_IDS + len(frame)

    def _permuted(self, table: int, ids: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        if self.permute is None:
            return ids
        return permute_ids(ids, RESERVED_IDS + size, self.permute, table, first=RESERVED_IDS)

    def encode(self, number: int, shard: Shard, end: int, split: Split) -> list[Piece]:
        """Pass 2: write the rows of one shard, the last of which is row `end - 1`, into their parts."""
        rows = self.source.read(shard)
        ids = dictionary.encode(rows.keys, [self._lookup(table) for table in self._tables.tolist()])
        return self._write(number, self._examples(rows, ids), end, split)

    def _examples(self, rows: Rows, ids: NDArray[Any]) -> Examples:
        return Examples(rows.dense, self._without_padding(ids, rows.keys), rows.label, rows.weight)

    def hash(self, number: int, shard: Shard) -> dict[str, int]:
        """The only pass over a log whose ids are hashes: write one shard, not knowing yet into which part."""
        rows = self.source.read(shard)
        examples = self._examples(rows, dictionary.encode_hashed(rows.keys))
        checksum = write_shard(self.work / shard_name(number), examples)
        return self._summary(number, rows) | {"positives": int(rows.label.sum()), "checksum": checksum}

    def place(self, number: int, rows: int, end: int, split: Split, positives: int, checksum: int) -> list[Piece]:
        """Move a shard that `hash` wrote into its part, or cut it where parts meet."""
        parts = [part for part, _ in split.pieces(end - rows, end)]
        written = self.work / shard_name(number)
        if len(parts) > 1 or self.keep_negatives < 1:
            return self._write(number, read_shard(written), end, split)
        for part in parts:
            (self.folder / part).mkdir(exist_ok=True)
            if written.exists():  # else it was moved just before the job was killed
                written.rename(self.folder / part / shard_name(number))
        return [(part, rows, positives, checksum) for part in parts]

    def _summary(self, number: int, rows: Rows) -> dict[str, int]:
        save_rejects(self.work, number, rows.rejects)
        before = {} if rows.before is None else {"before": rows.before}
        return {"lines": rows.lines, "rows": len(rows.label), "rejects": len(rows.rejects), **before}

    def _lookup(self, table: int) -> Path:
        return self.work / f"lookup-{table:06d}"

    def _write(self, number: int, examples: Examples, end: int, split: Split) -> list[Piece]:
        written: list[Piece] = []
        for part, piece in split.pieces(end - len(examples), end):
            (self.folder / part).mkdir(exist_ok=True)
            chosen = examples[piece]
            if part == PARTS[0] and self.keep_negatives < 1:
                drawn = np.random.default_rng([number, piece.start]).random(len(chosen)) < self.keep_negatives
                chosen = chosen[np.flatnonzero(drawn | (chosen.label == 1))]
            checksum = write_shard(self.folder / part / shard_name(number), chosen)
            written.append((part, len(chosen), int(chosen.label.sum()), checksum))
        return written

    def _pieces(self, table: int, by_id: NDArray[np.int64]) -> Iterator[tuple[Any, NDArray[np.int64]]]:
        """Raw value and count of every id from `RESERVED_IDS` on."""
        for start in range(0, by_id.shape[1], _GROUP_ROWS):
            keys, counts = by_id[:, start : start + _GROUP_ROWS]
            yield self.source.raw_values(self.source.tables[table], keys), counts
