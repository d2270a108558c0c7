"""Tomorrow's log: the ids of an earlier dataset stay, new values come behind."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from raw_logs import criteo_lines, read_dictionary, tree
from tablefold.cli import main
from tablefold.data import Dataset
from tablefold.data.criteo import Criteo
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.data.preparation import Options, prepare
from tablefold.data.synthetic import Synthetic
from tablefold.data.table import Columns, Table
from tablefold.tables import NOTHING

COLUMNS = Columns("clicked", ("city",), dense=("age",), lists=("tags",), list_length=3)


def write_criteo(folder, name, seed, rows=420):
    file = folder / f"{name}.txt"
    file.write_text("\n".join(criteo_lines(rows, seed)) + "\n")
    return file


def days(folder, **options):
    """Two days of Criteo's lines, the second extending the first."""
    for number, name in enumerate(("one", "two")):
        file = write_criteo(folder, name, seed=number)
        extend = str(folder / "out-one") if number else None
        prepare(Criteo((str(file),)), folder / f"out-{name}", Options(extend=extend, **options))
    return folder / "out-one", folder / "out-two"


@pytest.mark.parametrize("options", [{}, {"min_count": 2}, {"memory": 1}, {"workers": 2}])
def test_old_values_keep_their_ids_and_new_ones_come_behind(tmp_path, small_shards, options):
    one, two = days(tmp_path, **options)
    lines = [line.split("\t") for line in (tmp_path / "two.txt").read_text().splitlines()]
    train = Dataset(two).schema.parts["train"].rows
    for place, table in enumerate(Dataset(two).schema.tables):
        old, new = (read_dictionary(folder, table.name) for folder in (one, two))
        assert new["value"].to_list()[: len(old)] == old["value"].to_list()
        count = Counter(line[14 + place] for line in lines[:train] if line[14 + place])
        known, least = set(old["value"]), options.get("min_count", 1)
        fresh = sorted((v for v in count if v not in known and count[v] >= least), key=lambda v: (-count[v], v))
        assert new["value"].to_list()[len(old) :] == fresh
        assert new["count"].to_list() == [count[value] for value in new["value"]]
        assert table.rows == 2 + len(new)


def test_rows_are_encoded_by_the_extended_dictionaries(tmp_path):
    _, two = days(tmp_path)
    line = (tmp_path / "two.txt").read_text().splitlines()[0].split("\t")
    ids = next(Dataset(two).part("train").batches(1)).ids[0].tolist()
    for place, value in enumerate(line[14:]):
        values = read_dictionary(two, f"C{place + 1}")["value"].to_list()
        assert ids[place] == (2 + values.index(value) if value else 0)


def test_the_earlier_dataset_stays_as_it_is_and_the_bytes_do_not_depend_on_workers(tmp_path):
    one, two = days(tmp_path)
    before = tree(one)
    again = tmp_path / "again"
    prepare(Criteo((str(tmp_path / "two.txt"),)), again, Options(extend=str(one), workers=2))
    assert tree(one) == before
    assert tree(again) == tree(two)


