"""Columns as logs have them: lists, times, weights, decimals, strange types; from the file to scores and exports."""

import datetime
import decimal
import json

import numpy as np
import polars as pl
import pytest
import torch

from tablefold import ClickModel, Scorer
from tablefold.cli import main
from tablefold.data import Dataset
from tablefold.data.preparation import Options, prepare
from tablefold.data.table import Columns, Table
from tablefold.data.times import parse_times
from tablefold.exporting.runs import export_run
from tablefold.serving.prediction import predict_file
from tablefold.tables import NOTHING
from tablefold.train import Config, load_run, train_run

ROWS = 1400
SCHEMA = """
label = "clicked"
categorical = ["user name", "Größe"]
dense = ["price", "paid"]
times = ["at"]
lists = ["genres"]
list_length = 3
weight = "w"
"""


def log(rows=ROWS, seed=0):
    random = np.random.default_rng(seed)
    genres = [random.choice(list("abcdef"), random.integers(0, 5), replace=False).tolist() for _ in range(rows)]
    at = datetime.datetime(2024, 4, 1)
    return pl.DataFrame(
        {
            "clicked": [("a" in own) ^ bool(random.random() < 0.1) for own in genres],
            "user name": [f"u{random.integers(40)}" for _ in range(rows)],
            "Größe": pl.Series(random.choice(["S", "M", "L"], rows), dtype=pl.Categorical),
            "price": pl.Series([decimal.Decimal(int(each)) / 4 for each in random.integers(0, 99, rows)]),
            "paid": random.random(rows) < 0.5,
            "at": [at + datetime.timedelta(minutes=37 * row) for row in range(rows)],
            "genres": [None if row % 50 == 0 else [*own, None] for row, own in enumerate(genres)],
            "w": random.integers(0, 4, rows) / 2,
        }
    ).with_columns(pl.col("user name").replace("u7", None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    log().write_parquet(folder / "log.parquet")
    text = log().with_columns(
        pl.col("genres").list.drop_nulls().list.join("|"), pl.col("at").dt.to_string("iso:strict")
    )
    text.write_csv(folder / "log.csv")
    (folder / "schema.toml").write_text(SCHEMA)
    return folder


def columns(folder, **changes):
    loaded = vars(Columns.load(str(folder / "schema.toml")))
    return Columns(**{**loaded, **changes})


@pytest.fixture(scope="module")
def data(folder):
    prepare(Table((str(folder / "log.parquet"),), columns(folder)), folder / "data")
    return Dataset(folder / "data")


@pytest.fixture(scope="module")
def run(data, folder):
    train_run(Config(str(data.folder), dim=4, batch_size=50, epochs=8, lr=0.01), folder / "run")
    return load_run(folder / "run")


def test_lists_times_and_weights_reach_the_batches(data):
    raw, names = log(), {table.name: number for number, table in enumerate(data.schema.tables)}
    assert list(names) == ["user name", "Größe", "at hour", "at weekday", "genres"]
    assert data.schema.dense == ("price", "paid", "at order")
    batches = [batch for part in ("train", "test", "validation") for batch in data.part(part).batches(500)]
    ids, dense, weight = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("ids", "dense", "weight"))
    values = [pl.read_parquet(data.dictionary(number))["value"].to_list() for number in range(5)]
    read = [None, "?"]
    for row, own in enumerate(raw.iter_rows(named=True)):
        assert ([*read, *values[0]][ids[row, 0]]) == own["user name"]
        assert ([*read, *values[2]][ids[row, 2]]) == str(own["at"].hour)
        assert ([*read, *values[3]][ids[row, 3]]) == str(own["at"].isoweekday())
        genres = [each for each in own["genres"] or [] if each][:3]
        found = ids[row, 4:].tolist()
        assert [values[4][each - 2] for each in found if each != NOTHING] == genres
        assert found[len(genres) :] == [NOTHING] * (3 - len(genres))
        assert dense[row, :2].tolist() == [float(own["price"]), float(own["paid"])]
        assert weight[row] == own["w"]
    years = (raw["at"] - datetime.datetime(1970, 1, 1)).dt.total_microseconds() / 86_400e6 / 365.25 - 50
    assert dense[:, 2].numpy() == pytest.approx(years.to_numpy(), abs=1e-5)
    counts = data.counts("genres")[2:]
    train = raw.head(data.part("train").rows)["genres"]
    train = train.list.drop_nulls().list.head(3).list.explode().drop_nulls().value_counts()
    assert dict(zip(values[4], counts.tolist(), strict=True)) == dict(train.iter_rows())


def test_csv_hashes_and_workers_give_the_same_rows(data, folder, tmp_path):
    prepare(Table((str(folder / "log.csv"),), columns(folder)), tmp_path / "csv")
    for path in data.folder.rglob("*.arrow"):
        assert path.read_bytes() == (tmp_path / "csv" / path.relative_to(data.folder)).read_bytes()
    prepare(Table((str(folder / "log.parquet"),), columns(folder)), tmp_path / "hash", Options(ids="hash"))
    plain, hashed = (next(iter(each.part("train").batches(300))).ids for each in (data, Dataset(tmp_path / "hash")))
    assert torch.equal(plain == NOTHING, hashed == NOTHING)
    assert len(torch.unique(hashed[:, 0])) == len(torch.unique(plain[:, 0]))


def test_a_run_learns_scores_predicts_and_is_exported(run, folder, tmp_path):
    frame = log(300, seed=1)
    assert run.evaluate().auc > 0.75  # genre a, one label in ten turned
    scorer = Scorer(run)
    assert scorer.names == ("price", "paid", "at", "user name", "Größe", "genres")
    plain = frame.drop("clicked", "w").with_columns(pl.col("Größe").cast(pl.String), pl.col("price").cast(pl.Float64))
    whole = scorer.score(plain)
    records = scorer.score(plain.to_dicts())
    assert whole == pytest.approx(records, abs=1e-6)
    frame.write_parquet(tmp_path / "new.parquet")
    predict_file(run.folder, tmp_path / "new.parquet", tmp_path / "scores.parquet")
    assert pl.read_parquet(tmp_path / "scores.parquet")["score"].to_numpy() == pytest.approx(whole, abs=1e-6)
    (exported,) = export_run(run.folder, {"pt2": tmp_path / "ship" / "model.pt2"})
    lists = json.loads((tmp_path / "ship" / "signature.json").read_text())["inputs"][1]["lists"]
    assert lists == [{"name": "genres", "first_column": 4, "columns": 3, "pool": "mean", "no_id": NOTHING}]
    batch = next(iter(run.dataset().part("test").batches(40)))
    found = torch.export.load(exported.path).module()(batch.dense, batch.ids)
    with torch.no_grad():
        torch.testing.assert_close(found, run.model.eval()(batch.dense, batch.ids).sigmoid(), rtol=1e-5, atol=1e-6)


def test_the_notebook_takes_them_too():
    model = ClickModel(dim=4, epochs=2, batch_size=50)
    wanted = {"label": "clicked", "categorical": ["user name"], "times": ["at"], "lists": ["genres"], "weight": "w"}
    model = model.fit(log(), **wanted)
    assert np.isfinite(model.predict_proba(log(20))).all()


def test_a_weight_of_zero_is_no_row(folder, tmp_path):
    """Rows without weight do not change what is learned, within the rounding of sums."""
    kept = log().with_columns(w=pl.Series(np.arange(ROWS) % 2, dtype=pl.Float64))
    kept.write_parquet(tmp_path / "weighted.parquet")
    prepare(Table((str(tmp_path / "weighted.parquet"),), columns(folder)), tmp_path / "data")
    train = Dataset(tmp_path / "data").part("train")
    batch = next(iter(train.batches(100)))
    from tablefold.train.loop import _mean_loss

    logits = torch.linspace(-1, 1, 100)
    chosen = batch.weight == 1
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits[chosen], batch.label[chosen])
    torch.testing.assert_close(_mean_loss(logits, batch), plain)


