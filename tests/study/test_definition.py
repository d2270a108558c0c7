"""A study is data: what its TOML asks for, and what is wrong with one that cannot be."""

import json
import math
from pathlib import Path

import pytest

from tablefold.data import Schema
from tablefold.json_files import JsonValue
from tablefold.study.definition import Study, read_definition, ready
from tablefold.study.grid import run_study
from tablefold.study.request import Request
from tablefold.study.results import run_settings

SOURCES = ("criteo", "interactions", "")
_NUMBERS = ("batch_size", "dim", "epochs", "eval_every", "looks", "patience", "seed", "threshold", "train_rows")


def requests(data, content, source="", quick=False):
    return Study.of(content, source, quick=quick).requests(Schema.load(data))


def test_a_list_is_an_axis_and_an_entry_its_product(data):
    found = requests(
        data,
        {
            "settings": {"seed": [0, 1], "model": ["dlrm", "dcn"], "lr": {"sgd": 0.5}, "optimizer": ["sgd", "adagrad"]},
            "grid": [
                {"method": "full"},
                {"method": ["hash", "qr:combine=add"], "option": {"collisions": [2, 4]}, "threshold": [0, 50]},
            ],
        },
    )
    assert len(found) == 2 * 2 * 2 * (1 + 2 * 2 * 2)
    assert [request.config.seed for request in found] == [0] * 36 + [1] * 36
    assert {request.config.method for request in found if request.series == "qr:combine=add"} == {
        "qr:collisions=2,combine=add",
        "qr:collisions=4,combine=add",
    }
    assert {request.size for request in found} == {"", "collisions=2", "collisions=4"}
    assert {(one.config.optimizer, one.config.lr) for one in found} == {("sgd", 0.5), ("adagrad", None)}
    assert len({request.name() for request in found}) == len(found)


def test_the_storage_of_memory_tells_series_apart_and_leaves_them_comparable(data):
    grid = [{"method": ["full", "qr:collisions=4"], "storage": ["fp32", "int8"]}]
    found = requests(data, {"grid": grid})
    assert [request.series for request in found] == [
        "full",
        "full in int8",
        "qr:collisions=4",
        "qr:collisions=4 in int8",
    ]
    assert len({request.name() for request in found}) == 4
    assert len({json.dumps(run_settings(one.config.to_json(), one.variant)) for one in found}) == 1


def test_what_is_left_to_a_plan_is_another_question(data):
    sized = {"method": "hash", "compression": 4}
    planned, fixed = requests(data, {"grid": [sized, {**sized, "storage": "fp32", "threshold": 0}]})
    assert {"storage", "threshold"} <= {name for name, value in planned.content()["config"].items() if value is None}
    assert not {"storage", "threshold"} & fixed.content()["config"].keys()  # as before there were plans
    assert planned.name() != fixed.name()
    for one in (planned, fixed):
        back = Request.of(JsonValue(json.loads(json.dumps(one.content())), "input", ""), one.series, one.size)
        assert back == one
    (full,) = requests(data, {"grid": [{"method": "full"}]})
    assert (full.config.storage, full.config.threshold) == ("fp32", 0)  # nothing is left to a plan


def test_bytes_with_pointers_are_another_size(data):
    sized = {"method": "clusters", "compression": 30}
    free, charged = requests(data, {"grid": [sized, {**sized, "with_pointers": True}]})
    assert (free.size, charged.size) == ("30x", "30x with pointers")
    assert free.config.wishes != charged.config.wishes


