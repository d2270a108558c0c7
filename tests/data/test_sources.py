import codecs
import gzip
import os
from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raw_logs import criteo_lines, read_dictionary, tree
from tablefold.cli import main
from tablefold.data import Dataset
from tablefold.data.avazu import FIELDS, Avazu
from tablefold.data.criteo import Criteo
from tablefold.data.interactions import Interactions, prepare_interactions
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


@pytest.mark.parametrize("value", [3.5e38, -3.5e38, 1e300])
@pytest.mark.parametrize("file", ["shop.csv", "shop.parquet"])
def test_a_dense_value_beyond_float32_is_a_reject(shop, file, value):
    """Counts are taken as logarithms, so they may be as large as they like."""
    largest = float(np.finfo(np.float32).max)
    frame = pl.read_parquet(shop / "shop.parquet").with_row_index()
    at = pl.col("index")
    frame = frame.with_columns(
        age=pl.when(at == 5).then(value).when(at == 6).then(largest).when(at == 7).then(-largest).otherwise("age"),
        visits=pl.when(at == 8).then(abs(value)).otherwise(pl.col("visits").cast(pl.Float64)),
    )
    frame.write_parquet(shop / "shop.parquet")
    frame.write_csv(shop / "shop.csv")
    schema = prepare_shop(shop, file, max_rejects=0.01)
    assert schema.rejected == 1
    rejects = pl.read_parquet(shop / "out" / "rejects.parquet")
    assert rejects["line"].to_list() == [7 if file == "shop.csv" else 6]
    assert rejects["reason"][0].startswith("field age is beyond float32, which ends at 3.402823e+38: '")
    dense = read(shop / "out", 0)
    assert np.isfinite(dense).all()
    assert dense[5:7, 0].tolist() == [largest, -largest]


SOME = [None, *range(1, 6)] * 70
TYPES = {
    "categorical": (lambda values: values.cast(pl.String).cast(pl.Categorical), None),
    "enum": (lambda values: values.cast(pl.String).cast(pl.Enum(["5", "3", "1", "2", "4"])), None),
    "int8": (lambda values: values.cast(pl.Int8), None),
    "uint64": (lambda values: values.cast(pl.UInt64), None),
    "int128": (lambda values: values.cast(pl.Int128), None),
    "float32": (lambda values: values.cast(pl.Float32), None),
    "decimal": (lambda values: values.cast(pl.Decimal(10, 2)), None),
    "boolean": (lambda values: values > 3, None),
    "date": (lambda values: values.cast(pl.Date), None),
    "datetime": (lambda values: values.cast(pl.Datetime("ms", "UTC")), None),
    "time": (lambda values: (values * 3_600_000_000_000).cast(pl.Time), None),
    "null": (lambda values: pl.Series([None] * len(values)), None),
    "binary": (lambda values: values.cast(pl.String).cast(pl.Binary), "Binary"),
    "duration": (lambda values: values.cast(pl.Duration("ms")), "Duration"),
    "list": (lambda values: values.reshape((-1, 1)).arr.to_list(), "List"),
    "array": (lambda values: values.reshape((-1, 1)), "Array"),
    "struct": (lambda values: values.to_frame("x").to_struct(), "Struct"),
    "map": (None, "Map"),
}


KEPT = {
    "age": {"numbers": 420, "boolean": 420, "date": 70, "datetime": 70, "time": 70},
    "clicked": {"numbers": 70, "boolean": 350, "date": 0, "datetime": 0, "time": 0, "null": 0},
}
"""Rows that are no rejects: a missing number is 0, a missing label is none."""