def test_by_time_divides_at_a_date(folder, tmp_path, capsys):
    raw = log()
    at = {"split": "by-time", "time": "at", "test_from": "2024-04-25T12:00"}
    schema = prepare(Table((str(folder / "log.parquet"),), columns(folder, **at)), tmp_path / "data")
    before = int((raw["at"] < datetime.datetime(2024, 4, 25, 12)).sum())
    assert schema.parts["train"].rows == before
    assert schema.parts["test"].rows - schema.parts["validation"].rows in (0, 1)
    command = ["prepare", "table", str(folder / "log.parquet"), "--schema", str(folder / "schema.toml")]
    command += ["--split", "by-time", "--time", "at", "--test-from", "2024-04-25T12:00", "--out", str(tmp_path / "cli")]
    assert main(command) == 0
    assert f"train {before:,}" in capsys.readouterr().out
    raw.sort("at", descending=True).write_parquet(tmp_path / "reversed.parquet")
    for file, changes, words in [
        ("reversed.parquet", at, "not in the order of 'at'"),
        ("log.parquet", at | {"test_from": "2030-01-01"}, "choose a date in the log"),
    ]:
        path = next(each / file for each in (tmp_path, folder) if (each / file).exists())
        with pytest.raises(ValueError, match=words):
            prepare(Table((str(path),), columns(folder, **changes)), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"w": [-1.0]}, "field w is no weight"),
        ({"at": ["soon"]}, "field at is no date or time: 'soon'"),
        ({"price": ["dear"]}, "field price is not a finite number"),
    ],
)
def test_a_bad_value_is_a_reject(folder, tmp_path, changes, words):
    frame = log()
    name, (value,) = next(iter(changes.items()))
    text = frame.with_columns(pl.col(name).cast(pl.String))
    text = text.with_columns(
        pl.when(pl.int_range(pl.len()) == 5).then(pl.lit(str(value))).otherwise(pl.col(name)).alias(name)
    )
    text.write_parquet(tmp_path / "log.parquet")
    schema = prepare(
        Table((str(tmp_path / "log.parquet"),), columns(folder)), tmp_path / "data", Options(max_rejects=0.1)
    )
    assert schema.rejected == 1
    assert schema.rows == ROWS - 1
    assert words in pl.read_parquet(tmp_path / "data" / "rejects.parquet")["reason"].item()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pl.Series("genres", [[["a"]]] * ROWS), "'genres' is of type List"),
        (pl.Series("user name", [["a"]] * ROWS), "lists of them under lists"),
        (pl.Series("user name", [{"a": 1}] * ROWS), "is of type Struct"),
        (pl.Series("at", [datetime.timedelta(1)] * ROWS), "is of type Duration"),
        (pl.Series("user name", [b"x"] * ROWS), "is of type Binary"),
    ],
)
def test_nested_types_are_refused_in_one_line(folder, tmp_path, column, words):
    log().with_columns(column).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=words) as error:
        prepare(Table((str(tmp_path / "log.parquet"),), columns(folder)), tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('lists = ["user name"]', "names a column twice"),
        ("list_length = 0", "length 0 must be 1"),
        ('pool = "max"', "must be mean or sum"),
        ('time = "at"', 'split = "by-time" goes with'),
        ('split = "by-time"\ntime = "at"\ntest_from = "soon"', "'soon' is no date"),
        ('list_length = "3"', "list_length must be a number"),
    ],
)
def test_bad_schemas(folder, line, words):
    key = line.partition(" ")[0]
    kept = [each for each in SCHEMA.splitlines() if not each.startswith(f"{key} ")]
    (folder / "bad.toml").write_text("\n".join([*kept, line]))
    with pytest.raises(ValueError, match=words):
        Columns.load(str(folder / "bad.toml"))


