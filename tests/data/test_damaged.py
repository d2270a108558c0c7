"""Prepared datasets that somebody else has changed: refused whole, by file and field."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raw_logs import criteo_lines
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.description import describe_tables
from tablefold.data.encoder import Encoder
from tablefold.data.encoder_folder import save_encoder
from tablefold.data.preparation import prepare
from tablefold.data.schema import PARTS, PartSchema, Schema, TableSchema
from tablefold.data.shards import Examples, ShardLayout, shard_name, write_shard
from tablefold.data.table import Columns, Table


def rows_of(batches):
    return sum(len(batch.label) for batch in batches)


def make_damaged(folder, change=None, checksums=True, **columns):
    """A dataset of 10 rows, two dense columns and two tables, one part of which is replaced or changed by hand."""
    good = {
        "dense": np.zeros((10, 2), np.float32),
        "ids": np.arange(20, dtype=np.int32).reshape(10, 2),
        "label": np.zeros(10, np.uint8),
    }
    parts = {}
    for name in PARTS:
        (folder / name).mkdir()
        checksum = write_shard(folder / name / shard_name(0), Examples(**good))
        parts[name] = PartSchema(10, 0, (10,), (checksum,) if checksums else ())
    Schema(("a", "b"), (TableSchema("x", 19), TableSchema("y", 20)), parts).save(folder)
    if columns:
        write_shard(folder / "train" / shard_name(0), Examples(**(good | columns)))
    if change:
        change(folder / "train" / shard_name(0))


def write_table(**columns):
    """A change that leaves an Arrow file of these columns instead."""

    def change(path):
        batch = pa.record_batch(columns)
        with pa.ipc.new_file(str(path), batch.schema) as writer:
            writer.write_batch(batch)

    return change


def lists(values, width, kind=None):
    return pa.FixedSizeListArray.from_arrays(pa.array(values, kind), width)


IDS, LABEL = lists([0] * 20, 2, pa.int32()), pa.array([0] * 10, pa.uint8())
DENSE = lists([0.0] * 20, 2, pa.float32())
DAMAGED_SHARDS = {
    "gone": (lambda path: path.unlink(), "holds 0 shards, its schema lists 1"),
    "empty": (lambda path: path.write_bytes(b""), "missing or damaged"),
    "junk": (lambda path: path.write_bytes(b"ARROW1 no more"), "missing or damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "missing or damaged"),
    "short": (write_table(dense=DENSE[:9], ids=IDS[:9], label=LABEL[:9]), "its number of rows is 9, by its schema 10"),
    "fewer tables": ({"ids": np.zeros((10, 1), np.int32)}, "1 columns of ids, its schema lists 2 and 2"),
    "more dense": ({"dense": np.zeros((10, 3), np.float32)}, "3 dense columns and 2 columns of ids, its"),
    "no dense": ({"dense": np.zeros((10, 0), np.float32)}, "0 dense columns and 2 columns of ids"),
    "large id": ({"ids": np.array([[0, 0]] * 9 + [[19, 0]], np.int32)}, r"an id of table 0 outside 0 \.\. 18"),
    "negative id": ({"ids": np.array([[0, 0]] * 9 + [[0, -1]], np.int64)}, r"an id of table 1 outside 0 \.\. 19"),
    "inf": ({"dense": np.array([[0, 0]] * 9 + [[0, np.inf]], np.float32)}, "dense value that is not finite"),
    "nan": ({"dense": np.array([[0, 0]] * 9 + [[np.nan, 0]], np.float32)}, "dense value that is not finite"),
    "label": ({"label": np.array([0] * 9 + [2], np.uint8)}, "a label that is not 0 or 1"),
    "float64": ({"dense": np.zeros((10, 2))}, "column dense is not of lists of float"),
    "int16": ({"ids": np.zeros((10, 2), np.int16)}, "column ids is not of lists of int32"),
    "float label": ({"label": np.zeros(10, np.float32)}, "column label is not uint8"),
    "names": (write_table(dense=DENSE, id=IDS, label=LABEL), "its columns are not dense, ids, label and weight"),
    "no lists": (write_table(ids=LABEL, label=LABEL), "column ids is not of lists"),
    "null id": (write_table(ids=lists([None] * 20, 2, pa.int32()), label=LABEL), "without nulls"),
    "null list": (write_table(ids=pa.array([None] * 10, IDS.type), label=LABEL), "without nulls"),
    "null label": (write_table(ids=IDS, label=pa.array([None] * 10, pa.uint8())), "without nulls"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED_SHARDS)
def test_a_shard_is_checked_as_a_whole_before_use(tmp_path, kind):
    damage, message = DAMAGED_SHARDS[kind]
    make_damaged(tmp_path, checksums=False, **(damage if isinstance(damage, dict) else {"change": damage}))
    assert rows_of(Dataset(tmp_path).part("test").batches(3)) == 10
    for seed in (None, 0):
        with pytest.raises(ValueError, match=message) as error:
            list(Dataset(tmp_path).part("train").batches(3, seed=seed))
        assert str(tmp_path / "train") in str(error.value)
        assert "\n" not in str(error.value)


def test_every_flipped_bit_of_a_shard_is_found(tmp_path):
    make_damaged(tmp_path)
    path = tmp_path / "train" / shard_name(0)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 3):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train/000000\.arrow is missing or damaged \(its checksum is"):
            list(Dataset(tmp_path).part("train").batches(3))


def test_a_flipped_bit_without_a_checksum_gives_batches_of_equal_lengths_or_an_error(tmp_path):
    make_damaged(tmp_path, checksums=False)
    path = tmp_path / "train" / shard_name(0)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        batches = []
        with suppress(ValueError):  # refused, which is as good
            batches = list(Dataset(tmp_path).part("train").batches(3))
        for batch in batches:
            assert batch.dense.shape == (len(batch.label), 2)
            assert batch.ids.shape == (len(batch.label), 2)
            assert batch.dense.isfinite().all()
            assert (batch.ids < torch.tensor([19, 20])).all()
        assert sum(len(batch.label) for batch in batches) in (0, 10)


def test_a_shard_is_checked_once_per_opening(tmp_path, monkeypatch):
    make_damaged(tmp_path)
    checked = []
    monkeypatch.setattr(ShardLayout, "check", lambda layout, examples: checked.append(len(examples)))
    dataset = Dataset(tmp_path)
    for epoch in range(3):
        part = dataset.part("train")
        assert rows_of(part.batches(3, seed=0, epoch=epoch)) == 10
        part._opened.clear()  # as happens to a shard that was not read for long
    assert checked == [10]


def deep(levels):
    content = []
    for _ in range(levels):
        content = [content]
    return content


def part(**changes):
    """A change of the training part in a schema."""
    return lambda content: content | {"parts": content["parts"] | {"train": content["parts"]["train"] | changes}}


EMPTY = {"rows": 0, "positives": 0, "shards": []}
SCHEMAS = {
    "no object": ("[]", "the whole is a list of 0; it must be an object"),
    "no JSON": ("{", "is missing or damaged"),
    "deep": ("[" * 100_000, "is missing or damaged|is damaged"),
    "deep in source": (lambda c: c | {"source": deep(500)}, "is nested deeper than"),
    "other format": (lambda c: c | {"format": 9}, "has format 9"),
    "format of text": (lambda c: c | {"format": "2"}, "format is '2'; it must be an integer"),
    "no fields": (lambda c: {"format": 2}, "parts is missing; it must be an object"),
    "dense": (lambda c: c | {"dense": [1, 2]}, r"dense\[0\] is 1; it must be text"),
    "no tables": (lambda c: c | {"tables": []}, "tables is a list of 0; it must be tables with names"),
    "table of text": (lambda c: c | {"tables": ["x", "y"]}, r"tables\[0\] is 'x'; it must be an object"),
    "table twice": (lambda c: c | {"tables": c["tables"][:1] * 2}, "tables with names, none of them twice"),
    "no name": (lambda c: c | {"tables": [{"name": "", "rows": 3}]}, "tables with names"),
    "rows of text": (lambda c: c | {"tables": [{"name": "x", "rows": "9"}]}, r"tables\[0\].rows is '9'"),
    "rows 0": (lambda c: c | {"tables": [{"name": "x", "rows": 0}]}, r"tables\[0\].rows is 0; it must be"),
    "huge rows": (lambda c: c | {"tables": [{"name": "x", "rows": 10**30}]}, r"tables\[0\].rows is 1000"),
    "parts": (lambda c: c | {"parts": []}, "parts is a list of 0; it must be an object"),
    "fewer parts": (lambda c: c | {"parts": {"train": c["parts"]["train"]}}, "parts.test is missing"),
    "a part elsewhere": (lambda c: c | {"parts": c["parts"] | {"../../etc": {}}}, "parts.'../../etc' is unknown"),
    "part rows": (part(rows=11), "parts.train.shards is a list of 1; it must be the rows of .* 11 rows"),
    "negative rows": (part(rows=-10, shards=[-10]), "parts.train.rows is -10"),
    "positives": (part(positives=11), "parts.train.positives is 11; it must be an integer from 0 to 10"),
    "shard of text": (part(shards="10"), "parts.train.shards is '10'; it must be a list"),
    "float shard": (part(shards=[10.0]), r"parts.train.shards\[0\] is 10.0; it must be an integer"),
    "checksums": (part(checksums=[1, 2]), "parts.train.checksums is a list of 2; it must be a checksum for each of 1"),
    "checksum": (part(checksums=[1 << 32]), r"parts.train.checksums\[0\] is 4294967296"),
    "nothing": (lambda c: c | {"parts": dict.fromkeys(PARTS, EMPTY)}, "that hold a row"),
    "source": (lambda c: c | {"source": 3}, "source is 3; it must be an object"),
    "source name": (lambda c: c | {"source": {"name": ["table"]}}, "source.name is a list of 1; it must be text"),
    "kind of ids": (lambda c: c | {"source": {"name": "criteo", "ids": 5}}, "source.ids is 5; it must be one of"),
    "rejected": (lambda c: c | {"rejected": -1}, "rejected is -1; it must be an integer of at least 0"),
    "best": (lambda c: c | {"best": {"test": 0.4}}, "best.test is 0.4; it must be an object"),
    "best figure": (lambda c: c | {"best": {"test": {"logloss": "low"}}}, "best.test.logloss is 'low'"),
    "best without loss": (lambda c: c | {"best": {"test": {"auc": 0.5}}}, "best.test.logloss is missing"),
    "best part": (lambda c: c | {"best": {"dev": {"logloss": 0.5}}}, "it must be the figures of one of train, test"),
    "lookups": (lambda c: c | {"lookups": {"z": {"age": 3}}}, "it must be attributes of some of the tables"),
    "lookup size": (lambda c: c | {"lookups": {"x": {"age": "3"}}}, "lookups.x.age is '3'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_damaged_schema_is_refused_by_file_and_field(tmp_path, kind):
    make_damaged(tmp_path)
    change, message = SCHEMAS[kind]
    path = tmp_path / "schema.json"
    path.write_text(change if isinstance(change, str) else json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message) as error:
        Dataset(tmp_path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(ValueError, match="holds no prepared dataset"):
        Dataset(tmp_path)
    make_damaged(tmp_path)
    with pytest.raises(ValueError, match="has no part 'dev'; choose one of train, test, validation"):
        Dataset(tmp_path).part("dev")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A log of two text columns, prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    rows = range(70)
    columns = {
        "y": [row % 2 for row in rows],
        "user": [f"u{row % 5}" for row in rows],
        "city": [f"c{row % 3}" for row in rows],
    }
    pl.DataFrame(columns).write_parquet(folder / "log")
    prepare(Table((str(folder / "log"),), Columns("y", ("user", "city"))), folder / "data")
    return folder


@pytest.fixture
def data(prepared, tmp_path):
    return Path(shutil.copytree(prepared / "data", tmp_path / "data"))


def rewrite(path, **columns):
    """A dictionary's file with other columns."""
    pq.write_table(pa.table(pq.read_table(path).to_pydict() | columns), path)


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


