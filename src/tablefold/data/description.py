"""What a prepared dataset looks like: per table its ids, how often they occur, what it would cost as a full table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tablefold.data.dictionary_file import read_counts
from tablefold.data.schema import Schema
from tablefold.extras import require
from tablefold.files import new_file
from tablefold.quoting import one_line
from tablefold.tables import TableSpec

HEAD = 10
_CURVE_POINTS = 400
_LONGEST_LABEL = 40


@dataclass(frozen=True)
class TableDescription:
    """One table.

    Args:
        name: of the table.
        rows: ids; None where the vocabulary is open.
        once: share of the values that training shows once.
        head: share of the training examples that the `HEAD` most frequent values cover.
        num_bytes: of the full table.
        curve: at some ranks (from 1), training count of the value of that rank.
    """

    name: str
    rows: int | None
    once: float | None
    head: float | None
    num_bytes: int | None
    curve: tuple[NDArray[np.int64], NDArray[np.int64]] | None


def describe_tables(folder: str | Path, dim: int) -> list[TableDescription]:
    """Describe every table of a prepared dataset, at `dim` floats per id."""
    schema = Schema.load(folder)
    tables = []
    for table in schema.tables:
        path = None if table.rows is None else Path(folder) / schema.dictionary_file(table.name)
        if table.rows is None or path is None or not path.is_file():
            tables.append(TableDescription(table.name, table.rows, None, None, None, None))
            continue
        counts = -np.sort(-read_counts(path, table.rows - schema.first_id))
        train = schema.parts["train"].positives if "negatives" in schema.source else schema.parts["train"].rows
        tables.append(
            TableDescription(
                table.name,
                table.rows,
                once=float((counts == 1).mean()) if len(counts) else 0.0,
                head=float(counts[:HEAD].sum() / train) if train else 0.0,
                num_bytes=TableSpec(table.name, table.rows, dim).num_bytes,
                curve=_curve(counts),
            )
        )
    return tables


def _curve(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts at logarithmically spaced ranks: a curve on two log axes needs no more points than pixels."""
    ranks = np.unique(np.geomspace(1, max(1, len(counts)), _CURVE_POINTS).astype(np.int64))
    ranks = ranks[ranks <= len(counts)]
    return ranks, counts[ranks - 1]


def plot_frequencies(tables: list[TableDescription], path: str | Path) -> None:
    """Draw count against rank, one line per table, to an image file (its ending says which kind).

    Raises:
        ValueError: if matplotlib is not installed, or cannot write such a file. Nothing is written then.
    """
    require("a picture needs", "report", "matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    largest = sorted((table for table in tables if table.curve), key=lambda table: -(table.rows or 0))
    for number, table in enumerate(largest):
        if table.curve and len(table.curve[0]):
            label = f"{one_line(table.name, _LONGEST_LABEL)} ({table.rows:,})" if number < HEAD else None
            axes.plot(*table.curve, label=label, color=f"C{number}" if label else "0.8", zorder=3 - number / 100)
    axes.set(xscale="log", yscale="log", xlabel="rank of the value", ylabel="occurrences in training")
    axes.set_title(f"How often values occur (the {min(HEAD, len(largest))} largest tables in colour)")
    if largest:
        for text in axes.legend(fontsize="small").get_texts():
            text.set_parse_math(False)  # a dollar in a name is a dollar
    axes.grid(visible=True, color="0.9")
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path}: its ending does not say which kind of picture: name a .png or .svg")
    with new_file(path) as file:
        figure.savefig(file, format=kind, dpi=150)
