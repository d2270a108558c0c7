"""Variants of a dataset: the same rows under other ids, or fewer of them."""

import numpy as np
import pytest

from raw_logs import criteo_lines
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.preparation import Options, prepare
from tablefold.study.variant import Variant, make_variant
from tablefold.train.config import Config
from tablefold.train.run import train_run


def columns(folder, part="train"):
    part = Dataset(folder).part(part)
    (examples,) = part.examples(0, part.rows)
    return examples


@pytest.mark.parametrize("order", ["frequency", "permuted", "first"])
def test_another_order_renames_ids_and_nothing_else(data, tmp_path, order):
    out = make_variant(Dataset(data), Variant(order, seed=3), tmp_path / "v")
    for name, given in Dataset(data).schema.parts.items():
        written = Dataset(out).schema.parts[name]
        assert (written.rows, written.positives, written.shards) == (given.rows, given.positives, given.shards)
        assert len(written.checksums) == len(written.shards)
    for part in ("train", "test", "validation"):
        before, after = columns(data, part), columns(out, part)
        assert np.array_equal(before.dense, after.dense)
        assert np.array_equal(before.label, after.label)
        for column, table in enumerate(Dataset(data).schema.tables):
            pairs = set(zip(before.ids[:, column], after.ids[:, column], strict=True))
            assert len({old for old, _ in pairs}) == len({new for _, new in pairs}) == len(pairs)
            assert max(new for _, new in pairs) < table.rows
    ids = columns(out).ids[:, 0]
    if order == "frequency":
        counts = np.bincount(ids)
        assert (np.diff(counts) <= 0).all()
    if order == "first":
        _, first = np.unique(ids, return_index=True)
        assert (np.diff(first) > 0).all()
        assert ids[0] == 0


def test_fewer_rows_keep_the_proportions_and_the_first_rows(data, tmp_path):
    out = make_variant(Dataset(data), Variant(train_rows=600), tmp_path / "v")
    parts = Dataset(out).schema.parts
    assert {name: part.rows for name, part in parts.items()} == {"train": 600, "test": 150, "validation": 150}
    assert np.array_equal(columns(out).ids, columns(data).ids[:600])
    assert parts["train"].positives == columns(data).label[:600].sum()


def test_the_dataset_itself_is_not_copied(data, tmp_path):
    given = Dataset(data)
    for same in (Variant(), Variant(train_rows=10**9)):
        assert make_variant(given, same, tmp_path / "v") == given.folder
    assert not (tmp_path / "v").exists()
    assert Variant("frequency", seed=1) == Variant("frequency", seed=2)
    assert Variant("permuted", seed=1) != Variant("permuted", seed=2)


@pytest.mark.parametrize("variant", [Variant(train_rows=200), Variant("permuted")])
def test_a_variant_of_raw_lines_trains_without_their_dictionaries(tmp_path, variant):
    file = tmp_path / "train.txt"
    file.write_text("\n".join(criteo_lines(420)) + "\n")
    prepare(Criteo((str(file),)), tmp_path / "data", Options(min_count=1))
    data = make_variant(Dataset(tmp_path / "data"), variant, tmp_path / "variant")
    sizes = {"bottom_mlp": [8], "top_mlp": [8]}
    train_run(Config(str(data), dim=4, model_options=sizes, device="cpu"), tmp_path / "run")
    assert not (tmp_path / "run" / "encoder").exists()
