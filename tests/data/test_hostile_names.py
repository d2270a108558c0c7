"""Columns may be called anything: a name is never a path, a pattern or a command to the terminal."""

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hostile_names import NAMES
from raw_logs import criteo_lines, read_dictionary
from tablefold.cli import main
from tablefold.data import Dataset, Schema
from tablefold.data.criteo import Criteo
from tablefold.data.interactions import Interactions, prepare_interactions
from tablefold.data.preparation import prepare
from tablefold.data.schema import PARTS
from tablefold.data.table import Columns, Table

ROWS = 70
LABEL, DENSE = "the label", "the number"
ONE_LINE = tuple(name for name in NAMES if not {"\n", "\r"} & set(name))
"""What the header of a CSV file can hold as it is read for `table`: a line."""


def frame(names):
    """A value of its own for every row and column."""
    columns = {name: [f"{number}:{row % 7}" for row in range(ROWS)] for number, name in enumerate(names)}
    label = np.arange(ROWS) % 2
    return pl.DataFrame({LABEL: label, DENSE: np.arange(ROWS) / 7, **columns})


def write_csv(data, file):
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([data.columns, *data.rows()])


def write_toml(file, names):
    file.write_text(
        f"label = {json.dumps(LABEL)}\ndense = [{json.dumps(DENSE)}]\n"
        f"categorical = [{', '.join(toml_text(name) for name in names)}]\n",
        encoding="utf-8",
    )


def toml_text(text):
    return '"' + "".join(f"\\U{ord(letter):08X}" for letter in text) + '"'


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def check_contained(folder, number, lookups=()):
    """Nothing lies in the dataset but numbered files."""
    expected = {"schema.json", "rejects.parquet", *lookups}
    expected |= {f"dictionary/{place:06d}.parquet" for place in range(number)}
    expected |= {f"{part}/000000.arrow" for part in PARTS}
    assert files(folder) == expected


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder within folders, so that a name that climbs is seen."""
    deep = tmp_path_factory.mktemp("names") / "a" / "b" / "c"
    deep.mkdir(parents=True)
    return deep


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_table(tmp_path, kind):
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    names, file = (NAMES, inside / "log.parquet") if kind == "parquet" else (ONE_LINE, inside / "log.csv")
    frame(names).write_parquet(file) if kind == "parquet" else write_csv(frame(names), file)
    write_toml(inside / "schema.toml", names)
    schema = prepare(Table((str(file),), Columns.load(str(inside / "schema.toml"))), inside / "out")
    assert tuple(table.name for table in Schema.load(inside / "out").tables) == names
    assert schema.parts == Schema.load(inside / "out").parts
    check_contained(inside / "out", len(names))
    assert {path.name for path in inside.iterdir()} == {file.name, "schema.toml", "out"}
    assert all(path.startswith("a/b/c/") for path in files(tmp_path))
    for number, name in enumerate(names):
        assert sorted(read_dictionary(inside / "out", name)["value"]) == [f"{number}:{value}" for value in range(7)]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_interactions(tmp_path, name):
    """As user, item, time, rating and attribute, beside the next names of the list."""
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    at = NAMES.index(name)
    user, item, age, genre, time, stars = (NAMES[(at + step) % len(NAMES)] for step in range(6))
    data = pl.DataFrame(
        {
            user: [f"u{row % 7}" for row in range(ROWS)],
            item: [f"i{row % 10}" for row in range(ROWS)],
            age: [row % 7 % 3 for row in range(ROWS)],
            genre: [f"g{row % 10 % 4}" for row in range(ROWS)],
            time: list(range(ROWS)),
            stars: [5] * ROWS,
            "some other": [0] * ROWS,
        }
    )
    data = data.filter(pl.int_range(ROWS) % 9 > 0)
    data.write_parquet(inside / "log")
    write_csv(data, inside / "log.csv")
    schemas = []
    # In the first place of a CSV file it is a byte-order mark.
    for file, out in (("log", "out"), ("log.csv", "from csv"))[: 1 if user == "\ufeff" else 2]:
        source = Interactions(
            str(inside / file), user, item, negatives=1, split="by-time", time=time, rating=stars, min_rating=1,
            user_columns=(age,), item_columns=(genre,), side_tables=True,
        )  # fmt: skip
        schemas.append(prepare_interactions(source, inside / out))
        check_contained(inside / out, 4, ("lookup/000000.parquet", "lookup/000001.parquet", "lookup/tables.json"))
        assert schemas[-1].lookups == {user: {age: 3}, item: {genre: 4}}
        assert sorted(read_dictionary(inside / out, genre)["value"]) == ["g0", "g1", "g2", "g3"]
        assert pl.read_parquet(inside / out / "lookup" / "000001.parquet").columns == [genre]
    assert schemas[0].parts == schemas[-1].parts
    assert {path.parts[0] for path in map(Path, files(tmp_path))} == {"a"}
    assert {path.name for path in inside.iterdir()} <= {"log", "log.csv", "out", "from csv"}


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name and "\0" not in name], ids=ascii)
def test_files_of_any_name(tmp_path, name):
    """The log and the dataset are called as the column would be; `.` and `..` are folders, long names none."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    if name in (".", "..") or len(name.encode()) > 200:
        return
    (tmp_path / "in" / name).write_text("\n".join(criteo_lines(30)))
    schema = prepare(Criteo((str(tmp_path / "in" / name),)), tmp_path / "out" / name)
    assert Dataset(tmp_path / "out" / name).schema.source["files"][0]["name"] == name
    assert (
        sum(len(batch.label) for part in PARTS for batch in Dataset(tmp_path / "out" / name).part(part).batches(9))
        == 30
    )
    assert schema.rows == 30
    frame(("user", "item")).unique(["user", "item"]).write_parquet(tmp_path / "in" / f"{name}2")
    source = Interactions(str(tmp_path / "in" / f"{name}2"), "user", "item", negatives=0)
    assert prepare_interactions(source, tmp_path / "out" / f"{name}2").rows == 7
    write_toml(tmp_path / "schema.toml", ("user",))
    table = Table((str(tmp_path / "in" / f"{name}2"),), Columns.load(str(tmp_path / "schema.toml")))
    assert prepare(table, tmp_path / "out" / f"{name}3").rows == 7


