"""From raw lines to a model's inputs, long after the log it learned from was prepared.

Lines are read by the source that prepared the log, and encoded as it was; values that its dictionary does not hold get
the id of unseen ones. Where tables are closed catalogues (interactions) a row with such a value is a reject. What a
user took before, which some models read, is no part of a row: it is what the training part knows of her.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tablefold.data.dictionary import encode_hashed
from tablefold.data.encoder_folder import EncoderFolder
from tablefold.data.lines import MISSING
from tablefold.data.rejects import RejectRow, path_text
from tablefold.data.schema import IDS, MISSING_ID, UNSEEN_ID, TableSchema
from tablefold.data.source import Rows, describe_files, id_columns_of, inputs_of, tables_of_ids
from tablefold.data.table import PARQUET_ROWS
from tablefold.data.value_index import ValueIndex
from tablefold.quoting import one_line
from tablefold.tables import NOTHING

_UNKNOWN = -1
"""Of a value that a closed catalogue lacks."""


@dataclass(frozen=True)
class Encoded:
    """A piece of a file.

    Args:
        dense: float32 [rows, dense_columns].
        ids: int32 or int64 [rows, tables].
        fits: bool [lines]: which lines of the piece are its rows; the others are rejects.
        rejects: those others, in order; their line numbers count within the file.
    """

    dense: NDArray[np.float32]
    ids: NDArray[Any]
    fits: NDArray[np.bool_]
    rejects: list[RejectRow]


class Encoder:
    """Reads raw lines as a model's inputs.

    Args:
        folder: what `save_encoder` wrote.
        dense: names of the model's dense columns.
        tables: the model's tables.
        work: an existing folder for files that are unpacked, and for the indexes that an older folder lacks. None
            keeps such indexes in memory, and writes no file.
        built: another encoder of `folder` has checked its indexes, and left those it lacked in `work`.

    Attributes:
        dense: names of the dense columns, in order.
        tables: names of the columns that have a table, in order.
        inputs: names of the raw columns that are read of a row.
        numbers: those of them that are numbers.
        id_columns: what the matrix of ids holds.

    Raises:
        ValueError: for a folder that is missing, damaged, or does not belong to `dense` and `tables`.
    """

    def __init__(
        self,
        folder: Path,
        dense: Sequence[str],
        tables: Sequence[TableSchema],
        work: Path | None = None,
        *,
        built: bool = False,
    ) -> None:
        self._folder = EncoderFolder.read(folder, dense, tables)
        self.dense, self.tables = tuple(dense), tuple(table.name for table in tables)
        self._work = work
        self._live = self._folder.source()
        self.inputs, self.numbers = inputs_of(self._live)
        read = id_columns_of(self._live)
        self._tables = tables_of_ids(read, self.tables)
        self._singles = sum(column.length is None for column in read)
        self._histories = self._folder.histories(checked=built)
        self.id_columns = read if self._folder.history is None else (*read, self._folder.history)
        self._indexes: list[ValueIndex] | None = None
        if self._folder.ids == IDS[0]:
            self._indexes = [self._folder.index(number, work, checked=built) for number in range(len(tables))]

    @property
    def lookup_bytes(self) -> int:
        """Bytes of the indexes."""
        return sum(index.num_bytes for index in self._indexes or [])

    @property
    def false_match(self) -> float:
        """The odds that a value which training has not shown is taken for one that it has, of the largest table."""
        return self._folder.false_match

    def read(self, file: str) -> Iterator[Encoded]:
        """The lines of a file, plain or gzipped, piece by piece in order; labels are not read and may be missing.

        Raises:
            ValueError: for a file that is missing or empty, or not of the format that the model's data had.
        """
        describe_files([file])
        with TemporaryDirectory(prefix="tablefold-") if self._work is None else nullcontext(self._work) as work:
            source = self._folder.source(file).unpack(Path(work)).unlabelled()
            first = 0
            for shard in source.shards():
                rows = source.read(shard)
                first = first or (2 if shard.header else 1)
                yield self._encode(rows, path_text(file), first)
                first += rows.lines

    def read_frame(self, frame: pl.DataFrame, origin: str) -> Iterator[Encoded]:
        """The rows of a frame in memory, which errors call `origin`, piece by piece in order.

        Raises:
            ValueError: for a frame without rows or without a column of the model's.
        """
        if not len(frame):
            raise ValueError(f"{origin} has no rows")
        source = self._live
        for start in range(0, len(frame), PARQUET_ROWS):
            yield self._encode(source.read_frame(frame[start : start + PARQUET_ROWS], origin), origin, start + 1)

    def read_values(self, columns: Sequence[Sequence[Any]], origin: str) -> Encoded:
        """The rows of Python values, a column each for `inputs`, equally long.

        Raises:
            ValueError: for a value that is no text, number, truth, date or time.
        """
        return self._encode(self._live.read_values(columns), origin, 1)

    def _encode(self, rows: Rows, origin: str, first: int) -> Encoded:
        """The rows as ids; they are the lines (or rows) of `origin` from number `first` on."""
        rejects = [(origin, first + reject.line - 1, reject.reason, reject.shown_text) for reject in rows.rejects]
        if self._indexes is None:
            return Encoded(rows.dense, self._padded(encode_hashed(rows.keys), rows), _fits(rows), rejects)
        ids = np.empty(rows.keys.shape[::-1], dtype=np.int32)
        is_closed = self._folder.is_closed
        for number, table in enumerate(self._tables):
            unseen, missing = (_UNKNOWN, None) if is_closed else (UNSEEN_ID, MISSING_ID)
            self._indexes[table].look_up_into(ids[:, number], rows.keys[number], unseen, missing)
        encoded = Encoded(rows.dense, self._padded(ids, rows), _fits(rows), rejects)
        if is_closed and (ids < 0).any():
            encoded = self._without_unknown(encoded, origin, first)
        if self._histories is None:
            return encoded
        return replace(encoded, ids=np.hstack([encoded.ids, self._histories[encoded.ids[:, 0]]]))

    def _padded(self, ids: NDArray[Any], rows: Rows) -> NDArray[Any]:
        """Ids, with `NOTHING` where a list has ended."""
        ids[:, self._singles :][rows.keys[self._singles :].T == MISSING] = NOTHING
        return ids

    def _without_unknown(self, encoded: Encoded, origin: str, first: int) -> Encoded:
        """Reject the rows with a value that a closed catalogue lacks."""
        known = (encoded.ids >= 0).all(axis=1)
        lines = np.flatnonzero(encoded.fits)[~known]
        columns = encoded.ids[~known].argmin(axis=1)
        rejects = encoded.rejects + [
            (origin, first + line, f"field {one_line(self.tables[column], 60)} is none of the values of training", "")
            for line, column in zip(lines.tolist(), columns.tolist(), strict=True)
        ]
        fits = encoded.fits.copy()
        fits[lines] = False
        return Encoded(encoded.dense[known], encoded.ids[known], fits, sorted(rejects, key=lambda reject: reject[1]))


def _fits(rows: Rows) -> NDArray[np.bool_]:
    fits = np.ones(rows.lines, dtype=np.bool_)
    if rows.rejects:
        fits[[reject.line - 1 for reject in rows.rejects]] = False
    return fits
