"""A small prepared dataset with a signal in it, written as `tablefold prepare` lays it out."""

import numpy as np
import pytest

from tablefold.data.schema import PartSchema, Schema, TableSchema
from tablefold.data.shards import Examples, shard_name, write_shard

ROWS = {"train": 6_000, "test": 1_500, "validation": 1_500}
TABLES = {"user": 400, "item": 90, "country": 7}


def write_dataset(folder, seed=0, dense=3, tables=None, rows=None, labels=None):
    """Clicks drawn from a hidden linear model of the ids and the dense columns, or as `labels(count)` gives them."""
    tables = TABLES if tables is None else tables
    rows = ROWS if rows is None else rows
    rng = np.random.default_rng(seed)
    effects = [rng.normal(0, 1.2, count) for count in tables.values()]
    slope = rng.normal(0, 0.7, dense)
    parts = {}
    for name, count in rows.items():
        ids = np.stack([rng.integers(0, n, count, dtype=np.int32) for n in tables.values()], axis=1)
        columns = rng.random((count, dense), dtype=np.float32)
        logit = columns @ slope - 1 + sum(effect[ids[:, i]] for i, effect in enumerate(effects))
        label = (rng.random(count) < 1 / (1 + np.exp(-logit))) if labels is None else labels(count)
        label = label.astype(np.uint8)
        (folder / name).mkdir(parents=True)
        checksum = write_shard(folder / name / shard_name(0), Examples(columns, ids, label))
        parts[name] = PartSchema(count, int(label.sum()), (count,), (checksum,))
    Schema(
        dense=tuple(f"d{i}" for i in range(dense)),
        tables=tuple(TableSchema(name, count) for name, count in tables.items()),
        parts=parts,
    ).save(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "log")
