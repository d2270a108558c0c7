"""JSON that comes from a file: whatever stands in it, the answer is the value or one line."""

import dataclasses
import json
import os
from typing import Any, Literal

import pytest

from methods.cases import CASES
from tablefold import TableSpec
from tablefold.json_files import DEEPEST, JsonValue, load_json, parse_json, read_json, write_json

GOOD = {
    "name": "log",
    "rows": 4,
    "rate": 0.5,
    "whole": 3,
    "flag": True,
    "none": None,
    "tables": [{"name": "user", "rows": 7}, {"name": "item", "rows": "9"}],
}


def value(content=GOOD):
    return parse_json(json.dumps(content), "f.json")


def refusal(read):
    with pytest.raises(ValueError, match=r"f\.json") as caught:
        read()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    return message


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "é.json"
    write_json(path, {**GOOD, "rate": float("nan"), "text": "日本"})
    assert read_json(path) == {**GOOD, "rate": None, "text": "日本"}
    content = load_json(path)
    assert (content["name"].text(), content["rows"].integer(1), content["whole"].number()) == ("log", 4, 3.0)
    assert content["flag"].flag() is True
    assert content["name"].choice(["log", "day"]) == "log"
    assert [table["name"].text() for table in content["tables"].items()] == ["user", "item"]
    assert content["none"].optional(JsonValue.integer, 5) == content["no"].optional(JsonValue.integer, 5) == 5
    assert content["rows"].optional(JsonValue.integer, 5) == 4


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda v: v["name"].integer(), "f.json: name is 'log'; it must be an integer"),
        (lambda v: v["rows"].integer(5), "f.json: rows is 4; it must be an integer of at least 5"),
        (lambda v: v["rows"].integer(1, 3), "f.json: rows is 4; it must be an integer from 1 to 3"),
        (lambda v: v["rate"].integer(), "f.json: rate is 0.5; it must be an integer"),
        (lambda v: v["flag"].integer(), "f.json: flag is true; it must be an integer"),
        (lambda v: v["flag"].number(), "f.json: flag is true; it must be a finite number"),
        (lambda v: v["name"].number(), "f.json: name is 'log'; it must be a finite number"),
        (lambda v: v["rate"].number(most=0.25), "f.json: rate is 0.5; it must be a finite number of at most 0.25"),
        (lambda v: v["rows"].text(), "f.json: rows is 4; it must be text"),
        (lambda v: v["rows"].flag(), "f.json: rows is 4; it must be true or false"),
        (lambda v: v["none"].text(), "f.json: none is null; it must be text"),
        (lambda v: v["no"].text(), "f.json: no is missing; it must be text"),
        (lambda v: v["no"]["deeper"].text(), "f.json: no is missing; it must be an object"),
        (lambda v: v["tables"]["a"].text(), "f.json: tables is a list of 2; it must be an object"),
        (lambda v: v["tables"][1]["rows"].integer(), "f.json: tables[1].rows is '9'; it must be an integer"),
        (lambda v: v["tables"][2].text(), "f.json: tables[2] is missing; it must be text"),
        (lambda v: v["name"].choice(["a", "b"]), "f.json: name is 'log'; it must be one of a, b"),
        (lambda v: v["rows"].choice(["a", "b"]), "f.json: rows is 4; it must be one of a, b"),
        (lambda v: v.refuse_unknown(["name"]), "f.json: rows is unknown to this version of tablefold"),
        (lambda v: v["tables"].items(most=1), "f.json: tables is a list of 2; it must be a list of at most 1"),
        (lambda v: v.items(), "f.json: the whole is an object of 7; it must be a list"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(read, message):
    assert refusal(lambda: read(value())) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is missing or damaged"),
        ("", "is missing or damaged"),
        ("[" * 100_000 + "]" * 100_000, f"is nested deeper than {DEEPEST} levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, f"is nested deeper than {DEEPEST} levels"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"is nested deeper than {DEEPEST} levels"),
        ('{"seed": 1, "seed": 2}', "it names the field 'seed' twice"),
        ('{"a": NaN}', "it holds NaN"),
        ('{"a": -Infinity}', "it holds -Infinity"),
        ('{"a": 1e999}', "it holds 1e999, which no float holds"),
        ('{"a": ' + "9" * 5000 + "}", "is missing or damaged"),
        ('{"a\x1b": 1}', "is missing or damaged"),
        (b'{"a": "\xff"}', "is missing or damaged"),
        (b"\xef\xbb\xbf{}", "is missing or damaged"),
    ],
)  # fmt: skip
def test_what_is_no_json_of_ours_is_refused_whole(text, message):
    assert message in refusal(lambda: parse_json(text, "f.json"))


