"""Shard files: examples as row-major arrays in Arrow IPC, one record batch each, uncompressed.

A shard has a column `dense` (fixed-size list of float32; absent where a dataset has no dense columns), a column `ids`
(fixed-size list of int32, or int64 where ids need it) and a column `label` (uint8). Fixed-size lists are contiguous, so
a memory-mapped shard IS the `[rows, columns]` matrices, and a batch is a slice of them: nothing is parsed on reading.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tablefold.files import new_file
from tablefold.quoting import one_line
from tablefold.tables import NOTHING

_BLOCK_ROWS = 64


@dataclass(frozen=True)
class Examples:
    """Rows of a dataset as numpy arrays.

    Args:
        dense: float32 [rows, dense_columns].
        ids: int32 or int64 [rows, tables].
        label: uint8 [rows].
        weight: float32 [rows], how much each row counts in training; None: all alike.
    """

    dense: NDArray[np.float32]
    ids: NDArray[Any]
    label: NDArray[np.uint8]
    weight: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Examples:
        weight = None if self.weight is None else self.weight[rows]
        return Examples(self.dense[rows], self.ids[rows], self.label[rows], weight)

    @staticmethod
    def concatenate(pieces: list[Examples]) -> Examples:
        """The rows of all pieces, in order; one piece is returned as it is."""
        if len(pieces) == 1:
            return pieces[0]
        weights = [piece.weight for piece in pieces if piece.weight is not None]
        return Examples(
            np.concatenate([piece.dense for piece in pieces]),
            np.concatenate([piece.ids for piece in pieces]),
            np.concatenate([piece.label for piece in pieces]),
            np.concatenate(weights) if weights else None,
        )


def shard_name(number: int) -> str:
    """The file name of shard `number`; names sort in order."""
    return f"{number:06d}.arrow"


@dataclass(frozen=True)
class ShardLayout:
    """What every shard of a dataset must hold.

    Args:
        dense: dense columns.
        tables: for every column of ids, how many its table has; None for any int64.
        weighted: whether every row has a weight.
        singles: how many of these hold an id in every row; those behind them, of lists, may hold `NOTHING`. None: all.
    """

    dense: int
    tables: tuple[int | None, ...]
    singles: int | None = None
    weighted: bool = False

    def check(self, examples: Examples) -> None:
        """Look at every value.

        Raises:
            ValueError: for another number of columns, a dense value that is not finite, an id outside its table, or a
                label that is not 0 or 1.
        """
        if examples.dense.shape[1] != self.dense or examples.ids.shape[1] != len(self.tables):
            found = f"{examples.dense.shape[1]} dense columns and {examples.ids.shape[1]} columns of ids"
            raise ValueError(f"it has {found}, its schema lists {self.dense} and {len(self.tables)}")
        if examples.dense.size and not np.isfinite([examples.dense.min(), examples.dense.max()]).all():
            raise ValueError("it holds a dense value that is not finite")
        singles = len(self.tables) if self.singles is None else self.singles
        largest = _largest(examples.ids[:, :singles]).tolist()
        if singles < len(self.tables):
            largest += [each + NOTHING for each in _largest(examples.ids[:, singles:] - NOTHING).tolist()]
        for number, (found_id, rows) in enumerate(zip(largest, self.tables, strict=True)):
            if rows is not None and found_id >= rows:
                raise ValueError(f"it holds an id of table {number} outside 0 .. {rows - 1}")
        if (examples.weight is not None) != self.weighted:
            raise ValueError(f"it has {'' if examples.weight is not None else 'no '}weights, its schema says otherwise")
        if examples.weight is not None and not (np.isfinite(examples.weight) & (examples.weight >= 0)).all():
            raise ValueError("it holds a weight that is not a finite number from 0 on")
        if examples.label.max(initial=0) > 1:
            raise ValueError("it holds a label that is not 0 or 1")


def write_shard(path: Path, examples: Examples) -> int:
    """Write one shard file, whole or not at all, and give its checksum. The same examples give the same bytes."""
    columns = {"ids": _fixed_list(examples.ids), "label": pa.array(examples.label)}
    if examples.dense.shape[1]:
        columns = {"dense": _fixed_list(examples.dense), **columns}
    if examples.weight is not None:
        columns["weight"] = pa.array(examples.weight)
    batch = pa.record_batch(columns)
    with new_file(path) as file:
        with pa.ipc.new_file(str(file), batch.schema) as writer:
            writer.write_batch(batch)
        return _checksum(pa.memory_map(str(file)))


def read_shard(
    path: Path, rows: int | None = None, layout: ShardLayout | None = None, checksum: int | None = None
) -> Examples:
    """Memory-map one shard file: the arrays are read-only views of the file's pages.

    Args:
        path: the file.
        rows: how many it must hold, if that is known.
        layout: what its values must be; None does not look at them.
        checksum: what `write_shard` gave; None does not compare.

    Raises:
        ValueError: if the file is missing or damaged, or is not as the arguments say.
    """
    try:
        file = pa.memory_map(str(path))
        if checksum is not None:
            _check_equal("checksum", _checksum(file), checksum)
        examples = _parse(file)
        if rows is not None:
            _check_equal("number of rows", len(examples), rows)
        if layout is not None:
            layout.check(examples)
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = one_line(str(error), 200)
        raise ValueError(f"{path} is missing or damaged ({reason}); prepare the data again") from error
    return examples


def _parse(file: pa.MemoryMappedFile) -> Examples:
    """The arrays of a shard file; `ValueError` for columns of other names, types or lengths, or with nulls."""
    reader = pa.ipc.open_file(file)
    if reader.num_record_batches != 1:
        raise ValueError(f"it holds {reader.num_record_batches} record batches instead of one")
    batch = reader.get_batch(0)
    batch.validate(full=True)
    names = batch.schema.names
    if names not in (every := ["dense", "ids", "label", "weight"], every[:3], every[1:], every[1:3]):
        raise ValueError("its columns are not dense, ids, label and weight")
    label = batch.column("label")
    if label.type != pa.uint8() or label.null_count:
        raise ValueError("its column label is not uint8 without nulls")
    ids = _matrix(batch, "ids", (pa.int32(), pa.int64()))
    weight = None
    if "weight" in names:
        if (own := batch.column("weight")).type != pa.float32() or own.null_count:
            raise ValueError("its column weight is not float32 without nulls")
        weight = own.to_numpy()
    dense = np.empty((len(label), 0), dtype=np.float32)
    if "dense" in names:
        dense = _matrix(batch, "dense", (pa.float32(),))
    return Examples(dense, ids, label.to_numpy(), weight)


def _check_equal(what: str, found: int, listed: int) -> None:
    if found != listed:
        raise ValueError(f"its {what} is {found}, by its schema {listed}")


def _checksum(file: pa.MemoryMappedFile) -> int:
    return zlib.crc32(file.read_buffer(file.size()))


def _fixed_list(matrix: NDArray[Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def _matrix(batch: pa.RecordBatch, name: str, kinds: tuple[pa.DataType, ...]) -> NDArray[Any]:
    """The rows of a column of fixed-size lists."""
    column = batch.column(name)
    width = column.type.list_size if pa.types.is_fixed_size_list(column.type) else 0
    if not width or column.type.value_type not in kinds or column.null_count or column.values.null_count:
        raise ValueError(f"its column {name} is not of lists of {kinds[0]} without nulls")
    values = column.flatten().to_numpy(zero_copy_only=True)
    if len(values) != len(batch) * width:
        raise ValueError(f"its column {name} holds {len(values):,} values for {len(batch):,} rows")
    matrix: NDArray[Any] = values.reshape(-1, width)
    return matrix


def _largest(ids: NDArray[Any]) -> NDArray[Any]:
    """The largest id of every column; a negative one counts as larger than any other.

    Many rows are taken for one at first: a reduction over short rows takes ten times as long.
    """
    unsigned = ids.view(f"u{ids.itemsize}")
    rows, columns = unsigned.shape
    cut = rows // _BLOCK_ROWS * _BLOCK_ROWS
    blocks = unsigned[:cut].reshape(-1, _BLOCK_ROWS * columns).max(axis=0, initial=0).reshape(_BLOCK_ROWS, columns)
    largest: NDArray[Any] = np.maximum(blocks.max(axis=0), unsigned[cut:].max(axis=0, initial=0))
    return largest