def test_overlays_replace_settings_and_grids(data):
    content = {
        "settings": {"model": "dlrm", "epochs": 5},
        "grid": [{"method": "full"}, {"method": "hash", "compression": [2, 4, 8]}],
        "on": {"interactions": {"settings": {"model": "neumf", "model_options": {"neumf": {"top_mlp": [4]}}}}},
        "quick": {
            "settings": {"epochs": 1},
            "grid": [{"method": "full"}],
            "on": {"interactions": {"settings": {"batch_size": 99}}},
        },
    }
    assert len(requests(data, content)) == 4
    assert {one.config.model for one in requests(data, content, "interactions")} == {"neumf"}
    (quick,) = requests(data, content, "interactions", quick=True)
    assert (quick.config.epochs, quick.config.batch_size, quick.config.model) == (1, 99, "neumf")
    assert quick.config.model_options == {"top_mlp": (4,)}
    (other,) = requests(data, content, "criteo", quick=True)
    assert (other.config.epochs, other.config.batch_size, other.config.model_options) == (1, 128, {})


def test_looks_are_spread_over_the_run(data):
    (request,) = requests(data, {"settings": {"looks": 10, "epochs": 3, "batch_size": 100}, "grid": [{}]})
    assert request.config.eval_every == 18  # 3 epochs of 60 batches
    (fewer,) = requests(data, {"settings": {"looks": 10, "train_rows": 1000, "batch_size": 100}, "grid": [{}]})
    assert fewer.config.eval_every == 1


def test_the_same_run_is_asked_for_once(data):
    assert len(requests(data, {"grid": [{"method": "full"}, {"method": ["full", "hash:collisions=4"]}]})) == 2


LONG = {"seed": list(range(200)), "batch_size": list(range(1, 200))}