def table(folder, name, cities, tags):
    rows = len(cities)
    frame = pl.DataFrame(
        {"clicked": [0, 1] * (rows // 2), "city": cities, "age": [1.5] * rows, "tags": tags},
        schema_overrides={"tags": pl.List(pl.String)},
    )
    frame.write_parquet(folder / f"{name}.parquet")
    return Table((str(folder / f"{name}.parquet"),), COLUMNS)


def test_texts_and_lists(tmp_path):
    first = table(tmp_path, "one", ["rome", "paris"] * 7, [["a", "b"]] * 14)
    second = table(tmp_path, "two", ["oslo", "paris"] * 7, [["c"], ["b", "c"]] * 7)
    prepare(first, tmp_path / "data", Options())
    prepare(second, tmp_path / "next", Options(extend=str(tmp_path / "data")))
    old, new = (read_dictionary(tmp_path / name, "city")["value"].to_list() for name in ("data", "next"))
    assert new == [*old, "oslo"]
    assert dict(read_dictionary(tmp_path / "next", "city").iter_rows()) == {"rome": 0, "oslo": 6, "paris": 6}
    assert read_dictionary(tmp_path / "next", "tags")["value"].to_list() == ["a", "b", "c"]
    ids = next(Dataset(tmp_path / "next").part("train").batches(2)).ids
    assert ids[:, 1:].tolist() == [[4, NOTHING, NOTHING], [3, 4, NOTHING]]


def test_the_command_takes_the_schema_of_the_dataset(tmp_path, capsys):
    prepare(table(tmp_path, "one", ["rome", "paris"] * 7, [["a"]] * 14), tmp_path / "data", Options())
    table(tmp_path, "two", ["oslo", "paris"] * 7, [["c"]] * 14)
    words = ["prepare", "table", str(tmp_path / "two.parquet"), "--extend", str(tmp_path / "data")]
    assert main([*words, "--out", str(tmp_path / "next")]) == 0
    assert Dataset(tmp_path / "next").schema.id_columns == Dataset(tmp_path / "data").schema.id_columns
    assert "proposed" not in capsys.readouterr().out


def test_a_drawn_log_is_extended_too(tmp_path):
    prepare(Synthetic(2000, seed=1), tmp_path / "one", Options())
    prepare(Synthetic(2000, seed=1, preset="small"), tmp_path / "two", Options(extend=str(tmp_path / "one")))
    assert read_dictionary(tmp_path / "one", "C3").equals(read_dictionary(tmp_path / "two", "C3"))


def refusals(tmp_path):
    """(what is prepared, options, what is said)."""
    one = str(tmp_path / "one")
    file = str(write_criteo(tmp_path, "log", 3))
    log = Criteo((file,))
    prepare(log, one, Options())
    prepare(log, tmp_path / "hashed", Options(ids="hash"))
    words = table(tmp_path, "words", ["rome", "paris"] * 7, [["a"]] * 14)
    prepare(words, tmp_path / "texts", Options())
    wider = Table(words.files, Columns("clicked", ("city",), counts=("age",), lists=("tags",), list_length=3))
    return [
        (log, {"extend": str(tmp_path / "none")}, "holds no prepared dataset"),
        (log, {"extend": str(tmp_path / "hashed")}, "its ids are hashes"),
        (log, {"extend": one, "ids": "hash"}, "leave out one of them"),
        (log, {"extend": one, "permute_ids": 1}, "leave out --permute-ids"),
        (words, {"extend": one}, "was prepared from 'criteo', this log is 'table'"),
        (wider, {"extend": str(tmp_path / "texts")}, "prepared with dense = age, this schema says none"),
    ]


def test_what_cannot_be_extended_is_refused_in_a_line(tmp_path):
    for source, options, said in refusals(tmp_path):
        with pytest.raises(ValueError, match=said) as error:
            prepare(source, tmp_path / "out", Options(**options))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


def test_values_under_another_secret_are_refused(tmp_path, capsys):
    file = str(write_criteo(tmp_path, "log", 3))
    words = ["prepare", "criteo", file, "--private"]
    assert main([*words, str(tmp_path / "mine"), "--out", str(tmp_path / "one")]) == 0
    assert main([*words, str(tmp_path / "other"), "--out", str(tmp_path / "two"), "--extend", f"{tmp_path}/one"]) == 2
    assert "give the secret of" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "mine"), "--out", str(tmp_path / "two"), "--extend", f"{tmp_path}/one"]) == 0
    assert read_dictionary(tmp_path / "one", "C1")["value"].equals(read_dictionary(tmp_path / "two", "C1")["value"])


def take(folder, name, pairs, extend=None, **options):
    frame = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
    frame.write_parquet(folder / f"{name}.parquet")
    source = Interactions(str(folder / f"{name}.parquet"), "user", "item", **{"negatives": 2, **options})
    return prepare_interactions(source, folder / name, extend=extend)