def test_the_deepest_that_is_allowed_is_read():
    assert parse_json("[" * DEEPEST + "]" * DEEPEST, "f.json").items()


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("x" * 100_000, "'xxxxxxxxxx"),
        ("\x1b]0;evil\x07\n\u202e", r"'\x1b]0;evil\x07\n\u202e'"),
        (10**4000, "1000000"),
        (list(range(10**5)), "a list of 100000"),
    ],
)
def test_what_stands_there_is_shown_cut_and_escaped(content, shown):
    assert shown in refusal(lambda: value({"a": content})["a"].flag())
    long = refusal(lambda: value({"\x1b" * 1000: {"y" * 10**6: {"z" * 10**6: content}}})["\x1b" * 1000]["no"].text())
    assert r"\x1b" in long


def test_numbers_beyond_a_float_and_halves_of_pairs_are_refused():
    assert "must be a finite number" in refusal(lambda: value({"a": 10**400})["a"].number())
    assert "surrogate" in refusal(lambda: value({"a": "\ud800"})["a"].text())
    path = os.fsdecode(b"runs/\xff")
    assert value({"a": path})["a"].text() == path


def test_a_file_must_be_one_and_have_bounded_size(tmp_path):
    path = tmp_path / "f.json"
    with pytest.raises(ValueError, match=r"f\.json is missing or damaged \(No such file"):
        load_json(path)
    path.write_text('{"a": 1}')
    assert load_json(path, limit=8)["a"].integer() == 1
    with pytest.raises(ValueError, match=r"f\.json is damaged: it has more than 7 bytes"):
        load_json(path, limit=7)
    with pytest.raises(ValueError, match="is missing or damaged"):
        load_json(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # nobody will ever write to it
    with pytest.raises(ValueError, match="it is no file"):
        load_json(tmp_path / "pipe")
    with pytest.raises(ValueError, match="the whole is a list of 0; it must be an object"):
        read_json(_written(tmp_path / "list.json", "[]"))


def _written(path, text):
    path.write_text(text)
    return path


@dataclasses.dataclass(frozen=True)
class Asked:
    """A dataclass with a field of every type."""

    name: str
    rows: int
    table: TableSpec
    lr: float | None = None
    storage: Literal["fp32", "int8"] = "fp32"
    sizes: tuple[int, ...] = ()
    pair: tuple[int, float] = (0, 0.0)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    size: int | str = 1
    compile: bool = False

    def __post_init__(self):
        if self.rows < 1:
            raise ValueError(f"rows={self.rows} must be at least 1")


ASKED = {"name": "a", "rows": 2, "table": {"name": "t", "rows": None, "dim": 4}}


def test_a_dataclass_is_read_by_its_types():
    given = {**ASKED, "lr": 1, "storage": "int8", "sizes": [3, 4], "pair": [1, 2], "options": {"a": [1]}, "size": "all"}
    read = value(given).into(Asked)
    assert read == Asked("a", 2, TableSpec("t", None, 4), 1.0, "int8", (3, 4), (1, 2.0), {"a": [1]}, "all")
    assert value(ASKED).into(Asked) == Asked("a", 2, TableSpec("t", None, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "f.json: name is 3; it must be text"),
        ({"rows": None}, "f.json: rows is null; it must be an integer"),
        ({"rows": 0}, "f.json: the whole: rows=0 must be at least 1"),
        ({"lr": "x"}, "f.json: lr is 'x'; it must be a finite number"),
        ({"storage": "fp4"}, "f.json: storage is 'fp4'; it must be one of fp32, int8"),
        ({"sizes": [1, 2.5]}, "f.json: sizes[1] is 2.5; it must be an integer"),
        ({"sizes": 3}, "f.json: sizes is 3; it must be a list"),
        ({"pair": [1]}, "f.json: pair is a list of 1; it must be a list of 2"),
        ({"pair": [1, "x"]}, "f.json: pair[1] is 'x'; it must be a finite number"),
        ({"options": []}, "f.json: options is a list of 0; it must be an object"),
        ({"size": 1.5}, "f.json: size is 1.5; it must be text"),
        ({"compile": 1}, "f.json: compile is 1; it must be true or false"),
        ({"table": {"name": "t"}}, "f.json: table.rows is missing; it must be an integer"),
        ({"table": {"name": "t", "rows": 0, "dim": 4}}, "f.json: table: table 't': rows=0 must lie in 1 .."),
        ({"colour": 1}, "f.json: colour is unknown to this version of tablefold"),
    ],
)
def test_a_field_of_another_type_is_refused(changes, message):
    assert refusal(lambda: value({**ASKED, **changes}).into(Asked)).startswith(message)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
def test_every_option_of_every_method_is_read_by_its_type(case):
    options = case.method.to_json()
    del options["method"]
    assert value(options).into(type(case.method)) == case.method
    assert "colour is unknown" in refusal(lambda: value({**options, "colour": 1}).into(type(case.method)))