REFUSED = [
    ({"grid": [{"metod": "full"}]}, r"no setting 'metod' \(did you mean 'method'\?\)"),
    ({"setings": {}, "grid": [{}]}, "did you mean 'settings'"),
    ({"grid": []}, r"has no \[\[grid\]\]"),
    ({"grid": [{"method": "hsh"}]}, "did you mean 'hash'"),
    ({"grid": [{"model": "dlmr"}]}, "did you mean 'dlrm'"),
    ({"grid": [{"model_options": {"dlrm": {"top": [3]}}}]}, "did you mean 'top_mlp'"),
    ({"grid": [{"model_options": {"dlmr": {}}}]}, "did you mean 'dlrm'"),
    ({"grid": [{"model_options": {"dlrm": {"top_mlp": ["a"]}}}]}, "top_mlp is 'a'; it must be a whole number"),
    ({"grid": [{"model_options": {"dlrm": {"top_mlp": 3}}}]}, "top_mlp is 3; it must be a list"),
    ({"grid": [{"model_options": {"dlrm": {"top_mlp": [0]}}}]}, r"top_mlp is a list of 1; it must be 1 or more"),
    ({"grid": [{"model_options": 3}]}, "model_options must be a table, not 3"),
    ({"grid": [{"option": 3}]}, "option must be a table, not 3"),
    ({"grid": [{"option": {"collisions": [[2]]}, "method": "hash"}]}, r"option.collisions is a list of 1; it must be"),
    ({"grid": [{"id_order": "random"}]}, "must be one of prepared, frequency"),
    ({"grid": [{"id_order": [["first"]]}]}, r"id_order is a list of 1; it must be text"),
    ({"grid": [{"epochs": 0}]}, "epochs=0 must be at least 1"),
    ({"grid": [{"epochs": "many"}]}, "epochs is 'many'; it must be a whole number"),
    ({"grid": [{"epochs": True}]}, "epochs is true; it must be a whole number"),
    ({"grid": [{"dim": [0]}]}, "dim=0 must be at least 1"),
    ({"grid": [{"looks": 0}]}, "looks=0 must be at least 1"),
    ({"grid": [{"train_rows": 0}]}, "train_rows=0 must be at least 1"),
    ({"grid": [{"threshold": -1}]}, "threshold=-1 must be 0 or more"),
    ({"grid": [{"seed": 10**400}]}, r"seed is 1000+ \.\.\. 0+; it must lie below 2\^63"),
    ({"grid": [{"method": [5]}]}, "method is 5; it must be text"),
    ({"grid": [{"lr": ["a"]}]}, "lr is 'a'; it must be a finite number"),
    ({"grid": [{"lr": math.nan}]}, "lr is nan; it must be a finite number"),
    ({"grid": [{"lr": -1}]}, "lr=-1 must be greater than 0"),
    ({"grid": [{"lr": {"amsgrad": "a"}}]}, "lr is 'a'; it must be a finite number"),
    ({"grid": [{"lr": {"adam": 1.0}}]}, "lr has no setting 'adam'"),
    ({"grid": [{"optimizer": "adma"}]}, "unknown optimizer 'adma'"),
    ({"grid": [{"precision": "fp7"}]}, "unknown precision 'fp7'"),
    ({"grid": [{"device": "tpu"}]}, "unknown device 'tpu'"),
    ({"grid": [{"seed": []}]}, "seed is an empty list"),
    ({"grid": [LONG]}, "asks for 39,800 runs and may ask for 10,000"),
    ({"grid": [dict.fromkeys(_NUMBERS, [1] * 1000)]}, r"more than 10\^15 runs"),
    ({"grid": [{}], "quick": {"settings": {"sed": 1}}}, "quick: settings has no setting 'sed'"),
    ({"grid": [{}], "quick": 3}, "quick must be a table, not 3"),
    ({"grid": [{}], "on": {"criteo": {"grid": [{"x": 1}]}}}, "on.criteo: grid has no setting 'x'"),
    ({"grid": [{}], "on": {"criteo": 3}}, "on.criteo must be a table, not 3"),
    ({"grid": [{}], "target": "auc=best"}, "target 'auc=best' must be"),
    ({"grid": [{}], "target": 3}, "target must be text"),
    ({"grid": [{}], "title": ["a"]}, "title must be text"),
    ({"settings": 3, "grid": [{}]}, "settings must be a table, not 3"),
    ({"grid": 3}, "must be a list of tables"),
    ({"grid": [3]}, "grid must be a table, not 3"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_a_line(data, content, message):
    with pytest.raises(ValueError, match=message) as error:
        requests(data, content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_a_refused_study_leaves_no_folder(data, tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        run_study(Study.of(content), data, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_file_or_a_ready_name(tmp_path):
    with pytest.raises(ValueError, match=r"no ready study of that name \(did you mean 'kdd2020-path'\?\)"):
        Study.load("kdd2020-paht")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"title = ", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "is not TOML"),
        (b"[settings]\nseed = " + b"9" * 5000, "is not TOML"),
        (b"x = " + b"[" * 3000 + b"]" * 3000, "nested too deeply"),
        (b"[settings]\nmodel_options" + b".a" * 3000 + b" = 1", "nested more than 12 levels"),
        (b"[settings]\nmodel_options = " + b"{a = " * 13 + b"1" + b"}" * 13, "nested more than 12 levels"),
        (b"# " + b"x" * 1_000_000, "larger than 1,000,000 bytes"),
        (b"[tool.ruff]\nline-length = 120\n", "has no setting 'tool'"),
    ],
)
def test_a_file_that_is_no_study_is_refused_in_a_line(tmp_path, raw, message):
    file = tmp_path / "s.toml"
    file.write_bytes(raw)
    for read in (Study.load, read_definition):
        with pytest.raises(ValueError, match=message) as error:
            read(file)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 800


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ready())
def test_ready_studies_fit_any_data_and_are_small_on_request(data, name, source):
    schema = Schema.load(data)
    full, quick = (Study.load(name, source, quick=quick).requests(schema) for quick in (False, True))
    assert 10 < len(quick) < len(full)
    for runs in (full, quick):
        assert {"full", "hash"} <= {request.series for request in runs}
        assert {request.config.model for request in runs} <= (
            {"neumf"} if source == "interactions" else {"dlrm", "dcn"}
        )
    assert len({request.config.seed for request in full}) >= 3


def test_the_ready_studies_are_those_that_were_promised():
    assert set(ready()) == {
        *("kdd2020-collisions", "kdd2020-curves", "kdd2020-threshold", "kdd2020-path"),
        *("sharing-compression", "sharing-iterations", "id-order"),
    }
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    assert all(f"`{name}`" in page for name in ready())
