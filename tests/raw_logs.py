"""Small raw logs, and how to compare what is made of them."""

from pathlib import Path

import numpy as np
import polars as pl

from tablefold.data import Schema


def criteo_lines(rows, seed=0, values=30):
    """Raw Criteo lines with missing, negative and repeated values."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(rows):
        dense = [random.choice(["", "-1", str(random.integers(0, 5000))]) for _ in range(13)]
        ids = [f"{random.zipf(1.5) % values * 2654435761 % 2**32:08x}" for _ in range(26)]
        ids = [value if random.random() > 0.1 else "" for value in ids]
        lines.append("\t".join([str(random.integers(0, 2)), *dense, *ids]))
    return lines


def tree(folder):
    """Every file of a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_dictionary(folder, column):
    """The dictionary of a column of a prepared dataset: "value" and "count" of every id."""
    return pl.read_parquet(Path(folder) / Schema.load(folder).dictionary_file(column))
