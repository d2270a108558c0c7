import gzip
from collections import Counter

import numpy as np
import polars as pl
import pytest

from raw_logs import criteo_lines, read_dictionary, tree
from tablefold.data import Dataset
from tablefold.data.avazu import FIELDS, Avazu
from tablefold.data.criteo import Criteo
from tablefold.data.preparation import Options, prepare
from tablefold.data.schema import PARTS
from tablefold.data.table import Columns, Table


def read(folder, column, parts=PARTS):
    dataset = Dataset(folder)
    return np.concatenate([np.asarray(b[column]) for part in parts for b in dataset.part(part).batches(1000)])


def raw(folder, parts=PARTS):
    """Ids as raw values: "" where missing, None where unseen."""
    ids = read(folder, 1, parts)
    columns = []
    for column, table in enumerate(Dataset(folder).schema.tables):
        values = read_dictionary(folder, table.name)["value"].to_list()
        columns.append([["", None, *values][i] for i in ids[:, column]])
    return list(zip(*columns, strict=True))


def test_criteo_tb_keeps_the_last_day_for_test(tmp_path, small_shards):
    days = []
    for day, rows in enumerate((150, 90, 61)):
        days.append(tmp_path / f"day_{day}.gz")
        days[-1].write_bytes(gzip.compress(("\n".join(criteo_lines(rows, seed=day)) + "\n").encode()))
    for ids in ("dictionary", "hash"):
        options = Options(ids=ids)
        schema = prepare(Criteo(tuple(map(str, days)), by_day=True), tmp_path / ids, options)
        assert [schema.parts[part].rows for part in PARTS] == [240, 31, 30]
    first = [line.split("\t")[0] for line in criteo_lines(150)]
    assert read(tmp_path / "hash", 2)[:150].tolist() == [float(label) for label in first]


def avazu_lines(rows):
    random = np.random.default_rng(0)
    values = {1: lambda: random.integers(0, 2), 2: lambda: 14102100 + random.integers(0, 24)}
    texts = {field.name: [f"{random.integers(2**32):08x}" for _ in range(9)] for field in FIELDS[5:14]}
    lines = [",".join(field.name for field in FIELDS)]
    for row in range(rows):
        made = [values.get(n, lambda: random.integers(-1, 50))() for n in range(len(FIELDS))]
        made = [random.choice(texts[f.name]) if f.name in texts else v for f, v in zip(FIELDS, made, strict=True)]
        lines.append(",".join(map(str, [f"1000{row}e19", *made[1:]])))
    return lines


def test_avazu(tmp_path, small_shards):
    lines = avazu_lines(300)
    file = tmp_path / "train.csv"
    file.write_text("\n".join(lines) + "\n")
    schema = prepare(Avazu((str(file),)), tmp_path / "out")
    assert len(schema.tables) == 22
    assert schema.dense == ()
    rows = [line.split(",") for line in lines[1:]]
    train = schema.parts["train"].rows
    expected = [(row[2][-2:].lstrip("0") or "0", *row[3:]) for row in rows[:train]]
    assert raw(tmp_path / "out", ["train"]) == expected
    assert read(tmp_path / "out", 2).tolist() == [float(row[1]) for row in rows]


