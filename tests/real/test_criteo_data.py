"""The Criteo sample, against an independent count: Python's csv module and a Counter."""

import csv
import gzip
from collections import Counter

import numpy as np
import pytest

from raw_logs import read_dictionary
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.preparation import Options, prepare

LINES = 14_582
TRAIN = 12_499


@pytest.fixture(scope="module")
def sample(data_file, tmp_path_factory):
    file = data_file("criteo_kaggle_sample.txt.gz")
    out = tmp_path_factory.mktemp("criteo") / "out"
    prepare(Criteo((str(file),)), out)
    with gzip.open(file, "rt", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return rows, out, file


def test_rows_and_label_rate(sample):
    rows, out, _ = sample
    schema = Dataset(out).schema
    assert schema.rows == len(rows) == LINES
    assert schema.rejected == 0
    assert schema.label_rate == sum(row[0] == "1" for row in rows) / LINES
    assert schema.parts["train"].rows == TRAIN
    label = np.concatenate([batch.label for batch in Dataset(out).part("train").batches(4096)])
    assert label.tolist() == [float(row[0]) for row in rows[:TRAIN]]


def test_distinct_values_per_column(sample):
    rows, out, _ = sample
    for column, table in enumerate(Dataset(out).schema.tables):
        count = Counter(row[14 + column] for row in rows[:TRAIN])
        count.pop("", None)
        dictionary = read_dictionary(out, table.name)
        assert table.rows == len(count) + 2
        assert dict(dictionary.iter_rows()) == count


def test_ids_give_back_the_raw_values(sample):
    rows, out, _ = sample
    dataset = Dataset(out)
    ids = np.concatenate([batch.ids for part in dataset.schema.parts for batch in dataset.part(part).batches(4096)])
    for column, table in enumerate(dataset.schema.tables):
        raw = [row[14 + column] for row in rows]
        values = np.array(["", None, *read_dictionary(out, table.name)["value"]])
        decoded = values[ids[:, column]]
        assert decoded[:TRAIN].tolist() == raw[:TRAIN]
        known = set(raw[:TRAIN]) | {""}
        assert decoded[TRAIN:].tolist() == [value if value in known else None for value in raw[TRAIN:]]


def test_hash_ids(sample, tmp_path):
    _, _, file = sample
    schema = prepare(Criteo((str(file),)), tmp_path / "out", Options(ids="hash"))
    assert schema.rows == LINES
