"""Datasets read with the ids of a run: joined by value, once, and refused where they cannot be."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from prepared import write_dataset
from raw_logs import criteo_lines, read_dictionary, tree
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.encoder_folder import EncoderFolder, save_encoder
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.data.joined import KEPT, join
from tablefold.data.numbering import Numbering
from tablefold.data.preparation import Options, prepare
from tablefold.data.table import Columns, Table


def prepare_clicks(folder, rows=420, seed=0, **options):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text("\n".join(criteo_lines(rows, seed)) + "\n")
    prepare(Criteo((str(folder / "train.txt"),)), folder / "data", Options(**options))
    return folder / "data"


def prepare_visits(folder, pairs, **options):
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(pairs, schema=["user", "item"], orient="row").write_parquet(folder / "log.parquet")
    given = Interactions(str(folder / "log.parquet"), "user", "item", negatives=1, **options)
    prepare_interactions(given, folder / "data")
    return folder / "data"


def run_of(dataset, folder):
    (folder / "run").mkdir(parents=True)
    save_encoder(dataset, folder / "run" / "encoder")
    return EncoderFolder.read(folder / "run" / "encoder", dataset.schema.dense, dataset.schema.tables)


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    return prepare_clicks(tmp_path_factory.mktemp("clicks"))


VISITS = [(f"u{user}", item) for user in range(20) for item in range(user % 7, 40, 3)]


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    return prepare_visits(tmp_path_factory.mktemp("visits"), VISITS)


def values_of(dataset, encoder, part="train"):
    """The raw values behind the ids of a part, by the dictionaries of a run; ids that stand for none as numbers."""
    ids = np.concatenate([batch.ids.numpy() for batch in dataset.part(part).batches(100)])
    names = []
    for number in range(ids.shape[1]):
        values = pl.read_parquet(encoder.dictionary(number))["value"].to_list()
        names.append([*range(encoder.first_id), *values])
    return [[names[column][each] for column, each in enumerate(row)] for row in ids.tolist()]


def own_values(dataset, part="train"):
    ids = np.concatenate([batch.ids.numpy() for batch in dataset.part(part).batches(100)])
    first = range(dataset.schema.first_id)
    names = [
        [*first, *read_dictionary(dataset.folder, table.name)["value"].to_list()] for table in dataset.schema.tables
    ]
    return [[names[column][each] for column, each in enumerate(row)] for row in ids.tolist()]


@pytest.mark.parametrize("name", ["clicks", "visits"])
def test_a_dataset_is_read_in_the_order_of_the_run(name, request, tmp_path):
    data = shutil.copytree(request.getfixturevalue(name), tmp_path / "data")
    dataset = Dataset(data)
    shards = tree(data)
    numbered = dataset.numbered(Numbering.permuted(dataset.schema, 3))
    run = run_of(numbered, tmp_path)
    for _ in range(2):  # joined, and found again
        joined = join(dataset, run)
        for part in ("train", "test"):
            pairs = zip(joined.part(part).batches(64, 2), numbered.part(part).batches(64, 2), strict=True)
            assert all((one.ids == other.ids).all() for one, other in pairs)
        assert values_of(joined, run) == own_values(dataset)
        for table in dataset.schema.tables:
            assert (joined.counts(table.name) == numbered.counts(table.name)).all()
    assert {path: content for path, content in tree(data).items() if not path.startswith("maps/")} == shards
    assert len(list((data / "maps").iterdir())) == 1


def test_a_dataset_in_the_order_of_the_run_needs_no_map(clicks, tmp_path):
    run = run_of(Dataset(clicks), tmp_path)
    copy = shutil.copytree(clicks, tmp_path / "copy")
    for data in (clicks, copy):
        ids = [batch.ids for batch in join(Dataset(data), run).part("test").batches(50)]
        assert all((a == b.ids).all() for a, b in zip(ids, Dataset(data).part("test").batches(50), strict=True))
        assert not (data / "maps").exists()


def test_values_of_another_log_are_unseen_where_the_run_lacks_them(clicks, tmp_path):
    run = run_of(Dataset(clicks), tmp_path)
    other = Dataset(prepare_clicks(tmp_path / "other", rows=300, seed=5, min_count=2))
    joined = join(other, run)
    known = [set(pl.read_parquet(run.dictionary(number))["value"].to_list()) for number in range(26)]
    expected = [
        [value if isinstance(value, int) or value in known[column] else 1 for column, value in enumerate(row)]
        for row in own_values(other)
    ]
    assert values_of(joined, run) == expected
    assert [table.rows for table in joined.schema.tables] == [table.rows for table in run.tables]


def test_a_view_of_a_run_is_saved_with_its_dictionaries_and_not_numbered_anew(clicks, tmp_path):
    numbered = Dataset(clicks).numbered(Numbering.permuted(Dataset(clicks).schema, 3))
    run = run_of(numbered, tmp_path)
    joined = join(Dataset(clicks), run)
    save_encoder(joined, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(run.folder)
    with pytest.raises(ValueError, match="it cannot be numbered anew"):
        joined.numbered(Numbering.permuted(joined.schema, 1))


def test_a_closed_catalogue_refuses_other_values(visits, tmp_path):
    run = run_of(Dataset(visits), tmp_path)
    fewer = Dataset(prepare_visits(tmp_path / "fewer", VISITS[:200]))
    assert values_of(join(fewer, run), run) == own_values(fewer)
    more = Dataset(prepare_visits(tmp_path / "more", [*VISITS, ("zed", 3)]))
    with pytest.raises(ValueError, match=r"table 'user' has the value 'zed', which .*run does not know") as error:
        join(more, run)
    assert str(error.value).isprintable()


def test_data_of_another_kind_or_without_shared_values_is_refused(clicks, visits, tmp_path):
    clicks_run, visits_run = run_of(Dataset(clicks), tmp_path / "a"), run_of(Dataset(visits), tmp_path / "b")
    with pytest.raises(ValueError, match=r"was prepared from 'interactions', the data of .* from 'criteo'"):
        join(Dataset(visits), clicks_run)
    with pytest.raises(ValueError, match=r"was prepared from 'criteo', the data of .* from 'interactions'"):
        join(Dataset(clicks), visits_run)
    with pytest.raises(ValueError, match=r"was prepared from ids, the data of .* from 'interactions'"):
        join(Dataset(write_dataset(tmp_path / "ids")), visits_run)
    csv, columns = "city,clicked\n" + "{0},1\n{0},0\n" * 10, Columns("clicked", ("city",))
    for name in ("rome", "oslo"):
        (tmp_path / name).write_text(csv.format(name))
        prepare(Table((str(tmp_path / name),), columns), tmp_path / f"{name} data", Options())
    run = run_of(Dataset(tmp_path / "rome data"), tmp_path / "c")
    with pytest.raises(ValueError, match=r"shares no value of any table with .*run: the run is of other data") as error:
        join(Dataset(tmp_path / "oslo data"), run)
    assert str(error.value).isprintable()


def test_a_dictionary_with_a_value_twice_is_refused(clicks, tmp_path):
    run = run_of(Dataset(clicks), tmp_path)
    data = shutil.copytree(clicks, tmp_path / "data")
    path = data / "dictionary" / "000004.parquet"
    frame = pl.read_parquet(path)
    values = frame["value"].to_list()
    frame.with_columns(value=pl.Series([*values[:-1], values[0]])).write_parquet(path)
    with pytest.raises(ValueError, match=rf"000004\.parquet holds the value '{values[0]}' twice"):
        join(Dataset(data), run)


def test_ids_of_data_without_dictionaries_are_its_values(tmp_path):
    dataset = Dataset(write_dataset(tmp_path / "data"))
    numbered = dataset.numbered(Numbering.permuted(dataset.schema, 3))
    run = run_of(numbered, tmp_path)
    joined = join(dataset, run)
    pairs = zip(joined.part("test").batches(64), numbered.part("test").batches(64), strict=True)
    assert all((one.ids == other.ids).all() for one, other in pairs)
    assert values_of(joined, run)[:9] == [[str(each) for each in row] for row in first_ids(dataset, 9)]
    save_encoder(dataset, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(ValueError, match=r"from 'criteo', the data of .* from ids"):
        join(Dataset(prepare_clicks(tmp_path / "clicks")), run)


def first_ids(dataset, rows):
    return next(dataset.part("train").batches(rows)).ids.tolist()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_map_is_made_anew(clicks, tmp_path, damage):
    data = shutil.copytree(clicks, tmp_path / "data")
    numbered = Dataset(data).numbered(Numbering.permuted(Dataset(data).schema, 3))
    run = run_of(numbered, tmp_path)
    join(Dataset(data), run)
    (path,) = (data / "maps").iterdir()
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-4], "flipped": content[:-1] + b"!", "empty": b"", "other": b"?" * 99}[damage])
    joined = join(Dataset(data), run)
    assert values_of(joined, run) == own_values(Dataset(data))
    assert path.read_bytes() == content


def test_few_maps_are_kept_and_none_is_needed(clicks, tmp_path):
    data = shutil.copytree(clicks, tmp_path / "data")
    for seed in range(KEPT + 2):
        numbered = Dataset(data).numbered(Numbering.permuted(Dataset(data).schema, seed))
        run = run_of(numbered, tmp_path / str(seed))
        join(Dataset(data), run)
    assert len(list((data / "maps").iterdir())) == KEPT
    shutil.rmtree(data / "maps")
    (data / "maps").write_text("nobody can write a folder here")
    assert values_of(join(Dataset(data), run), run) == own_values(Dataset(data))


def test_an_encoder_of_an_earlier_version_is_joined_too(clicks, tmp_path):
    data = shutil.copytree(clicks, tmp_path / "data")
    numbered = Dataset(data).numbered(Numbering.permuted(Dataset(data).schema, 3))
    run = run_of(numbered, tmp_path)
    path = run.folder / "encoder.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != "dictionaries"}
    path.write_text(json.dumps(content | {"format": 2}))
    for index in run.folder.rglob("*.index"):
        index.unlink()
    old = EncoderFolder.read(run.folder, numbered.schema.dense, numbered.schema.tables)
    assert values_of(join(Dataset(data), old), old) == own_values(Dataset(data))