def test_times_are_read_as_they_come():
    texts = [
        "2024-02-29T23:59:58.5Z",
        "2024-02-29 23:59",
        "2024-02-29",
        "1709251198",
        "1709251198000",
        "2024-02-30",
        "",
    ]
    found = parse_times(pl.Series([*texts, None])).to_list()
    late = datetime.datetime(2024, 2, 29, 23, 59)
    assert found[0] == late + datetime.timedelta(seconds=58.5)
    assert found[1] == late
    assert found[2] == datetime.datetime(2024, 2, 29)
    assert found[3] == found[4] == datetime.datetime(2024, 2, 29, 23, 59, 58)
    assert found[5:] == [None, None, None]


def test_a_schema_is_proposed_and_used(tmp_path, capsys):
    frame = log().with_columns(session=pl.format("s{}", pl.int_range(pl.len())), inner=pl.Series([[["a"]]] * ROWS))
    frame = frame.rename({"w": "weight"}).drop("paid")
    frame.write_parquet(tmp_path / "log.parquet")
    assert main(["describe", str(tmp_path / "log.parquet")]) == 0
    shown = capsys.readouterr().out
    assert 'label = "clicked"' in shown
    assert 'times = ["at"]' in shown
    assert 'lists = ["genres"]' in shown
    assert 'weight = "weight"' in shown
    assert "left out: 1,400 values in 1,400 rows" in shown
    (tmp_path / "schema.toml").write_text(shown)
    kept = Columns.load(str(tmp_path / "schema.toml"))
    assert (kept.categorical, kept.dense) == (("user name", "Größe"), ("price",))
    assert main(["prepare", "table", str(tmp_path / "log.parquet"), "--out", str(tmp_path / "data")]) == 0
    assert shown.strip() in capsys.readouterr().out
    assert Dataset(tmp_path / "data").schema.rows == ROWS
    frame.drop("clicked").write_parquet(tmp_path / "none.parquet")
    assert main(["describe", str(tmp_path / "none.parquet")]) == 2
    assert "no column holds 0 and 1" in capsys.readouterr().err


