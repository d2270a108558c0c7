"""`tablefold.Scorer`: raw values become the ids of preparation, and their scores those of `predict`."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime

import numpy as np
import pandas
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raw_logs import criteo_lines
from tablefold import Scorer
from tablefold.data import Dataset
from tablefold.data.avazu import FIELDS, TABLES, Avazu
from tablefold.data.criteo import DENSE, Criteo
from tablefold.data.criteo import TABLES as HEX_TABLES
from tablefold.data.lines import MAX_DIGITS
from tablefold.data.preparation import Options, prepare
from tablefold.data.schema import PARTS
from tablefold.data.table import Columns, Table
from tablefold.train import Config, load_run, train_run

COLUMNS = Columns("clicked", ("user", "city", "day", "big"), dense=("age",), counts=("visits",))
HOSTILE = ["", " ", "null", "NaN", "0", "-0", "1.0", "a\tb", "c\nd", "e\r", '"', ",", "a\0b", "Ż" * 90, "x" * 5000, "'"]
OPTIONS = {"dictionary": Options(min_count=2), "hash": Options(ids="hash")}
SETTINGS = {"dim": 4, "batch_size": 60, "model": "dcn_v2", "model_options": {"deep_mlp": [96, 96]}, "device": "cpu"}


def log(rows=420, seed=0):
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "clicked": random.integers(0, 2, rows),
            "user": [random.choice([*HOSTILE, "ann", f"u{n % 50}"]) for n in range(rows)],
            "city": random.integers(-5, 20, rows),
            "day": [date(2026, 1, 1 + int(day)) for day in random.integers(0, 9, rows)],
            "big": random.choice([0.1, 1e22, -0.0, 7.0, 1e-7], rows),
            "age": random.normal(0, 50, rows),
            "visits": [random.choice([None, -1, 7, 123456789]) for _ in range(rows)],
        }
    )


@pytest.fixture(scope="module", params=["dictionary", "hash"])
def trained(request, tmp_path_factory):
    """A run on a table, its dataset, and the log that it was prepared from."""
    folder = tmp_path_factory.mktemp(request.param)
    log().write_parquet(folder / "log.parquet")
    prepare(Table((str(folder / "log.parquet"),), COLUMNS), folder / "data", OPTIONS[request.param])
    method = {"dictionary": {"method": "qr"}, "hash": {"method": "robe:block=4", "budget": 4000}}[request.param]
    train_run(Config(str(folder / "data"), **SETTINGS, **method), folder / "run")
    return folder


@pytest.fixture(scope="module")
def scorer(trained):
    return Scorer(trained / "run", "cpu")


def encoded(scorer, data):
    pieces = list(scorer.encode(data))
    return np.concatenate([each.dense for each in pieces]), np.concatenate([each.ids for each in pieces])


def prepared(folder):
    """Dense columns and ids of all rows of the log, as preparation wrote them."""
    batches = [batch for part in PARTS for batch in Dataset(folder / "data").part(part).batches(4096)]
    dense, ids = (np.concatenate([each[place].numpy() for each in batches]) for place in (0, 1))
    return dense, ids


def in_order(folder):
    """Rows of the log in the order of the parts: the first 6/7 train, then test and validation alternate."""
    dense, ids = prepared(folder)
    return {(*row.tolist(), *numbers.tolist()) for row, numbers in zip(ids, dense, strict=True)}


FORMS = {
    "records": lambda frame: frame.to_dicts(),
    "dict": lambda frame: frame.to_dict(as_series=False),
    "polars": lambda frame: frame,
    "arrow": lambda frame: frame.to_arrow(),
    "large": lambda frame: pl.concat([frame] * 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_those_of_preparation(trained, scorer, form):
    dense, ids = encoded(scorer, FORMS[form](log()))
    assert {(*row.tolist(), *numbers.tolist()) for row, numbers in zip(ids, dense, strict=True)} == in_order(trained)


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_the_file(trained, scorer, form):
    expected = np.concatenate([piece.probability for piece in scorer.score_file(trained / "log.parquet")])
    assert expected.std() > 1e-4
    scores = scorer.score(FORMS[form](log()))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[: len(expected)], expected, rtol=1e-5)


def test_a_pandas_frame_will_do(scorer):
    frame = log()
    given = pandas.DataFrame(frame.to_dict(as_series=False))
    np.testing.assert_allclose(scorer.score(given), scorer.score(frame), rtol=1e-5)


values = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(codec="utf-8"), max_size=140),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.none(),
    st.dates(),
)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_record_is_read_as_a_column_of_its_type(scorer, data):
    """Each value by itself, whatever stands beside it, as polars reads a frame of one row."""
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS.names[1:], values)), min_size=1, max_size=4))
    (together,) = scorer.encode(rows)
    read = iter(zip(together.dense, together.ids, strict=True))
    reasons = iter(reject[2] for reject in together.rejects)
    for row, fits in zip(rows, together.fits, strict=True):
        frame = pl.DataFrame([pl.Series(name, [value]) for name, value in row.items()])
        expected = next(scorer.encoder.read_frame(pl.concat([frame] * 1001), "it"))  # the slow way
        (one,) = scorer.encode([row])
        assert one.fits[0] == expected.fits[0] == fits
        if fits:
            dense, ids = next(read)
            assert one.dense.tobytes() == expected.dense[:1].tobytes() == dense.tobytes()
            assert one.ids.tolist() == expected.ids[:1].tolist() == [ids.tolist()]
        else:
            assert one.rejects[0][2] == expected.rejects[0][2] == next(reasons)


def test_unseen_and_missing_values_have_ids_of_their_own(trained, scorer):
    if "dictionary" not in trained.name:
        return
    base = log(1).drop("clicked").to_dicts()[0]
    _, ids = encoded(scorer, [base, {**base, "user": None}, {**base, "user": ""}, {**base, "user": "never seen"}])
    assert ids[:, 0].tolist()[1:] == [0, 0, 1]
    assert scorer.score([{**base, "visits": None}]) == scorer.score([{**base, "visits": -3}])


def test_threads_get_the_scores_of_one(scorer):
    frame = log(200)
    pieces = [frame[start : start + 10].to_dicts() for start in range(0, 200, 10)]
    expected = [scorer.score(piece) for piece in pieces]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert all(map(np.array_equal, pool.map(scorer.score, pieces), expected))


def test_look_up_tables_in_a_folder_are_shared(trained, scorer, tmp_path):
    first = Scorer(trained / "run", "cpu", work=tmp_path)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = Scorer(trained / "run", "cpu", work=tmp_path, built=True)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    for each in (first, second):
        assert np.array_equal(each.score(log(50)), scorer.score(log(50)))
        assert each.encoder.lookup_bytes == scorer.encoder.lookup_bytes


def _integer(text):
    return int(text) if re.fullmatch("-?[1-9][0-9]*", text) else text


@pytest.mark.parametrize("kind", ["criteo", "avazu"])
def test_records_of_the_logs_with_formats_of_their_own(tmp_path, kind):
    random = np.random.default_rng(0)
    if kind == "criteo":
        names = [*DENSE, *HEX_TABLES]
        lines = criteo_lines(420, values=50)
        (tmp_path / "log").write_text("\n".join(lines) + "\n")
        source, rows = Criteo((str(tmp_path / "log"),)), [line.split("\t")[1:] for line in lines]
    else:
        names = list(TABLES)
        rows = [
            [f"141021{random.integers(0, 24):02d}", "1005", str(random.integers(0, 3))]
            + [f"{random.integers(0, 2**32):08x}"[: random.integers(0, 9)] for _ in range(9)]
            + [str(number) for number in random.integers(-3, 40, 10)]
            for _ in range(420)
        ]
        clicked = [",".join(["7", str(number % 2), *row]) for number, row in enumerate(rows)]
        lines = [",".join(field.name for field in FIELDS), *clicked]
        (tmp_path / "log").write_text("\n".join(lines) + "\n")
        source = Avazu((str(tmp_path / "log"),))
    prepare(source, tmp_path / "data")
    train_run(Config(str(tmp_path / "data"), **SETTINGS), tmp_path / "run")
    scorer = Scorer(tmp_path / "run", "cpu")
    expected = np.concatenate([piece.probability for piece in scorer.score_file(tmp_path / "log")])
    typed = [[None if text == "" else _integer(text) for text in row] for row in rows]
    records = [dict(zip(names, row, strict=True)) for row in typed]
    np.testing.assert_allclose(scorer.score(records), expected, rtol=1e-5)
    np.testing.assert_allclose(scorer.score(pl.DataFrame(rows, names, orient="row")), expected, rtol=1e-5)
    place = names[0]
    wrong = ["x", 1.5, "1\t2", "1,2", "3\n", "4\r", "9" * (MAX_DIGITS + 1), 10**30, True, float("nan")]
    scores = scorer.score([*({**records[0], place: value} for value in wrong), {**records[0], place: 3.0}])
    assert np.isnan(scores).tolist() == [True] * len(wrong) + [False]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no record to score"),
        ([{"user": "a"}], "record 1 has no value of 'age'; give None"),
        ([5], "record 1 is 5; it must be a dict"),
        (["x" * 9999], "record 1 is 'x"),
        ({"user": ["a"]}, "the data frame has no column 'age'; it has user"),
        ({"user": []}, "no rows"),
        ({}, "no rows"),
        (None, "data is a NoneType"),
        (pl.DataFrame(), "has no rows"),
        (log(3).drop("city"), "the data frame has no column 'city'"),
        ([{**log(1).to_dicts()[0], "user": ["a", "b"]}], "column 'user' has a value that is a list of 2"),
        ([{**log(1).to_dicts()[0], "user": {"a": 1}}], "column 'user' has a value that is an object of 1"),
        ([{**log(1).to_dicts()[0], "user": b"raw"}], "column 'user' has a value that is of type bytes"),
        ([{**log(1).to_dicts()[0], "user": object()}], "column 'user' has a value that is of type object"),
        ([{**log(1).to_dicts()[0], "user": "\ud800"}], "surrogates"),
        ([{**log(1).to_dicts()[0], "user": np.zeros(2)}], "column 'user' has a value"),
    ],
)
def test_mistakes_are_one_line(scorer, data, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        scorer.score(data)
    assert "\n" not in str(caught.value)


def test_values_of_other_libraries_are_read(scorer):
    base = log(1).to_dicts()[0]
    plain = scorer.score([{**base, "city": 3, "age": 0.5, "day": "2026-01-02"}])
    for change in ({"city": np.int64(3)}, {"age": np.float32(0.5)}, {"day": date(2026, 1, 2)}, {"age": "0.5"}):
        assert scorer.score([{**base, "city": 3, "age": 0.5, "day": "2026-01-02", **change}]) == plain
    assert not np.isnan(scorer.score([{**base, "day": datetime(2026, 1, 2, 3, 4), "user": True}])).any()


def test_packed_layers_compute_what_torch_computes(trained):
    run = load_run(trained / "run")
    scorer = Scorer(run, "cpu")
    for rows in (1, 7, 8, 300):
        (piece,) = scorer.encode(log(rows, seed=5))
        with torch.inference_mode():
            expected = run.model(torch.from_numpy(piece.dense), torch.from_numpy(piece.ids)).sigmoid().numpy()
        np.testing.assert_allclose(scorer.score_encoded(piece, "", 1).probability, expected, rtol=1e-5)
    assert sum(type(layer).__name__ == "_PackedLinear" for layer in scorer._model.modules()) >= 1
    assert all(type(layer).__name__ != "_PackedLinear" for layer in run.model.modules())