def test_avazu_names_the_line_of_the_file(tmp_path, small_shards):
    lines = avazu_lines(300)
    lines[250] = lines[250].replace(",", ",x", 2)
    (tmp_path / "train.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"train.csv, line 251: field click is not 0 or 1: 'x"):
        prepare(Avazu((str(tmp_path / "train.csv"),)), tmp_path / "out")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other.csv, line 1: the header is not Avazu's"):
        prepare(Avazu((str(tmp_path / "other.csv"),)), tmp_path / "out")
    (tmp_path / "header.csv").write_text(lines[0] + "\n")
    with pytest.raises(ValueError, match=r"header.csv: no example in it"):
        prepare(Avazu((str(tmp_path / "header.csv"),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


SCHEMA = """
label = "clicked"
categorical = ["city", "device"]
dense = ["age"]
counts = ["visits"]
"""


@pytest.fixture
def shop(tmp_path):
    random = np.random.default_rng(1)
    cities = ["Paris", 'say "hi", Oslo', "Zürich", "", "a\tb", "A"]
    frame = pl.DataFrame(
        {
            "device": random.integers(0, 50, 400),
            "ignored": ["x"] * 400,
            "city": random.choice(cities, 400),
            "age": random.random(400).round(3),
            "clicked": random.integers(0, 2, 400),
            "visits": pl.Series(random.integers(-1, 9, 400)).replace(0, None),
        }
    )
    frame.write_parquet(tmp_path / "shop.parquet")
    frame.write_csv(tmp_path / "shop.csv")
    (tmp_path / "schema.toml").write_text(SCHEMA)
    return tmp_path


def prepare_shop(shop, *files, out="out", **options):
    columns = Columns.load(str(shop / "schema.toml"))
    return prepare(Table(tuple(str(shop / file) for file in files), columns), shop / out, Options(**options))


def test_table(shop):
    schema = prepare_shop(shop, "shop.parquet")
    frame = pl.read_parquet(shop / "shop.parquet")
    assert schema.dense == ("age", "visits")
    visits = frame["visits"].fill_null(0).clip(0).to_numpy()
    np.testing.assert_allclose(read(shop / "out", 0), np.stack([frame["age"], np.log1p(visits)], 1), rtol=1e-6)
    assert read(shop / "out", 2).tolist() == frame["clicked"].to_list()
    train = schema.parts["train"].rows
    expected = list(frame.select("city", pl.col("device").cast(pl.String)).head(train).iter_rows())
    assert raw(shop / "out", ["train"]) == expected
    for name in ("city", "device"):
        count = Counter(value for value in frame[name].cast(pl.String).head(train) if value)
        ranked = sorted(count.items(), key=lambda item: (-item[1], item[0]))
        assert list(read_dictionary(shop / "out", name).iter_rows()) == ranked


def test_table_from_csv_is_the_same(shop, small_shards):
    prepare_shop(shop, "shop.parquet", out="a")
    prepare_shop(shop, "shop.csv", out="b")
    prepare_shop(shop, "shop.csv", out="c", workers=2)
    for column in range(3):
        assert (read(shop / "a", column) == read(shop / "b", column)).all()
    assert tree(shop / "a" / "dictionary") == tree(shop / "b" / "dictionary") == tree(shop / "c" / "dictionary")
    assert tree(shop / "b") == tree(shop / "c")


def test_table_options(shop):
    prepare_shop(shop, "shop.parquet", out="a")
    prepare_shop(shop, "shop.parquet", out="b", permute_ids=1)
    assert raw(shop / "a") == raw(shop / "b")
    assert (read(shop / "a", 1) != read(shop / "b", 1)).any()
    hashed = prepare_shop(shop, "shop.parquet", out="c", ids="hash")
    assert hashed.tables[0].rows is None
    (shop / "schema.toml").write_text(SCHEMA + 'split = "last-file"')
    schema = prepare_shop(shop, "shop.parquet", "shop.csv", out="d")
    assert [schema.parts[part].rows for part in PARTS] == [400, 200, 200]


def test_table_rejects(shop, small_shards):
    lines = (shop / "shop.csv").read_text().splitlines()
    lines[7] = '1,x,"open,3,1,2'
    lines[300] = "1,x,Oslo,old,1,2"
    lines[301] = "1,x,Oslo,3,2,2"
    lines[302] = "1,x,Oslo,inf,1,2"
    (shop / "shop.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"shop.csv, line 8: 1 field instead of 6 \(4 of 400 lines"):
        prepare_shop(shop, "shop.csv")
    schema = prepare_shop(shop, "shop.csv", max_rejects=0.01)
    rejects = pl.read_parquet(shop / "out" / "rejects.parquet")
    assert rejects["line"].to_list() == [8, 301, 302, 303]
    assert rejects["reason"].to_list()[1:] == [
        "field age is not a finite number: 'old'",
        "field clicked is not 0 or 1: '2'",
        "field age is not a finite number: 'inf'",
    ]
    assert schema.rows == 396


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("label = ", "is not TOML"),
        ('label = "clicked"', "must name a label and at least one categorical column"),
        (SCHEMA + 'dens = ["x"]', "unknown key 'dens'; known are label, categorical"),
        (SCHEMA.replace('["age"]', '"age"'), "dense must be a list of names; got 'age'"),
        (SCHEMA.replace("visits", "age"), "names a column twice"),
        (SCHEMA + 'split = "half"', "split 'half': choose one of order, last-file"),
        (SCHEMA.replace("city", "town"), "has no column 'town'; it has device, ignored, city"),
    ],
)
@pytest.mark.parametrize("file", ["shop.csv", "shop.parquet"])
def test_bad_schema(shop, file, schema, message):
    (shop / "schema.toml").write_text(schema)
    with pytest.raises(ValueError, match=message):
        prepare_shop(shop, file)
    assert not (shop / "out").exists()
