"""Variants of a dataset: the same rows under other ids, or fewer of them."""

import numpy as np
import polars as pl
import pytest

from raw_logs import criteo_lines
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.permutation import permute_ids
from tablefold.data.preparation import Options, prepare
from tablefold.data.table import Columns, Table
from tablefold.serving.scorer import Scorer
from tablefold.study.variant import Variant
from tablefold.train import load_run, train_run
from tablefold.train.config import Config


def columns(dataset, part="train"):
    part = dataset.part(part)
    (examples,) = part.examples(0, part.rows)
    return examples


@pytest.mark.parametrize("order", ["frequency", "permuted", "first"])
def test_another_order_renames_ids_and_nothing_else(data, order):
    given = Dataset(data)
    view = Variant(order, seed=3).of(given)
    assert view.schema.parts == given.schema.parts
    for part in ("train", "test", "validation"):
        before, after = columns(given, part), columns(view, part)
        assert np.array_equal(before.dense, after.dense)
        assert np.array_equal(before.label, after.label)
        for column, table in enumerate(given.schema.tables):
            pairs = set(zip(before.ids[:, column], after.ids[:, column], strict=True))
            assert len({old for old, _ in pairs}) == len({new for _, new in pairs}) == len(pairs)
            assert max(new for _, new in pairs) < table.rows
    ids = columns(view).ids[:, 0]
    if order == "frequency":
        counts = np.bincount(ids)
        assert (np.diff(counts) <= 0).all()
    if order == "first":
        _, first = np.unique(ids, return_index=True)
        assert (np.diff(first) > 0).all()
        assert ids[0] == 0
    if order == "permuted":  # as studies have always permuted them
        expected = [permute_ids(columns(given).ids[:, n], rows, 3, n) for n, rows in enumerate((400, 90, 7))]
        assert np.array_equal(columns(view).ids, np.stack(expected, axis=1))


@pytest.mark.parametrize("order", ["frequency", "first"])
def test_ids_in_lists_are_ordered_like_others(tmp_path, order):
    random, rows = np.random.default_rng(0), 900
    genres = [random.choice(list("abcdefgh"), random.integers(0, 4), replace=False).tolist() for _ in range(rows)]
    clicked = random.integers(0, 2, rows)
    log = pl.DataFrame({"y": clicked, "user": random.integers(0, 30, rows).astype(str), "genres": genres})
    log.write_parquet(tmp_path / "log.parquet")
    names = Columns(label="y", categorical=("user",), lists=("genres",), list_length=3)
    prepare(Table((str(tmp_path / "log.parquet"),), names), tmp_path / "data", Options(min_count=1))
    view = Variant(order).of(Dataset(tmp_path / "data"))
    part = view.part("train")
    for number in (0, 1):
        pieces = part.examples(0, part.rows)
        ids = np.concatenate([piece.ids[:, np.array(view.id_tables) == number] for piece in pieces])
        rows, places = np.nonzero(ids >= view.schema.first_id)
        ids = ids[rows, places]
        if order == "frequency":
            assert (np.diff(np.bincount(ids)[view.schema.first_id :]) <= 0).all()
        else:
            found, at = np.unique(ids, return_index=True)
            assert len(found) > 5
            assert (np.diff(rows[at]) >= 0).all()


def test_fewer_rows_keep_the_proportions_and_the_first_rows(data):
    given = Dataset(data)
    view = Variant(train_rows=600).of(given)
    parts = view.schema.parts
    assert {name: part.rows for name, part in parts.items()} == {"train": 600, "test": 150, "validation": 150}
    assert np.array_equal(columns(view).ids, columns(given).ids[:600])
    assert parts["train"].positives == columns(given).label[:600].sum()


def test_the_dataset_itself_is_no_view(data):
    given = Dataset(data)
    for same in (Variant(), Variant(train_rows=10**9)):
        assert same.of(given) is given
    assert Variant("frequency", seed=1) == Variant("frequency", seed=2)
    assert Variant("permuted", seed=1) != Variant("permuted", seed=2)


@pytest.mark.parametrize("variant", [Variant(train_rows=200), Variant("permuted")])
def test_a_run_on_a_variant_of_raw_lines_scores_them(tmp_path, variant):
    file = tmp_path / "train.txt"
    file.write_text("\n".join(criteo_lines(420)) + "\n")
    prepare(Criteo((str(file),)), tmp_path / "data", Options(min_count=1))
    view = variant.of(Dataset(tmp_path / "data"))
    sizes = {"bottom_mlp": [8], "top_mlp": [8]}
    config = Config(str(tmp_path / "data"), dim=4, model_options=sizes, device="cpu")
    train_run(config, tmp_path / "run", dataset=view)
    run, scores = load_run(tmp_path / "run"), []
    run.trainer("cpu").predict(view.part("train").batches(999), lambda logits, _: scores.append(logits.sigmoid()))
    found = [each.probability for each in Scorer(run, "cpu").score_file(file)]
    rows = view.part("train").rows
    np.testing.assert_allclose(np.concatenate(found)[:rows], np.concatenate(scores)[:rows], rtol=1e-5)


def test_look_ups_of_ids_in_another_order_are_refused(data, tmp_path):
    given = Dataset(data)
    for table in given.schema.tables:
        codes = pl.DataFrame({"kind": np.arange(table.rows) % 3})
        codes.write_parquet(tmp_path / f"{table.name}.parquet")
    asked = Config(str(data), f"custom:lookup={tmp_path}", dim=4, model="neumf", threshold=0)
    with pytest.raises(ValueError, match="would be read in another order: take them as they are prepared"):
        train_run(asked, tmp_path / "run", dataset=Variant("permuted", seed=1).of(given))
    assert train_run(asked, tmp_path / "run")["auc"] > 0
