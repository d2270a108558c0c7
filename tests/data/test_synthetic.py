import json
import math
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from raw_logs import read_dictionary, tree
from tablefold.cli import main
from tablefold.data import Dataset, synthetic
from tablefold.data.best import BestReachable
from tablefold.data.criteo import FIELDS, Criteo
from tablefold.data.description import describe_tables, plot_frequencies
from tablefold.data.lines import HEX, INTEGER, LABEL, MAX_DIGITS, MISSING, format_lines, hex_text, parse_lines
from tablefold.data.preparation import Options, prepare
from tablefold.data.room import free_disk, free_memory
from tablefold.data.schema import PARTS
from tablefold.data.split import Split
from tablefold.data.synthetic import PRESETS, Synthetic, generate

integers = st.one_of(st.just(MISSING), st.integers(-(10**MAX_DIGITS) + 1, 10**MAX_DIGITS - 1))
texts = st.text("0123456789abcdef", min_size=1, max_size=8)


def key(text):
    return int(text.ljust(8, "0"), 16) << 4 | len(text)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from([0, 1]), integers, texts), min_size=1, max_size=20))
def test_parsing_inverts_formatting(rows):
    """For one field of every kind; the last may not be missing with nothing else, or the line would be blank."""
    kinds = (LABEL, INTEGER, HEX)
    fields = [next(field for field in FIELDS if field.kind == kind) for kind in kinds]
    values = np.array([[label, integer, key(text)] for label, integer, text in rows], dtype=np.int64).T
    parsed = parse_lines(np.frombuffer(format_lines(values, "\t", fields), np.uint8), "\t", fields)
    assert parsed.rejects == []
    assert (parsed.values == values).all()
    assert [text.decode() for text in hex_text(values[2])] == [text for _, _, text in rows]


@given(first=texts, second=texts)
def test_hex_keys_sort_as_their_texts(first, second):
    assert (key(first) < key(second)) == (first < second)


def test_text_and_prepared_are_the_same_log(tmp_path):
    source = Synthetic(70_000, seed=3)
    best = generate(source, tmp_path / "log.txt")
    assert json.loads((tmp_path / "log.txt.best.json").read_text()) == best
    schema = prepare(Criteo((str(tmp_path / "log.txt"),)), tmp_path / "a")
    direct = prepare(source, tmp_path / "b")
    assert schema.best == direct.best == best == Dataset(tmp_path / "a").schema.best
    for part in PARTS:
        for a, b in zip(*(Dataset(tmp_path / out).part(part).batches(9999) for out in "ab"), strict=True):
            for first, second in zip(a, b, strict=True):
                assert (first == second).all()


