"""Dictionary files: the raw value and the training count of every id of a column, in id order, as Parquet.

Pages carry checksums, so that a flipped bit is found when they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tablefold.files import new_file
from tablefold.quoting import one_line

_SCHEMA = pa.schema([("value", pa.string()), ("count", pa.int64())])
_PIECE = 1 << 20
"""Values that are read at a time."""


def write_dictionary(path: Path, pieces: Iterable[tuple[Any, Any]]) -> None:
    """Write values and counts that come piece by piece, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    # Arrow opens a path by the locale's encoding, Python by that of the file system.
    with (
        new_file(path) as file,
        file.open("wb") as stream,
        pq.ParquetWriter(stream, _SCHEMA, write_page_checksum=True) as writer,
    ):
        for values, counts in pieces:
            text = values if isinstance(values, pa.Array) else pa.array(values)
            columns = [text.cast(pa.string()), pa.array(counts)]
            writer.write_table(pa.table(columns, schema=_SCHEMA))


def write_reordered(path: Path, original: Path, order: NDArray[np.int32]) -> None:
    """Write the values of a dictionary in another order, with their counts.

    Args:
        path: the new file.
        original: a dictionary of as many values.
        order: the places in `original` of the values, one after the other.

    Raises:
        ValueError: as of `read_values`.
    """
    size = len(order)
    text = pa.chunked_array([*_read(original, "value", size, nulls=True)], pa.large_string()).combine_chunks()
    counts = read_counts(original, size)
    pieces = (order[start : start + _PIECE] for start in range(0, size, _PIECE))
    write_dictionary(path, ((text.take(pa.array(piece)), counts[piece]) for piece in pieces))


def read_values(path: Path, values: int, *, nulls: bool = False) -> Iterator[list[Any]]:
    """The values of a dictionary of `values` values, piece by piece: texts, or None where that may be one.

    Raises:
        ValueError: where the file is missing or damaged, lacks a value, or does not hold as many.
    """
    for column in _read(path, "value", values, nulls=nulls):
        with _reading(path):
            piece: list[Any] = column.to_pylist()
        yield piece


def read_counts(path: Path, values: int) -> NDArray[np.int64]:
    """The counts of a dictionary of `values` values.

    Raises:
        ValueError: where the file is missing or damaged, lacks a count, or does not hold as many.
    """
    counts = [column.to_numpy() for column in _read(path, "count", values)]
    found: NDArray[np.int64] = np.concatenate([np.empty(0, dtype=np.int64), *counts])
    if (found < 0).any():
        raise ValueError(f"{path} is damaged (it holds a negative count); prepare the data again")
    return found


def _read(path: Path, name: str, values: int, *, nulls: bool = False) -> Iterator[Any]:
    """A column, piece by piece, of the type that it must have, `values` values together, with nulls or without."""
    left = values
    # Arrow opens a path by the locale's encoding, Python by that of the file system.
    with _reading(path), path.open("rb") as stream, pq.ParquetFile(stream, page_checksum_verification=True) as file:
        if file.metadata.num_rows != values:
            raise ValueError(f"it holds {file.metadata.num_rows:,} values instead of {values:,}")
        if name not in file.schema_arrow.names or not _fits(name, file.schema_arrow.field(name).type):
            raise ValueError(f"it has no column {name!r} of {_SCHEMA.field(name).type}")
        for batch in file.iter_batches(_PIECE, columns=[name]):
            column = batch.column(0)
            column.validate(full=True)
            left -= len(column)
            if left < 0:
                raise ValueError("it is too long")
            if column.null_count and not nulls:
                raise ValueError(f"its column {name!r} has a missing value")
            yield column.cast(pa.large_string()) if name == "value" else column
        if left:
            raise ValueError(f"it lacks {left:,} values")


def _fits(name: str, kind: Any) -> bool:
    if name == "count":
        return bool(kind == pa.int64())
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong is said of the file, in one line."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
        reason = one_line(str(error), 200)
        raise ValueError(f"{path} is missing or damaged ({reason}); restore it, or prepare the data again") from error