def write_typed(file, name, kind):
    """A file with a column of some type among plain ones."""
    columns = {"clicked": [0, 1] * 210, "city": SOME, "age": SOME, "time": SOME, "user": SOME}
    columns["item"] = [row // 6 for row in range(420)]
    if kind == "map":
        table = pa.table(columns | {name: pa.array([[("a", 1)]] * 420, pa.map_(pa.string(), pa.int64()))})
        pq.write_table(table, file)
    else:
        pl.DataFrame(columns).with_columns(TYPES[kind][0](pl.Series(SOME)).alias(name)).write_parquet(file)


@pytest.mark.parametrize("column", ["city", "clicked", "age"])
@pytest.mark.parametrize("kind", TYPES)
def test_a_type_is_read_or_refused_in_one_line(tmp_path, kind, column):
    """As a category, a label and a number: either each value finds its place, or the type is named."""
    write_typed(tmp_path / "log", column, kind)
    table = Table((str(tmp_path / "log"),), Columns("clicked", ("city",), ("age",)))
    message = f"log: the column '{column}' is of type {TYPES[kind][1]}.*so convert it first"
    if TYPES[kind][1]:
        with pytest.raises(ValueError, match=message):
            prepare(table, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["log"]
    elif column == "city":
        prepare(table, tmp_path / "out")
        texts = pl.read_parquet(tmp_path / "log")["city"].cast(pl.String).fill_null("").to_list()
        assert [value for (value,) in raw(tmp_path / "out")] == texts
    else:
        kept = KEPT[column].get(kind, KEPT[column]["numbers"])
        if kept:
            assert prepare(table, tmp_path / "out", Options(max_rejects=1.0)).rows == kept
        else:
            with pytest.raises(ValueError, match=f"log, line 1: field {column} is not 0 or 1: .*420 of 420"):
                prepare(table, tmp_path / "out", Options(max_rejects=1.0))


@pytest.mark.parametrize("column", ["user", "item", "time", "rating", "city"])
@pytest.mark.parametrize("kind", TYPES)
def test_interactions_read_a_type_or_refuse_it_in_one_line(tmp_path, kind, column):
    write_typed(tmp_path / "log", column, kind)
    rating = {"rating": "rating", "min_rating": 1} if column == "rating" else {}
    source = Interactions(
        str(tmp_path / "log"), "user", "item", 0, time="time", user_columns=(("city",) if column == "city" else ()),
        max_rejects=1.0, **rating,
    )  # fmt: skip
    refused = {
        "null": ["user", "item", "time", "rating"],
        "date": ["rating"],
        "datetime": ["rating"],
        "time": ["rating"],
    }
    refused |= {"boolean": ["rating"]}
    if TYPES[kind][1]:
        with pytest.raises(ValueError, match=f"log: the column '{column}' is of type {TYPES[kind][1]}"):
            prepare_interactions(source, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["log"]
    elif column in refused.get(kind, ()):
        with pytest.raises(ValueError, match=r"log, line 1: field \w+ is (missing|not a number).*420 of 420"):
            prepare_interactions(source, tmp_path / "out")
    else:
        schema = prepare_interactions(source, tmp_path / "out")
        assert schema.rows + schema.rejected <= 420
        values = pl.read_parquet(tmp_path / "log")[column].drop_nulls().cast(pl.String).unique().sort()
        if column in ("user", "item"):
            assert read_dictionary(tmp_path / "out", column)["value"].sort().equals(values)


def test_categories_are_ordered_as_texts(tmp_path):
    """Not by the order of an enum, nor by first appearance."""
    for name, kind in (("text", pl.String), ("enum", pl.Enum(["b", "c", "a"])), ("category", pl.Categorical)):
        frame = pl.DataFrame({"user": pl.Series(["c", "a", "b"] * 4, dtype=kind), "item": range(12)})
        frame = frame.with_columns(time=pl.col("user"))
        frame.write_parquet(tmp_path / name)
        source = Interactions(str(tmp_path / name), "user", "item", 0, split="by-time", time="time")
        prepare_interactions(source, tmp_path / f"{name} out")
    assert tree(tmp_path / "text out" / "train") == tree(tmp_path / "enum out" / "train")
    assert tree(tmp_path / "text out" / "train") == tree(tmp_path / "category out" / "train")


@pytest.mark.parametrize("position", range(3))
def test_a_byte_order_mark_is_no_part_of_a_name(shop, position):
    """Whichever column comes first, in the log and in the schema file."""
    plain = prepare_shop(shop, "shop.csv", out="plain")
    names = [["device", "city", "age"], ["city", "device", "age"], ["clicked", "city", "device"]][position]
    rest = [name for name in pl.read_csv(shop / "shop.csv").columns if name not in names]
    pl.read_csv(shop / "shop.csv", infer_schema=False).select(*names, *rest).write_csv(shop / "marked.csv")
    for file in ("marked.csv", "schema.toml"):
        (shop / file).write_bytes(codecs.BOM_UTF8 + (shop / file).read_bytes())
    schema = prepare_shop(shop, "marked.csv", out="marked")
    assert (schema.tables, schema.rejected) == (plain.tables, 0)
    assert tree(shop / "marked" / "train") == tree(shop / "plain" / "train")
    source = Interactions(str(shop / "marked.csv"), names[0], names[1], 0, max_rejects=1.0)
    assert [table.name for table in prepare_interactions(source, shop / "pairs").tables] == names[:2]


def test_a_byte_order_mark_before_avazu(tmp_path):
    (tmp_path / "train.csv").write_bytes(codecs.BOM_UTF8 + "\n".join(avazu_lines(30)).encode())
    assert prepare(Avazu((str(tmp_path / "train.csv"),)), tmp_path / "out").rows == 30


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_there_twice_is_refused(shop, kind):
    file = shop / f"twice.{kind}"
    columns = {
        name: pl.read_csv(shop / "shop.csv")[name].to_list() for name in ("clicked", "city", "device", "age", "visits")
    }
    if kind == "csv":
        file.write_text(",".join([*columns, "city"]) + "\n" + "1,a,b,1,2,c\n" * 9)
    else:
        pq.write_table(pa.table([*columns.values(), columns["city"]], names=[*columns, "city"]), file)
    with pytest.raises(ValueError, match="city"):
        prepare_shop(shop, file.name)
    with pytest.raises(ValueError, match="city"):
        prepare_interactions(Interactions(str(file), "city", "device", 0), shop / "pairs")


def test_a_column_that_is_there_twice_and_not_asked_for_is_none_of_ours(shop):
    (shop / "twice.csv").write_text("clicked,city,device,age,visits,,\n" + "1,a,b,1,2,c,c\n" * 9)
    assert prepare_shop(shop, "twice.csv").rows == 9


JUNK = b"\x1b]0;owned\x07\x1b[2J\x00\xff\xfe" + bytes(range(256)).replace(b"\n", b"") * 40


@pytest.mark.parametrize("where", ["header", "field", "label", "file", "schema"])
@pytest.mark.parametrize("source", ["criteo", "avazu", "table", "interactions"])
def test_junk_is_never_echoed_raw(shop, capsys, source, where):
    """Whatever a file holds, the terminal gets one printable line of bounded length."""
    good = {
        "criteo": "\n".join(criteo_lines(20)),
        "avazu": "\n".join(avazu_lines(20)),
        "table": (shop / "shop.csv").read_text(),
        "interactions": "city,device,age\n" + "a,b,1\n" * 20,
    }[source].encode()
    header, _, rest = good.partition(b"\n")
    junk = {
        "header": JUNK + b"\n" + rest,
        "field": header + b"\n" + rest.replace(b",", b"," + JUNK, 3).replace(b"\t", b"\t" + JUNK, 3),
        "label": header + b"\n" + JUNK + rest,
        "file": JUNK,
        "schema": good,
    }[where]
    (shop / "log").write_bytes(junk)
    if where == "schema":
        (shop / "schema.toml").write_bytes(b"label = " + JUNK)
    options = {
        "table": ["--schema", str(shop / "schema.toml")],
        "interactions": ["--user", "city", "--item", "device", "--rating", "age", "--min-rating", "0"],
    }
    code = main(
        [
            "prepare",
            source,
            str(shop / "log"),
            "--out",
            str(shop / "out"),
            *options.get(source, []),
            "--max-rejects",
            "0",
        ]
    )
    error = capsys.readouterr().err
    assert code == (2 if error else 0)
    assert error.removesuffix("\n").isprintable()
    assert len(error) < 1000


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


def test_a_schema_that_is_no_file_is_refused(shop):
    os.mkfifo(shop / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ValueError, match=f"{name}? is missing or damaged"):
            Columns.load(str(shop / name))
    with pytest.raises(ValueError, match=r"missing.toml: no such file"):
        Columns.load(str(shop / "missing.toml"))
    (shop / "large.toml").write_text("#" * (17 << 20))
    with pytest.raises(ValueError, match=r"large.toml is damaged: it has more than 16,777,216 bytes"):
        Columns.load(str(shop / "large.toml"))