def some_pairs(users, items, seed, count=300):
    rng = np.random.default_rng(seed)
    pairs = zip(rng.choice(users, count).tolist(), rng.choice(items, count).tolist(), strict=True)
    return list(dict.fromkeys(pairs))


def test_users_and_items_keep_their_ids(tmp_path):
    take(tmp_path, "one", some_pairs(range(30), range(50), 0), history=4)
    schema = take(tmp_path, "two", some_pairs(range(20, 40), range(30, 70), 1), tmp_path / "one", history=4)
    for name in ("user", "item"):
        old, new = (read_dictionary(tmp_path / each, name)["value"].to_list() for each in ("one", "two"))
        assert new[: len(old)] == old
        assert len(new) > len(old)
        assert len(new) == next(table.rows for table in schema.tables if table.name == name)
    values = [read_dictionary(tmp_path / "two", name)["value"] for name in ("user", "item")]
    first, second = (
        {tuple(map(str, p)) for p in pl.read_parquet(tmp_path / f"{n}.parquet").rows()} for n in ("one", "two")
    )
    for part in ("train", "test", "validation"):
        for batch in Dataset(tmp_path / "two").part(part).batches(4096):
            for (user, item), label in zip(batch.ids[:, :2].tolist(), batch.label.tolist(), strict=True):
                pair = values[0][user], values[1][item]
                assert (pair in second) == bool(label)
                assert label or pair not in first, "what was taken before is no negative"


def test_histories_go_on_from_those_before(tmp_path):
    take(
        tmp_path,
        "one",
        [("ann", "a"), ("ann", "b"), ("bob", "c"), ("bob", "d")],
        history=3,
        split="by-user",
        negatives=0,
    )
    take(
        tmp_path,
        "two",
        [("ann", "e"), ("ann", "f"), ("cy", "a")],
        tmp_path / "one",
        history=3,
        split="by-user",
        negatives=0,
    )
    items = read_dictionary(tmp_path / "two", "item")["value"].to_list()
    users = read_dictionary(tmp_path / "two", "user")["value"].to_list()
    known = pl.read_parquet(tmp_path / "two" / "history.parquet")["items"].to_list()
    named = {user: [items[i] for i in row if i != NOTHING] for user, row in zip(users, known, strict=True)}
    before = {u: [items[i] for i in r if i != NOTHING] for u, r in _training(tmp_path / "two", users)}
    first = pl.read_parquet(tmp_path / "one" / "history.parquet")["items"].to_list()
    old = {u: [items[i] for i in r if i != NOTHING] for u, r in zip(users, first, strict=False)}
    assert before["ann"][: len(old["ann"])] == old["ann"]
    assert named["ann"][-len(old["ann"]) :] == old["ann"]
    assert named["bob"] == old["bob"]
    assert "cy" not in old


def _training(folder, users):
    batch = next(Dataset(folder).part("train").batches(1000))
    return [(users[row[0]], row[2:]) for row in batch.ids.tolist()][::-1]


def test_interactions_with_attributes_are_refused(tmp_path):
    take(tmp_path, "one", some_pairs(range(30), range(50), 0))
    frame = pl.read_parquet(tmp_path / "one.parquet").with_columns(age=pl.lit(3))
    frame.write_parquet(tmp_path / "more.parquet")
    more = Interactions(str(tmp_path / "more.parquet"), "user", "item", user_columns=("age",))
    with pytest.raises(ValueError, match="users and items alone"):
        prepare_interactions(more, tmp_path / "out", extend=tmp_path / "one")
    swapped = Interactions(str(tmp_path / "one.parquet"), "item", "user")
    with pytest.raises(ValueError, match="has the columns 'user', 'item'"):
        prepare_interactions(swapped, tmp_path / "out", extend=tmp_path / "one")
    log = Criteo((str(write_criteo(tmp_path, "log", 3)),))
    with pytest.raises(ValueError, match="'interactions', this log is 'criteo'"):
        prepare(log, tmp_path / "out", Options(extend=str(tmp_path / "one")))