DICTIONARIES = {
    "null value": (lambda path: rewrite(path, value=["u0", "u1", None, "u3", "u4"]), "column 'value' has a missing"),
    "null count": (lambda path: rewrite(path, count=[1, 2, None, 4, 5]), "column 'count' has a missing"),
    "negative": (lambda path: rewrite(path, count=[1, 2, -3, 4, 5]), "negative count"),
    "numbers": (lambda path: rewrite(path, value=[1, 2, 3, 4, 5]), "no column 'value' of string"),
    "texts": (lambda path: rewrite(path, count=["1"] * 5), "no column 'count' of int64"),
    "lists": (lambda path: rewrite(path, value=[["a"]] * 5, count=[[1]] * 5), "no column"),
    "longer": (lambda path: rewrite(path, value=["a"] * 6, count=[1] * 6), "it holds 6 values instead of 5"),
    "shorter": (lambda path: rewrite(path, value=["a"] * 4, count=[1] * 4), "it holds 4 values instead of 5"),
    "other": (lambda path: pq.write_table(pa.table({"x": [1] * 5}), path), "no column"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is missing or damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is missing or damaged"),
    "flipped": (lambda path: flip(path, 8 * path.read_bytes().index(b"u3")), "is missing or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_a_damaged_dictionary_is_refused_by_whoever_reads_it(data, tmp_path, kind):
    """`describe` reads the counts, an encoder without indexes the values."""
    damage, message = DICTIONARIES[kind]
    save_encoder(Dataset(data), tmp_path / "encoder")
    without_indexes(tmp_path / "encoder")
    for folder in (data, tmp_path / "encoder"):  # a hard link
        path = folder / "dictionary" / "000000.parquet"
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        damage(path)
    tables = list(Dataset(data).schema.tables)
    errors = []
    for read in (lambda: describe_tables(data, 4), lambda: Encoder(tmp_path / "encoder", (), tables, tmp_path)):
        with suppress(ValueError):
            read()
            continue
        with pytest.raises(ValueError, match=r"dictionary/000000\.parquet is (missing or )?damaged") as error:
            read()
        assert str(error.value).isprintable()
        errors.append(str(error.value))
    assert re.search(message, " ".join(errors))


def with_columns(content, **changes):
    return content | {"columns": content["columns"] | changes}


def without_indexes(folder):
    """An encoder as the version before wrote it: dictionaries alone."""
    path = folder / "encoder.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != "dictionaries"}
    path.write_text(json.dumps(content | {"format": 2}))
    for index in (folder / "dictionary").glob("*.index"):
        index.unlink()


INDEXES = {
    "missing": (lambda path: path.unlink(), "is missing or damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
    "flipped": (lambda path: flip(path, 99), "is damaged"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_a_damaged_index_is_refused(data, tmp_path, kind):
    damage, message = INDEXES[kind]
    save_encoder(Dataset(data), tmp_path / "encoder")
    damage(tmp_path / "encoder" / "dictionary" / "000001.index")
    with pytest.raises(ValueError, match=rf"dictionary/000001\.index {message}") as error:
        Encoder(tmp_path / "encoder", (), list(Dataset(data).schema.tables), tmp_path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"short"])
def test_an_index_of_another_size_is_refused_where_digests_are_not_looked_at(data, tmp_path, content):
    save_encoder(Dataset(data), tmp_path / "encoder")
    (tmp_path / "encoder" / "dictionary" / "000000.index").write_bytes(content)
    with pytest.raises(ValueError, match=r"dictionary/000000\.index is (missing or )?damaged"):
        Encoder(tmp_path / "encoder", (), list(Dataset(data).schema.tables), tmp_path, built=True)


def test_a_dictionary_with_a_value_twice_is_refused(data, tmp_path):
    path = data / "dictionary" / "000000.parquet"
    frame = pl.read_parquet(path)
    values = frame["value"].to_list()
    frame.with_columns(value=pl.Series([*values[:-1], values[0]])).write_parquet(path)
    with pytest.raises(ValueError, match=rf"000000\.parquet holds the value '{values[0]}' twice") as error:
        save_encoder(Dataset(data), tmp_path / "encoder")
    assert str(error.value).isprintable()


RECIPES = {
    "no JSON": ("[", "is missing or damaged"),
    "format": (lambda c: c | {"format": 7}, "has format 7, not 3"),
    "name": (lambda c: c | {"name": ["table"]}, "name is a list of 1; it must be one of criteo"),
    "other name": (lambda c: c | {"name": "other"}, "name is 'other'; it must be one of criteo"),
    "ids": (lambda c: c | {"ids": None}, "ids is null; it must be one of dictionary, hash"),
    "no digests": (lambda c: c | {"dictionaries": None}, "dictionaries is null; it must be a list"),
    "a digest": (lambda c: c | {"dictionaries": c["dictionaries"][:1]}, "it must be a list of 2, one for each table"),
    "digests": (lambda c: c | {"dictionaries": [{}, {}]}, r"dictionaries\[0\].values is missing; it must be text"),
    "no columns": (lambda c: c | {"columns": None}, "columns is null; it must be the columns of a table"),
    "a column of numbers": (lambda c: with_columns(c, categorical=[1]), r"columns.categorical\[0\] is 1"),
    "unknown": (lambda c: with_columns(c, path="/etc"), "columns.path is unknown"),
    "twice": (lambda c: with_columns(c, dense=["user"]), "names a column twice"),
    "split": (lambda c: with_columns(c, split="x"), "split 'x': choose one of"),
    "others": (lambda c: with_columns(c, categorical=["../up", "city"]), "does not belong to a model"),
    "dense": (lambda c: with_columns(c, dense=["age"]), "this model: it reads the dense columns age for none"),
    "counts": (lambda c: with_columns(c, counts=["age"]), "this model: it reads the dense columns age for none"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECIPES)
def test_a_damaged_encoder_is_refused_by_file_and_field(data, tmp_path, kind):
    save_encoder(Dataset(data), tmp_path / "encoder")
    schema = Dataset(data).schema
    change, message = RECIPES[kind]
    path = tmp_path / "encoder" / "encoder.json"
    path.write_text(change if isinstance(change, str) else json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message) as error:
        Encoder(tmp_path / "encoder", schema.dense, list(schema.tables), tmp_path)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("values", ["[]", '{"test": {"logloss": "x"}}', "{", '{"dev": {}}'])
def test_damaged_figures_beside_a_log_are_refused_before_the_work(tmp_path, values):
    (tmp_path / "log").write_text("\n".join(criteo_lines(20)))
    (tmp_path / "log.best.json").write_text(values)
    with pytest.raises(ValueError, match=r"log\.best\.json"):
        prepare(Criteo((str(tmp_path / "log"),)), tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"log", "log.best.json"}


def as_format_1(folder):
    """A dataset, or an encoder, as the release before wrote it: dictionaries named after their columns."""
    path = folder / ("schema.json" if (folder / "schema.json").exists() else "encoder.json")
    if path.name == "encoder.json":
        without_indexes(folder)
    content = json.loads(path.read_text())
    for part in content.get("parts", {}).values():
        del part["checksums"]
    path.write_text(json.dumps(content | {"format": 1}))
    for number, column in enumerate(("user", "city")):
        (folder / "dictionary" / f"{number:06d}.parquet").rename(folder / "dictionary" / f"{column}.parquet")


def test_what_the_release_before_wrote_still_opens(data, prepared, tmp_path):
    before = describe_tables(data, 4)
    batches = list(Dataset(data).part("train").batches(9, seed=1))
    save_encoder(Dataset(data), tmp_path / "encoder")
    tables = list(Dataset(data).schema.tables)
    encoded = [piece.ids for piece in Encoder(tmp_path / "encoder", (), tables, tmp_path).read(str(prepared / "log"))]
    as_format_1(data)
    as_format_1(tmp_path / "encoder")
    assert [(table.name, table.rows, table.head) for table in describe_tables(data, 4)] == [
        (table.name, table.rows, table.head) for table in before
    ]
    for one, other in zip(batches, Dataset(data).part("train").batches(9, seed=1), strict=True):
        assert (one.ids == other.ids).all()
    save_encoder(Dataset(data), tmp_path / "from format 1")
    for folder in ("encoder", "from format 1"):
        again = [piece.ids for piece in Encoder(tmp_path / folder, (), tables, tmp_path).read(str(prepared / "log"))]
        assert all((one == other).all() for one, other in zip(encoded, again, strict=True))