def test_seed_decides_everything(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(Synthetic(500, seed=seed), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_longer_log_begins_like_a_shorter_one(monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 100)
    short, long = (Synthetic(rows).shards()[:3] for rows in (300, 900))
    for a, b in zip(short, long, strict=True):
        assert (Synthetic(300).draw(a).values == Synthetic(900).draw(b).values).all()


def test_best_is_what_the_probabilities_reach():
    random = np.random.default_rng(0)
    probability = random.beta(1, 2, 7000)
    label = (random.random(7000) < probability).astype(int)
    best = BestReachable(Split.by_order(7000))
    for piece in np.split(np.arange(7000), [10, 6500]):
        best.add(label[piece], probability[piece])
    bounds = Split.by_order(7000).bounds
    for part, first, last in zip(PARTS, bounds[:-1], bounds[1:], strict=True):
        cut = slice(first, last)
        assert best.result()[part]["logloss"] == pytest.approx(log_loss(label[cut], probability[cut]))
        assert best.result()[part]["auc"] == pytest.approx(roc_auc_score(label[cut], probability[cut]), abs=1e-4)


def test_labels_follow_the_known_probability():
    """The mean of (label - p) / sqrt(p (1 - p)) over n rows has standard deviation 1 / sqrt(n)."""
    source = Synthetic(60_000)
    chunk = source.draw(source.shards()[0])
    p = chunk.probability
    deviation = (chunk.values[0] - p) / np.sqrt(p * (1 - p))
    assert abs(deviation.mean()) < 4 / math.sqrt(len(p))
    assert 0.2 < p.mean() < 0.5


def test_presets_have_the_real_cardinalities():
    assert sum(PRESETS["criteo-kaggle"].rows) == 33_762_577
    assert sum(PRESETS["criteo-tb"].rows) == 882_774_559
    assert all(len(preset.rows) == 26 for preset in PRESETS.values())
    source = Synthetic(20_000, preset="criteo-kaggle")
    keys = source.read(source.shards()[0]).keys
    assert len(np.unique(keys[2])) > 3_000  # C3: ten million values
    assert len(np.unique(keys[8])) == 3  # C9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "--rows 0 must be at least 1"),
        ({"length": 1, "seed": -1}, "--seed -1 must not be negative"),
        ({"length": 1, "preset": "huge"}, "--preset 'huge': choose one of small, criteo-kaggle, criteo-tb"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        Synthetic(**arguments)


def test_description(tmp_path):
    prepare(Synthetic(5000), tmp_path / "out")
    tables = describe_tables(tmp_path / "out", dim=8)
    assert [table.name for table in tables] == [f"C{column}" for column in range(1, 27)]
    for table in tables:
        counts = read_dictionary(tmp_path / "out", table.name)["count"].to_numpy()
        assert table.rows == len(counts) + 2
        assert table.once == pytest.approx((counts == 1).mean())
        assert table.head == pytest.approx(counts[:10].sum() / Dataset(tmp_path / "out").schema.parts["train"].rows)
        assert table.num_bytes == table.rows * 8 * 4
        ranks, curve = table.curve
        assert (curve == counts[ranks - 1]).all()
        assert ranks[0] == 1
        assert ranks[-1] == len(counts)
    plot_frequencies(tables, tmp_path / "curves.svg")
    picture = (tmp_path / "curves.svg").read_text()
    assert picture.count("<path") > 26
    prepare(Synthetic(500), tmp_path / "hash", Options(ids="hash"))
    assert {table.curve for table in describe_tables(tmp_path / "hash", dim=8)} == {None}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("curves", "its ending does not say which kind of picture: name a .png or .svg"),
        (".png", "its ending does not say which kind of picture: name a .png or .svg"),
        ("curves.what", "its ending does not say which kind of picture: name a .png or .svg"),
        ("folder.png", "is a folder; name a file"),
    ],
)
def test_a_picture_is_written_under_its_own_name_or_not_at_all(tmp_path, capsys, name, message):
    prepare(Synthetic(500), tmp_path / "out")
    (tmp_path / "folder.png").mkdir()
    before = tree(tmp_path)
    assert main(["describe", str(tmp_path / "out"), "--picture", str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"tablefold describe: {tmp_path / name}{' ' if 'folder' in name else ': '}{message}\n"
    assert tree(tmp_path) == before
    assert main(["describe", str(tmp_path / "out"), "--picture", str(tmp_path / "curves.PNG")]) == 0
    assert set(tree(tmp_path)) - set(before) == {"curves.PNG"}


def test_a_log_replaces_nothing(tmp_path):
    for name in ("log", "log.best.json"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(ValueError, match=rf"{name} is there already; name a new file or remove it first"):
            generate(Synthetic(100), tmp_path / "log")
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()


@pytest.mark.parametrize("rows", [10**30, 10**9])
@pytest.mark.parametrize("prepared", [False, True])
def test_more_rows_than_the_disk_holds_are_refused_before_the_first(tmp_path, monkeypatch, rows, prepared):
    monkeypatch.setattr("tablefold.data.synthetic.free_disk", lambda path: 10**9)
    source, out = Synthetic(rows), tmp_path / "log"
    most = 10**9 // (157 if prepared else 260)
    with pytest.raises(ValueError, match=rf"would take about .* and 1 GB are free .*: write at most {most:,} rows"):
        prepare(source, out) if prepared else generate(source, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_the_bytes_of_a_row_are_estimated(preset):
    chunk = Synthetic(20_000, preset=preset)
    size = len(format_lines(chunk.draw(chunk.shards()[0]).values, "\t", FIELDS))
    assert size / 20_000 == pytest.approx(synthetic.RAW_ROW_BYTES, rel=0.03)


def test_free_disk_of_a_place_that_is_to_be(tmp_path):
    assert free_disk(tmp_path / "a" / "b") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
