"""Numberings: the same rows and values under other ids, and no shard rewritten."""

import pickle

import numpy as np
import pytest

from prepared import write_dataset
from raw_logs import criteo_lines, read_dictionary, tree
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.dictionary_file import read_counts, read_values
from tablefold.data.encoder_folder import save_encoder
from tablefold.data.numbering import Numbering
from tablefold.data.preparation import Options, prepare


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    (folder / "train.txt").write_text("\n".join(criteo_lines(420)) + "\n")
    prepare(Criteo((str(folder / "train.txt"),)), folder / "data", Options(min_count=2))
    return folder / "data"


def reversed_numbering(dataset):
    first = dataset.schema.first_id
    return Numbering(
        tuple(
            np.append(np.arange(first), np.arange(first, table.rows)[::-1]) if number % 2 else None
            for number, table in enumerate(dataset.schema.tables)
        )
    )


def ids_of(dataset, part="train", **options):
    return np.concatenate([batch.ids.numpy() for batch in dataset.part(part).batches(100, **options)])


@pytest.mark.parametrize("seed", [None, 3])
def test_batches_carry_new_ids_and_nothing_else_changes(clicks, seed):
    before = tree(clicks)
    dataset = Dataset(clicks)
    numbering = reversed_numbering(dataset)
    view = dataset.numbered(numbering)
    for part in ("train", "test", "validation"):
        for old, new in zip(dataset.part(part).batches(50, seed), view.part(part).batches(50, seed), strict=True):
            assert (old.dense == new.dense).all()
            assert (old.label == new.label).all()
            for column, ids in enumerate(numbering.new_ids):
                expected = old.ids[:, column].numpy()
                assert np.array_equal(new.ids[:, column], expected if ids is None else ids[expected])
    assert tree(clicks) == before
    assert dataset.numbering is None
    assert not np.array_equal(ids_of(dataset), ids_of(view))


def test_a_numbering_of_a_numbering_is_one(clicks):
    dataset = Dataset(clicks)
    numbering = reversed_numbering(dataset)
    twice = dataset.numbered(numbering).numbered(numbering)
    assert np.array_equal(ids_of(twice), ids_of(dataset))
    assert np.array_equal(twice.counts("C2"), dataset.counts("C2"))


def test_a_part_of_a_view_is_read_in_other_processes(clicks):
    view = Dataset(clicks)
    view = view.numbered(reversed_numbering(view))
    again = pickle.loads(pickle.dumps(view.part("train")))
    batches = zip(view.part("train").batches(64, 1), again.batches(64, 1), strict=True)
    assert all((one.ids == other.ids).all() for one, other in batches)


def test_counts_are_those_of_the_training_part_in_the_order_of_the_view(clicks):
    dataset = Dataset(clicks)
    for view in (dataset, dataset.numbered(reversed_numbering(dataset)), dataset.head(100)):
        ids = ids_of(view)
        for column, table in enumerate(view.schema.tables):
            assert view.counts(table.name).tolist() == np.bincount(ids[:, column], minlength=table.rows).tolist()
    with pytest.raises(ValueError, match="has no table 'C99'; it has C1, C2"):
        dataset.counts("C99")


def test_a_dataset_without_dictionaries_is_counted(tmp_path):
    dataset = Dataset(write_dataset(tmp_path / "data"))
    assert dataset.schema.first_id == 0
    view = dataset.numbered(Numbering.permuted(dataset.schema, 5))
    for each in (dataset, view):
        assert each.counts("item").tolist() == np.bincount(ids_of(each)[:, 1], minlength=90).tolist()


def test_a_head_has_the_first_rows_and_the_same_share_of_other_parts(tmp_path):
    dataset = Dataset(write_dataset(tmp_path / "data"))
    view = dataset.numbered(reversed_numbering(dataset)).head(600)
    assert {name: part.rows for name, part in view.schema.parts.items()} == {
        "train": 600,
        "test": 150,
        "validation": 150,
    }
    assert np.array_equal(ids_of(view), ids_of(dataset.numbered(reversed_numbering(dataset)))[:600])
    labels = np.concatenate([batch.label for batch in dataset.part("train").batches(600)])
    assert view.schema.parts["train"].positives == labels[:600].sum()
    assert dataset.head(10**9).part("train").rows == dataset.part("train").rows


def test_orders_and_keys(tmp_path):
    dataset = Dataset(write_dataset(tmp_path / "data"))
    counts = [dataset.counts(table.name) for table in dataset.schema.tables]
    view = dataset.numbered(Numbering.of_keys([-each for each in counts], dataset.schema))
    for table in view.schema.tables:
        assert (np.diff(view.counts(table.name)) <= 0).all()
    order = np.lexsort((np.arange(90), counts[1] % 3))
    view = dataset.numbered(Numbering.of_orders([None, order, None]))
    assert np.array_equal(view.counts("item"), counts[1][order])


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([np.array([0, 1, 2]), None], "the numbering is of 2 tables, the data has 3"),
        ([None, np.arange(89), None], "has 89 ids for table 'item', the data 90"),
        ([np.zeros(400, int), None, None], "numbering of table 0 gives an id twice, and none the id 1"),
        ([np.arange(400) + 1, None, None], "holds 1 to 400; its ids are 0 to 399"),
        ([np.arange(400.0), None, None], r"table 0 is float64 \[400\]; it must be integers"),
    ],
)
def test_what_is_no_numbering_of_the_data_is_refused(tmp_path, ids, words):
    dataset = Dataset(write_dataset(tmp_path / "data"))
    with pytest.raises(ValueError, match=words) as caught:
        dataset.numbered(Numbering(tuple(ids)))
    assert "\n" not in str(caught.value)


def test_ids_of_no_value_stay(clicks):
    dataset = Dataset(clicks)
    rows = dataset.schema.tables[0].rows
    moved = (np.roll(np.arange(rows), 1), *[None] * 25)
    with pytest.raises(ValueError, match=r"moves an id of table 'C1' that stands for .*: ids below 2"):
        dataset.numbered(Numbering(moved))


def test_hashed_ids_have_no_order_and_no_counts(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(criteo_lines(100)) + "\n")
    prepare(Criteo((str(tmp_path / "train.txt"),)), tmp_path / "data", Options(ids="hash"))
    dataset = Dataset(tmp_path / "data")
    with pytest.raises(ValueError, match="the data hashed ids, which have no order"):
        dataset.numbered(Numbering((np.arange(5), *[None] * 25)))
    with pytest.raises(ValueError, match="'C3' has hashed ids, which nobody counts"):
        dataset.counts("C3")


def test_an_encoder_has_the_dictionaries_in_the_order_of_the_view(clicks, tmp_path):
    dataset = Dataset(clicks)
    numbering = reversed_numbering(dataset)
    save_encoder(dataset.numbered(numbering), tmp_path / "encoder")
    for number, table in enumerate(dataset.schema.tables):
        given = read_dictionary(clicks, table.name)
        path = tmp_path / "encoder" / f"dictionary/{number:06d}.parquet"
        values = [value for piece in read_values(path, table.rows - 2) for value in piece]
        order = slice(None) if numbering.new_ids[number] is None else slice(None, None, -1)
        assert values == given["value"].to_list()[order]
        assert read_counts(path, table.rows - 2).tolist() == given["count"].to_list()[order]
