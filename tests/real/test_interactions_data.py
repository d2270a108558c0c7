import numpy as np
import polars as pl
import pytest

from raw_logs import read_dictionary
from tablefold.data import Dataset
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.data.schema import lookup_file


@pytest.fixture(scope="module")
def gowalla(data_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("gowalla") / "out"
    file = data_file("gowalla.parquet")
    prepare_interactions(Interactions(str(file), user="user", item="item"), out)
    return pl.read_parquet(file), out


def test_gowalla_is_whole(gowalla):
    _, out = gowalla
    schema = Dataset(out).schema
    assert [(table.name, table.rows) for table in schema.tables] == [("user", 29_858), ("item", 40_981)]
    assert schema.rows == 5 * 1_027_370
    assert schema.rejected == 0
    assert schema.parts["test"].rows == 5 * 102_737
    assert schema.label_rate == 0.2


def test_gowalla_negatives_are_no_positives(gowalla):
    frame, out = gowalla
    users, items = (read_dictionary(out, name)["value"].cast(pl.Int64).to_numpy() for name in ("user", "item"))
    known = np.sort(frame["user"].cast(pl.Int64).to_numpy() * 10**6 + frame["item"].to_numpy())
    found, drawn = [], []
    for name in ("train", "test", "validation"):
        for batch in Dataset(out).part(name).batches(100_000):
            ids = batch.ids.numpy()
            code = users[ids[:, 0]] * 10**6 + items[ids[:, 1]]
            positive = batch.label.numpy() == 1
            found.append(code[positive])
            drawn.append(code[~positive])
    assert (np.sort(np.concatenate(found)) == known).all()
    assert not np.isin(np.concatenate(drawn), known).any()


def test_movielens_attributes(data_file, tmp_path):
    file = data_file("movielens1m.parquet")
    sides = {"user_columns": ("gender", "age", "occupation"), "item_columns": ("genre",)}
    schema = prepare_interactions(Interactions(str(file), user="user", item="item", **sides), tmp_path / "out")
    assert {table.name: table.rows for table in schema.tables} == {"user": 6040, "item": 3704}
    assert schema.rows == 5 * 994_169
    assert schema.lookups == {"user": {"gender": 2, "age": 7, "occupation": 21}, "item": {"genre": 18}}
    for number, (owner, names) in enumerate((("user", sides["user_columns"]), ("item", sides["item_columns"]))):
        values = read_dictionary(tmp_path / "out", owner)["value"]
        lookup = pl.read_parquet(tmp_path / "out" / lookup_file(number)).with_columns(owner=values)
        expected = pl.read_parquet(file).group_by(owner).first().with_columns(owner=pl.col(owner).cast(pl.String))
        for name in names:
            raw = read_dictionary(tmp_path / "out", name)["value"]
            got = dict(zip(values, raw.gather(lookup[name]), strict=True))
            assert got == dict(expected.select("owner", pl.col(name).cast(pl.String)).iter_rows())
