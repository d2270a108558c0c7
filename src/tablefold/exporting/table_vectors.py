"""The vectors of a table, for nearest-neighbour search: a row for every raw value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from tablefold.data.dataset import Dataset
from tablefold.data.dictionary_file import read_values
from tablefold.data.encoder_folder import EncoderFolder
from tablefold.data.schema import MISSING_ID, UNSEEN_ID
from tablefold.files import new_file
from tablefold.group import TableView
from tablefold.quoting import quoted
from tablefold.spec import check_choice
from tablefold.train.run import ENCODER, Run, load_run

CHUNK = 65_536
"""Ids that are composed at a time."""


@dataclass(frozen=True)
class Embedded:
    """What `embed_table` wrote.

    Args:
        rows: vectors.
        width: floats of one.
        known: how many of them have a raw value; those of the first ids may stand for none.
        values: the file of raw values; None where they are in the file of vectors.
    """

    rows: int
    width: int
    known: int
    values: Path | None


def embed_table(run: str | Path, table: str, out: str | Path, file_format: str = "parquet") -> Embedded:
    """Write the vectors of all ids of a table of a run, in the order of the ids; memory stays bounded.

    Parquet has the columns `id`, `value` (the raw value; null for the ids of missing and of unknown values, which the
    file's metadata names) and `vector`, float32 in lists of a fixed size. `npy` has the vectors alone, float32
    `[rows, width]`; ids and values then go to a Parquet file beside it, `OUT.values.parquet`.

    Args:
        run: a folder written by `tablefold train`.
        table: the table's name.
        out: the file; it appears whole or not at all, and replaces one of that name.
        file_format: `parquet` or `npy`.

    Raises:
        ValueError: for a folder that holds no run, a name that it has no table of, or a table whose raw values nobody
            knows.
        OSError: where the file cannot be written.
    """
    check_choice("embed", "format", file_format, ("parquet", "npy"))
    out = Path(out)
    loaded = load_run(run)
    loaded.model.eval()
    view = loaded.model.group[table]
    dictionary, first = _dictionary(loaded, view)
    rows = view.table.vocabulary
    width = view.features * view.table.dim
    if file_format == "npy":
        values = out.with_name(f"{out.name.removesuffix('.npy')}.values.parquet")
        with new_file(out) as vectors_file, new_file(values) as values_file:
            _write_array(vectors_file, view, rows, width)
            _write_table(values_file, _named(dictionary, first, rows), first, None, width)
        return Embedded(rows, width, rows - first, values)
    with new_file(out) as file:
        _write_table(file, _named(dictionary, first, rows), first, view, width)
    return Embedded(rows, width, rows - first, None)


def _dictionary(run: Run, view: TableView) -> tuple[Path, int]:
    """The dictionary of a table, and the id of its first value."""
    names = [table.name for table in run.recipe.tables]
    encoder = run.folder / ENCODER
    if encoder.is_dir():
        read = EncoderFolder.read(encoder, run.recipe.dense, run.recipe.tables)
        return read.dictionary(names.index(view.table.name)), read.first_id
    data = run.recipe.config.data
    try:
        schema = Dataset(data).schema
    except ValueError as error:
        raise ValueError(
            f"{run.folder} has no dictionaries, and the data it was trained on is not there: {error}"
        ) from error
    run.recipe.check(schema)
    path = Path(data) / schema.dictionary_file(view.table.name)
    if view.table.rows is None or not path.is_file():
        raise ValueError(f"the raw values of {quoted(view.table.name)} are not known: {data} has no dictionary of them")
    return path, schema.first_id


def _named(dictionary: Path, first: int, rows: int) -> Iterator[tuple[NDArray[np.int64], list[str | None]]]:
    """Ids and their raw values, `CHUNK` at most at a time."""
    yield np.arange(first), [None] * first
    begin = first
    for piece in read_values(dictionary, rows - first, nulls=first == 0):
        for start in range(0, len(piece), CHUNK):
            part: list[str | None] = list(piece[start : start + CHUNK])
            yield np.arange(begin, begin + len(part)), part
            begin += len(part)


def _vectors(view: TableView, ids: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = view(torch.from_numpy(ids)).reshape(len(ids), width).float().numpy()
    return found


def _write_array(file: Path, view: TableView, rows: int, width: int) -> None:
    with file.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(stream, header)
        for begin in range(0, rows, CHUNK):
            ids = np.arange(begin, min(begin + CHUNK, rows))
            stream.write(np.ascontiguousarray(_vectors(view, ids, width), dtype="<f4").tobytes())


def _write_table(file: Path, named: Iterator[Any], first: int, view: TableView | None, width: int) -> None:
    """Ids and values, and their vectors where a view gives them."""
    meaning = {} if not first else {"missing_id": str(MISSING_ID), "unknown_id": str(UNSEEN_ID)}
    fields = [pa.field("id", pa.int64()), pa.field("value", pa.string())]
    if view is not None:
        fields.append(pa.field("vector", pa.list_(pa.float32(), width)))
    schema = pa.schema(fields, metadata=meaning)
    with file.open("wb") as stream, pq.ParquetWriter(stream, schema) as writer:  # Arrow opens UTF-8 names only
        for ids, values in named:
            columns = [pa.array(ids), pa.array(values, pa.string())]
            if view is not None:
                flat = pa.array(_vectors(view, ids, width).reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(flat, width))
            writer.write_table(pa.table(columns, schema=schema))