def test_a_column_that_tells_rows_apart_must_be_confirmed(tmp_path):
    frame = log().with_columns(session=pl.format("s{}", pl.int_range(pl.len())))
    frame.write_parquet(tmp_path / "log.parquet")
    source = Table((str(tmp_path / "log.parquet"),), Columns("clicked", ("session", "Größe")))
    with pytest.raises(ValueError, match="the column 'session' has 1,200 values in 1,200 rows"):
        prepare(source, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    confirmed = Table(source.files, Columns("clicked", ("session", "Größe"), confirmed=("session",)))
    assert prepare(confirmed, tmp_path / "data").tables[0].rows == 1202


def test_negatives_that_were_left_out_are_made_up_for(tmp_path):
    random = np.random.default_rng(0)
    group = random.integers(0, 4, 14_000)
    label = (random.random(14_000) < np.array([0.02, 0.05, 0.1, 0.2])[group]).astype(int)
    pl.DataFrame({"clicked": label, "group": group, "other": group % 2}).write_parquet(tmp_path / "log.parquet")
    source = Table((str(tmp_path / "log.parquet"),), Columns("clicked", ("group", "other")))
    whole = prepare(source, tmp_path / "whole")
    kept = prepare(source, tmp_path / "kept", Options(keep_negatives=0.2))
    again = prepare(source, tmp_path / "again", Options(keep_negatives=0.2, ids="hash"))
    assert kept.parts["train"].positives == whole.parts["train"].positives
    share = (kept.parts["train"].rows - kept.parts["train"].positives) / (
        whole.parts["train"].rows - whole.parts["train"].positives
    )
    assert share == pytest.approx(0.2, abs=0.02)
    assert again.parts["train"].rows == kept.parts["train"].rows
    assert kept.parts["test"].rows == whole.parts["test"].rows
    assert Dataset(tmp_path / "kept").schema.negatives_kept == 0.2
    config = {"dim": 4, "model": "neumf", "model_options": {"top_mlp": [8]}, "batch_size": 50, "epochs": 6, "lr": 0.01}
    result = train_run(Config(str(tmp_path / "kept"), **config), tmp_path / "run")
    assert result["calibration"] == pytest.approx(1, abs=0.15)
    with pytest.raises(ValueError, match="--keep-negatives 0 must be a share above 0"):
        Options(keep_negatives=0)
