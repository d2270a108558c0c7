"""Shard files: examples as row-major arrays in Arrow IPC, one record batch each, uncompressed.

A shard has a column `dense` (fixed-size list of float32; absent where a dataset has no dense columns), a column `ids`
(fixed-size list of int32, or int64 where ids need it) and a column `label` (uint8). Fixed-size lists are contiguous, so
a memory-mapped shard IS the `[rows, columns]` matrices, and a batch is a slice of them: nothing is parsed on reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tablefold.files import new_file


@dataclass(frozen=True)
class Examples:
    """Rows of a dataset as numpy arrays.

    Args:
        dense: float32 [rows, dense_columns].
        ids: int32 or int64 [rows, tables].
        label: uint8 [rows].
    """

    dense: NDArray[np.float32]
    ids: NDArray[Any]
    label: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Examples:
        return Examples(self.dense[rows], self.ids[rows], self.label[rows])

    @staticmethod
    def concatenate(pieces: list[Examples]) -> Examples:
        """The rows of all pieces, in order; one piece is returned as it is."""
        if len(pieces) == 1:
            return pieces[0]
        return Examples(
            np.concatenate([piece.dense for piece in pieces]),
            np.concatenate([piece.ids for piece in pieces]),
            np.concatenate([piece.label for piece in pieces]),
        )


def shard_name(number: int) -> str:
    """The file name of shard `number`; names sort in order."""
    return f"{number:06d}.arrow"


def write_shard(path: Path, examples: Examples) -> None:
    """Write one shard file, whole or not at all. The same examples give the same bytes."""
    columns = {"ids": _fixed_list(examples.ids), "label": pa.array(examples.label)}
    if examples.dense.shape[1]:
        columns = {"dense": _fixed_list(examples.dense), **columns}
    batch = pa.record_batch(columns)
    with new_file(path) as file, pa.ipc.new_file(str(file), batch.schema) as writer:
        writer.write_batch(batch)


def read_shard(path: Path) -> Examples:
    """Memory-map one shard file: the arrays are read-only views of the file's pages.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0)
        ids, label = _matrix(batch.column("ids")), batch.column("label").to_numpy()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); prepare the data again") from error
    has_dense = "dense" in batch.schema.names
    dense = _matrix(batch.column("dense")) if has_dense else np.empty((len(label), 0), dtype=np.float32)
    return Examples(dense, ids, label)


def _fixed_list(matrix: NDArray[Any]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def _matrix(column: pa.FixedSizeListArray) -> NDArray[Any]:
    matrix: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
    return matrix
