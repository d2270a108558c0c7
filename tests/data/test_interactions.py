import tracemalloc

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raw_logs import read_dictionary
from tablefold import TableSpec, parse
from tablefold.data import Dataset
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.data.permutation import permute_ids


@pytest.fixture
def log(tmp_path):
    random = np.random.default_rng(0)
    pairs = pl.DataFrame({"u": random.integers(0, 60, 1500), "i": random.integers(0, 40, 1500) ** 2 // 40})
    pairs = pairs.unique(maintain_order=True)
    frame = pairs.with_columns(
        user=pl.format("u{}", "u"),
        item=pl.col("i") * 10,
        age=pl.col("u") % 3,
        genre=pl.when(pl.col("i") % 5 > 0).then(pl.format("g{}", pl.col("i") % 5)),
        time=pl.Series(random.permutation(len(pairs))),
    )
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    return tmp_path


def rows_of(folder, name):
    batches = list(Dataset(folder).part(name).batches(1000))
    return np.concatenate([batch.ids for batch in batches]), np.concatenate([batch.label for batch in batches])


def raw(folder, ids):
    """(user, item) as raw values."""
    values = [read_dictionary(folder, name)["value"] for name in ("user", "item")]
    return list(zip(*(values[column].gather(ids[:, column]).to_list() for column in range(2)), strict=True))


def prepare(log, name="out", file="log.parquet", **options):
    options = {"user": "user", "item": "item"} | options
    return prepare_interactions(Interactions(str(log / file), **options), log / name)


@pytest.mark.parametrize("options", [{}, {"split": "leave-last-out"}, {"split": "by-time", "time": "time"}])
@pytest.mark.parametrize("permute", [None, 3])
def test_every_positive_once_and_no_false_negative(log, options, permute):
    frame = pl.read_parquet(log / "log.parquet")
    schema = prepare(log, permute=permute, **options)
    positives = set(frame.select("user", pl.col("item").cast(pl.String)).iter_rows())
    found = []
    for part in ("train", "test", "validation"):
        ids, label = rows_of(log / "out", part)
        pairs = raw(log / "out", ids)
        found += [pair for pair, value in zip(pairs, label, strict=True) if value]
        assert not positives & {pair for pair, value in zip(pairs, label, strict=True) if not value}
        assert schema.parts[part].rows == 5 * schema.parts[part].positives == len(label)
        assert schema.parts[part].positives == label.sum() > 0
    assert sorted(found) == sorted(positives)
    assert schema.rows == 5 * len(positives)


def test_split_rules(log):
    frame = pl.read_parquet(log / "log.parquet").sort("time")
    prepare(log, split="leave-last-out", time="time")
    ids, label = rows_of(log / "out", "test")
    last = frame.group_by("user").last().select("user", pl.col("item").cast(pl.String))
    assert set(raw(log / "out", ids[label == 1])) == set(last.iter_rows())
    schema = prepare(log, "random")
    assert schema.parts["test"].positives == round(0.1 * len(frame))
    assert schema.parts["validation"].positives == round(0.05 * len(frame))
    prepare(log, "time", split="by-time", time="time")
    ids, label = rows_of(log / "time", "train")
    size = schema.rows // 5
    first = frame.head(6 * (size // 7) + size % 7).select("user", pl.col("item").cast(pl.String))
    assert set(raw(log / "time", ids[label == 1])) == set(first.iter_rows())


def test_ids_are_ranked_by_training_count_then_value(log):
    prepare(log)
    ids, label = rows_of(log / "out", "train")
    for column, name in enumerate(("user", "item")):
        table = read_dictionary(log / "out", name)
        count = np.bincount(ids[label == 1, column], minlength=len(table))
        assert table["count"].to_list() == count.tolist()
        value = table["value"].cast(pl.Int64) if name == "item" else table["value"]
        keys = list(zip((-count).tolist(), value.to_list(), strict=True))
        assert keys == sorted(keys)


def test_csv_gives_the_same_dataset(log):
    prepare(log)
    prepare(log, "csv", file="log.csv")
    for path in (log / "out").rglob("*.*"):
        if path.name != "schema.json":
            assert path.read_bytes() == (log / "csv" / path.relative_to(log / "out")).read_bytes()


def test_seed_and_permutation(log):
    def content(name):
        return rows_of(log / name, "train")[0].tolist()

    prepare(log, "a", seed=1)
    prepare(log, "b", seed=1)
    prepare(log, "c", seed=2)
    prepare(log, "d", seed=1, permute=5)
    assert content("a") == content("b") != content("c")
    assert content("d") != content("a")
    assert raw(log / "d", rows_of(log / "d", "train")[0]) == raw(log / "a", rows_of(log / "a", "train")[0])


def test_attributes_of_every_id(log):
    schema = prepare(log, user_columns=("age",), item_columns=("genre",), side_tables=True, permute=1)
    assert [table.name for table in schema.tables] == ["user", "item", "age", "genre"]
    assert schema.lookups == {"user": {"age": 3}, "item": {"genre": 5}}
    users = read_dictionary(log / "out", "user")["value"]
    ages = read_dictionary(log / "out", "age")["value"]
    age_of = dict(pl.read_parquet(log / "log.parquet").select("user", "age").iter_rows())
    lookup = pl.read_parquet(log / "out" / "lookup" / "000000.parquet")
    assert len(lookup) == len(users)
    assert [ages[i] for i in lookup["age"]] == [str(age_of[user]) for user in users]
    ids, _ = rows_of(log / "out", "train")
    assert (lookup["age"].to_numpy()[ids[:, 0]] == ids[:, 2]).all()
    tables = [TableSpec(table.name, table.rows, 4) for table in schema.tables[:2]]
    group = parse(f"custom:lookup={log / 'out' / 'lookup'},combine=features").build(tables, device="meta")
    read = [{part.lookup.buckets.tobytes() for part in parts if part.lookup} for parts in partitions_of(group)]
    assert lookup["age"].to_numpy().astype(np.uint8).tobytes() in read[0]
    genres = read_dictionary(log / "out", "genre")["value"]
    assert genres.to_list().count(None) == 1
    assert ids[:, 3].max() == 4


def partitions_of(group):
    return [[term.partition for term in terms] for terms in group.address_map.terms]


def test_user_who_took_nearly_everything(tmp_path):
    frame = pl.DataFrame({"user": [0] * 19 + [1] * 20, "item": [*range(1, 20), *range(20)]})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="user 1 took every item"):
        prepare(tmp_path)
    assert not (tmp_path / "out").exists()
    frame.head(38).write_parquet(tmp_path / "log.parquet")
    prepare(tmp_path)
    ids, label = rows_of(tmp_path / "out", "train")
    assert {item for _, item in raw(tmp_path / "out", ids[label == 0])} == {"0", "19"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "nobody"}, "log.parquet has no column 'nobody'; it has u, i, user"),
        ({"split": "by-time"}, "--split by-time needs --time"),
        ({"split": "half"}, "choose one of random, leave-last-out, by-time"),
        ({"negatives": -1}, "must not be negative"),
        ({"negatives": 1.5}, "negatives=1.5 must be an integer"),
        ({"rating": "age"}, "belong together"),
        ({"user_columns": ("genre",)}, "attribute has one value"),
        ({"item": "user"}, "name every column once"),
    ],
)
def test_bad_options(log, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(log, **options)
    assert not (log / "out").exists()


def test_rating_threshold_and_duplicates(tmp_path):
    frame = pl.DataFrame({"user": [1, 1, 2, 2, 2, 3], "item": [1, 1, 1, 2, 3, 4], "stars": [5, 4, 2, 4, 4, 5]})
    frame.write_parquet(tmp_path / "log.parquet")
    schema = prepare(tmp_path, rating="stars", min_rating=4)
    assert schema.rows == 4 * 5


def test_rejects_are_kept(log):
    lines = (log / "log.csv").read_text().splitlines()
    lines[3] = ",,,,,,"
    lines[5] = "1,2"
    (log / "log.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"log.csv, line 4: field user is missing \(2 of 9\d\d lines"):
        prepare(log, file="log.csv")
    assert not (log / "out").exists()
    schema = prepare(log, file="log.csv", max_rejects=0.01)
    assert schema.rejected == 2
    rejects = pl.read_parquet(log / "out" / "rejects.parquet")
    assert rejects["line"].to_list() == [4, 6]
    assert rejects["reason"].to_list() == ["field user is missing", "2 fields instead of 7"]
    assert schema.rows == 5 * (len(lines) - 3)


def test_open_quote_is_an_error(log):
    text = (log / "log.csv").read_text().splitlines()
    text[5] = '"' + text[5]
    (log / "log.csv").write_text("\n".join(text))
    with pytest.raises(ValueError, match=r"log.csv, line 6: a quote that opens here is not closed"):
        prepare(log, file="log.csv", max_rejects=1.0)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 3000), seed=st.integers(0, 5), first=st.sampled_from([0, 2]))
def test_permutation_is_a_bijection(rows, seed, first):
    rows += first
    images = permute_ids(np.arange(rows), rows, seed, first=first)
    assert sorted(images.tolist()) == list(range(rows))
    assert images[:first].tolist() == list(range(first))


def test_permutation_mixes():
    images = permute_ids(np.arange(100_000), 100_000, seed=1)
    assert abs(np.corrcoef(np.arange(100_000), images)[0, 1]) < 0.02
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    assert np.mean(images % 2 == np.arange(100_000) % 2) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("negatives", [10**6, 10**18])
def test_more_negatives_than_memory_holds_are_refused_before_anything_is_written(log, monkeypatch, negatives):
    monkeypatch.setattr("tablefold.data.interactions.free_memory", lambda: 10**9)
    before = sorted(log.iterdir())
    message = r"--negatives 10+ for 9\d\d positives would take about .*: draw at most 1\d,\d{3}"
    with pytest.raises(ValueError, match=message):
        prepare(log, negatives=negatives)
    assert sorted(log.iterdir()) == before


@pytest.mark.parametrize("sides", [(), ("age",)])
def test_the_memory_of_an_example_is_estimated(log, monkeypatch, sides):
    free = [1 << 60]
    monkeypatch.setattr("tablefold.data.interactions.free_memory", lambda: free[0])
    options = {"negatives": 500, "user_columns": sides, "side_tables": bool(sides)}
    tracemalloc.start()
    rows = prepare(log, **options).rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    free[0] = int(peak * 0.7)
    with pytest.raises(ValueError, match="draw at most"):
        prepare(log, "less", **options)
    free[0] = int(peak * 1.5)
    assert prepare(log, "enough", **options).rows == rows