def rewrite(path, change):
    """Change a JSON file by hand, as somebody else might have."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("layout", [1, 2])
def test_a_name_in_a_schema_is_no_path(tmp_path, name, layout):
    """Also of the layout whose files had names: what a name would lead to outside the folder is never opened."""
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    (inside / "log.txt").write_text("\n".join(criteo_lines(30)))
    prepare(Criteo((str(inside / "log.txt"),)), inside / "out")
    before = files(tmp_path)

    def change(content):
        content["tables"][0]["name"] = name
        content["format"] = layout
        content["lookups"] = {name: {"../../up": 3}}

    rewrite(inside / "out" / "schema.json", change)
    schema = Schema.load(inside / "out")
    refused = []
    for column in schema.columns:
        try:
            file = inside / "out" / schema.dictionary_file(column)
        except ValueError as error:
            refused.append(str(error))
            continue
        assert file.parent.samefile(inside / "out" / "dictionary")
        assert "/" not in file.name
    assert files(tmp_path) == before
    assert all(line.isprintable() for line in refused)
    leads_elsewhere = [column for column in schema.columns if set(column) & set("/\\\0") or column in (".", "..")]
    assert len(refused) == (0 if layout == 2 else len(leads_elsewhere))


@pytest.fixture(scope="module")
def trained(place):
    """A table with every name, prepared and trained on by the command."""
    data, run = place / "data", place / "run"
    frame(NAMES).write_parquet(place / "log.parquet")
    write_toml(place / "schema.toml", NAMES)
    log = str(place / "log.parquet")
    assert main(["prepare", "table", log, "--schema", str(place / "schema.toml"), "--out", str(data)]) == 0
    settings = ["--dim", "2", "--batch-size", "30", "--model", "dcn_v2", "--device", "cpu"]
    assert main(["train", str(data), "--out", str(run), "--method", "qr", *settings]) == 0
    return place


@pytest.mark.parametrize(
    "arguments",
    [
        ["describe", "data"],
        ["describe", "data", "--picture", "curves.svg"],
        ["inspect", "data", "--method", "qr"],
        ["evaluate", "run"],
        ["predict", "run", "log.parquet", "--out", "scores.parquet"],
        ["compare", "run"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_every_command(trained, capsys, monkeypatch, arguments):
    """Exit code 0, files where they were asked for, and nothing that a terminal would obey."""
    top = trained.parents[2]
    before = files(top)
    monkeypatch.chdir(trained)
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert all(line.isprintable() for text in printed for line in text.split("\n"))
    asked = {str((trained / name).relative_to(top)) for name in arguments[-1:] if "." in name}
    assert files(top) - before <= asked
    assert before <= files(top)
