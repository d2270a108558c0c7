"""Plans: what a request becomes under a budget; small tables full, formats chosen, files that come back."""

import json
import re

import numpy as np
import pytest
import torch

from tablefold import Full, Plan, TableSpec, make_plan, parse
from tablefold.formats import FORMATS, FP32, INT2, INT4, find_format
from tablefold.json_files import JsonValue, parse_json
from tablefold.plans import Part
from tablefold.tables import full_bytes

TABLES = [TableSpec("user", 1000, 8), TableSpec("country", 20, 8), TableSpec("item", 317, 8), TableSpec("day", 7, 8)]
LARGE = [TableSpec("user", 100_000, 16), TableSpec("item", 20_000, 16), TableSpec("day", 7, 16)]


def formats_of(plan: Plan) -> dict[str, str]:
    return {table.name: part.format.name for part in plan.parts for table in part.tables}


@pytest.mark.parametrize("spec", ["hash:collisions=4", "qr:collisions=4", "robe:block=4,floats=500"])
def test_small_tables_own_their_rows_and_columns_keep_their_order(spec):
    plan = make_plan(spec, TABLES, threshold=20)
    group = plan.build(seed=1)
    assert group.num_bytes == plan.num_bytes
    assert [table.name for table in group.tables] == ["user", "country", "item", "day"]
    for name, rows in (("country", 20), ("day", 7)):
        assert len(np.unique(group.address_map.codes(name, np.arange(rows)), axis=0)) == rows
        assert len(group.address_map.terms[group.address_map.index(name)]) == 1
    alone = parse(spec).build([TABLES[0], TABLES[2]], seed=1)
    ids = torch.stack([torch.arange(7)] * 4, dim=1)
    assert torch.equal(group(ids)[:, [0, 2]], alone(ids[:, :2]))


def test_without_wishes_a_plan_is_what_the_request_says():
    plan = make_plan("qr:collisions=4", TABLES)
    assert [(part.tables, str(part.method), part.format) for part in plan.parts] == [
        (tuple(TABLES), "qr:collisions=4,combine=mul", FP32)
    ]
    assert plan.build(seed=2).address_map == parse("qr:collisions=4").build(TABLES, seed=2).address_map


def test_a_threshold_above_all_tables_is_the_full_table():
    plan = make_plan("robe:block=4,floats=500", TABLES, threshold=1000)
    assert plan.parts == (Part(tuple(TABLES), Full()),)
    assert plan.build().address_map.fingerprint == Full().build(TABLES).address_map.fingerprint


def test_open_vocabularies_are_always_folded():
    tables = [TableSpec("query", None, 8), TABLES[0]]
    assert make_plan("robe:block=4,floats=500", tables, threshold=10**9).build().num_parameters == 500 + 8000
    plan = make_plan("robe:block=4", tables, budget=10_000)
    assert (plan.format, plan.full_bytes) == (INT4, None)
    with pytest.raises(ValueError, match="compression=9 of table 'query' means nothing, for its vocabulary is open"):
        make_plan("robe:block=4", tables, compression=9)


@pytest.mark.parametrize("storage", [None, "fp32", "int4"])
@pytest.mark.parametrize("budget", [4_064, 10_000, 30_000])
def test_the_budget_covers_all_tables(storage, budget):
    plan = make_plan("qr", TABLES, budget=budget, threshold=20, storage=storage)
    assert plan.build(device="meta").freeze().num_bytes == plan.num_bytes <= budget
    if plan.num_bytes < full_bytes(TABLES) / 8:
        assert plan.num_bytes > 0.8 * budget


def test_small_tables_stay_exact_within_a_sixteenth_of_the_budget():
    plan = make_plan("robe:block=4", TABLES, budget=30_000)
    assert [[table.name for table in part.tables] for part in plan.parts] == [["user", "item"], ["country", "day"]]
    assert formats_of(plan)["day"] == "fp32"
    assert full_bytes(plan.parts[1].tables) <= 30_000 / 16
    assert "1/16 of the budget" in plan.parts[1].why
    assert [table.name for table in make_plan("robe:block=4", TABLES, budget=4_000).parts[1].tables] == ["day"]
    alone = make_plan("robe:block=4", TABLES, budget=4_000, threshold=0)
    assert [part.tables for part in alone.parts] == [tuple(TABLES)]
    assert {*formats_of(make_plan("robe:block=4", TABLES, budget=3_000, storage="int8")).values()} == {"int8"}


def test_small_tables_give_way_where_the_method_needs_the_room():
    least = make_plan("qr", TABLES, budget=10**6).num_bytes
    for budget in range(400, least, 97):
        try:
            plan = make_plan("qr", TABLES, budget=budget)
        except ValueError:
            continue
        assert plan.num_bytes <= budget
        smaller = make_plan("qr", TABLES, budget=budget, threshold=0, storage="int2")
        assert smaller.num_bytes <= budget
    assert make_plan("qr", TABLES, budget=450).parts == make_plan("qr", TABLES, budget=450, threshold=0).parts


@pytest.mark.parametrize(
    ("spec", "compression", "chosen"),
    [
        ("full", 1, "fp32"),
        ("full", 2, "bf16"),
        ("full", 3.5, "int8"),
        ("full", 7, "int4"),
        ("full", 14, "int2"),
        ("qr", 1, "fp32"),
        ("qr", 1.5, "bf16"),
        ("robe:block=4", 3.5, "int8"),
        ("qr", 14, "int4"),
        ("hash", 64, "int4"),
        ("robe:block=4", 65, "int2"),
        ("hash", 1000, "int2"),
    ],
)
def test_the_format_is_the_best_measured_at_the_size(spec, compression, chosen):
    plan = make_plan(spec, LARGE, compression=compression)
    assert formats_of(plan)["user"] == chosen
    assert plan.num_bytes <= full_bytes(LARGE) / compression
    assert chosen in plan.parts[0].why
    wished = make_plan(spec, LARGE, compression=1, storage="bf16")
    assert {*formats_of(wished).values()} == {"bf16"}


def test_a_narrower_format_is_taken_where_the_best_does_not_fit():
    tables = [TableSpec("user", 100, 16)]
    least = {storage: make_plan("qr", tables, storage=storage).num_bytes for storage in ("int4", "int2")}
    plan = make_plan("qr", tables, budget=least["int4"] - 1)
    assert full_bytes(tables) < 64 * (least["int4"] - 1)
    assert plan.format == INT2
    assert least["int2"] <= plan.num_bytes < least["int4"]
    assert plan.parts[0].why.endswith("in the widest format that fits, int2")


@pytest.mark.parametrize(
    ("spec", "wishes", "message"),
    [
        (
            "hash",
            {"budget": 900, "threshold": 20, "storage": "fp32"},
            "the smallest possible for hash here, 928 bytes in",
        ),
        ("hash", {"budget": 900, "threshold": 20, "storage": "fp32"}, "or lower the threshold, which keeps 864 B full"),
        (
            "qr",
            {"budget": 1500, "storage": "fp32"},
            "3680 bytes in fp32: raise the budget, or take it in int8, int4 or int2",
        ),
        (
            "qr",
            {"budget": 100},
            "qr here, 261 bytes in int2: raise the budget, or take clustered_residual, hash_emb",
        ),
        (
            "hash",
            {"compression": 10**6},
            r"compression=1e[+]06 cannot be: hash folds these tables at most 4,778x in int2",
        ),
        (
            "full",
            {"compression": 15},
            r"full folds these tables at most 14.22x in int2: ask for less, or take .* for more",
        ),
        ("hash", {}, "hash needs a size"),
        ("qr", {"budget": -1}, "budget=-1 must lie in 0 .. 4,611,686,018,427,387,904 bytes"),
        ("qr", {"budget": 10**400}, r"budget=1000.* must lie in 0 \.\. "),
        ("qr", {"budget": float("nan")}, "budget=nan must be an integer"),
        ("qr", {"budget": float("inf")}, "budget=inf must be an integer"),
        ("qr", {"budget": "10MB"}, "budget='10MB' must be an integer"),
        ("qr", {"compression": float("nan")}, "compression=nan must be at least 1 and finite"),
        ("qr", {"compression": float("inf")}, "compression=inf must be at least 1"),
        ("qr", {"compression": 10**400}, "compression=1000.* must be at least 1 and finite"),
        ("qr", {"compression": 0.5}, "compression=0.5 must be at least 1"),
        ("qr", {"compression": 2, "budget": 5}, "give one of them"),
        ("clusters", {"with_pointers": True}, "with_pointers says what a size bounds: give a compression or a budget"),
        (
            "clusters",
            {"budget": 5, "with_pointers": True},
            "smallest possible for clusters here, .* pointers counted",
        ),
        ("qr", {"storage": "fp16"}, "format 'fp16' must be one of fp32, bf16, int8, int4, int2"),
        ("qr", {"threshold": -1}, "threshold=-1 must be 0 or more rows"),
        ("no", {}, "no method 'no'"),
        (3, {}, "request=3 must be a spec string or a method"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_a_way_out(spec, wishes, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_plan(spec, TABLES, **wishes)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_size_can_bound_pointers_too():
    tables = [TableSpec("user", 100_000, 16), TableSpec("item", 5_000, 16)]
    free = make_plan("clusters", tables, budget=120_000)
    charged = make_plan("clusters", tables, budget=120_000, with_pointers=True)
    assert free.num_bytes <= 120_000 < free.num_bytes + free.pointer_bytes
    assert 0 < charged.pointer_bytes < charged.num_bytes + charged.pointer_bytes <= 120_000
    assert charged.rows()[0].why == "the largest in 120 kB, pointers counted, in int4, best up to 64x"
    same = make_plan("qr", tables, budget=120_000, with_pointers=True)
    assert same == make_plan("qr", tables, budget=120_000)


@pytest.mark.parametrize("wishes", [{}, {"budget": 20_000}, {"compression": 3, "threshold": 20}, {"storage": "int4"}])
@pytest.mark.parametrize("spec", ["qr", "robe:block=4,floats=99", "path:hidden=8", "full"])
def test_a_plan_comes_back_from_a_file(spec, wishes):
    plan = make_plan(spec, TABLES, **wishes)
    back = Plan.from_json(parse_json(json.dumps(plan.to_json()), "config.json"))
    assert back == plan
    assert [part.why for part in back.parts] == [part.why for part in plan.parts]
    assert back.build(3, device="meta").address_map == plan.build(3, device="meta").address_map


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("parts", 0, "tables"), ["user"], "plan.json: the whole: a plan needs every table in one of its parts"),
        (
            ("parts", 0, "tables", 0),
            "query",
            "plan.json: parts[0].tables[0] is 'query'; it must be the name of a table",
        ),
        (("parts", 1, "tables", 0), "user", "plan.json: the whole: a plan needs every table in one of its parts"),
        (("parts", 0, "tables"), ["user"] * 4, "plan.json: the whole: a plan needs every table in one of its parts"),
        (
            ("parts", 0, "tables"),
            [],
            "plan.json: the whole: a plan needs every table in one of its parts, and",
        ),
        (("parts", 1, "tables"), ["user", "country", "day"], "plan.json: the whole: two tables are named 'user'"),
        (("parts", 0, "format"), "fp16", "plan.json: parts[0].format is 'fp16'; it must be one of"),
        (("parts", 0, "method", "method"), "no", "plan.json: parts[0].method.method is 'no'; it must be one of"),
        (("parts", 0, "method", "max_rows"), 0.5, "plan.json: parts[0].method.max_rows is 0.5; it must be an integer"),
        (("parts",), None, "plan.json: parts is null; it must be a list of at most 10,000"),
        (("tables", 2, "rows"), 0, "plan.json: tables[2]: table 'item': rows=0 must lie in 1 .. "),
    ],
)
def test_a_damaged_plan_is_refused(path, value, message):
    content = make_plan("qr", TABLES, budget=20_000).to_json()
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match="plan") as caught:
        Plan.from_json(JsonValue(content, "plan.json", ""))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("storage", [name for name in FORMATS if name != "fp32"])
@pytest.mark.parametrize("spec", ["robe:block=4,floats=500", "qr:collisions=4", "path:collisions=4,hidden=4"])
def test_a_group_in_two_formats_reads_each_in_its_own(spec, storage):
    large = (TABLES[0], TABLES[2])
    parts = (Part(large, parse(spec), find_format(storage)), Part((TABLES[1], TABLES[3]), Full()))
    mixed = Plan(tuple(TABLES), parts)
    group = mixed.build(seed=1)
    alone = [Plan(part.tables, (part,)).build(seed=1) for part in parts]
    with torch.no_grad():
        for array, own in zip(alone[1].arrays, group.arrays[len(alone[0].arrays) :], strict=True):
            array.copy_(own)
    ids = torch.stack([torch.arange(7)] * 4, dim=1)
    for _ in range(2):
        assert torch.equal(group(ids)[:, [0, 2]], alone[0](ids[:, :2]))
        assert torch.equal(group(ids)[:, [1, 3]], alone[1](ids[:, :2]))
        assert group.num_bytes == mixed.num_bytes
        for each in (group, *alone):
            each.freeze()


def test_methods_that_compute_after_the_gather_do_not_mix():
    path, features = parse("path:collisions=4"), parse("qr:collisions=4,combine=features")
    for other in (path, features):
        with pytest.raises(ValueError, match="computes after the gather goes with tables of one vector"):
            Plan(tuple(TABLES), (Part(tuple(TABLES[:2]), path), Part(tuple(TABLES[2:]), other))).build()


def test_the_figures_of_bytes():
    plan = make_plan("qr", TABLES, budget=20_000)
    found, floats = plan.bytes(state_floats=3), plan.build(device="meta").num_parameters
    assert found.embedding == found.with_pointers == plan.num_bytes <= 20_000
    assert found.training == 4 * floats * (1 + 3)
    assert found.artefact is None
    assert plan.bytes(0).training == 4 * floats


def test_a_plan_is_printed_as_a_table():
    lines = str(make_plan("robe:block=4", TABLES, budget=30_000)).splitlines()
    assert lines[0].split() == ["table", "rows", "dim", "representation", "format", "bytes", "of", "full", "why"]
    assert [line.split()[0] for line in lines[1:]] == ["user", "country", "item", "day"]
    assert "shared" in lines[1]
    assert "1/1 " in lines[2]


@pytest.mark.parametrize(("storage", "rows"), [("fp32", 8), (None, 8), ("fp32", 4000), ("int2", 900)])
def test_auto_names_the_smallest_of_all_that_it_stands_for(storage, rows):
    tables = [TableSpec("user", rows, 8)]
    with pytest.raises(ValueError, match="below the smallest possible") as refusal:
        make_plan("auto", tables, budget=0, storage=storage)
    smallest = int(re.search(r"here, (\d+) bytes", str(refusal.value))[1])
    assert make_plan("auto", tables, budget=smallest, storage=storage).num_bytes <= smallest
    with pytest.raises(ValueError, match="below the smallest possible"):
        make_plan("auto", tables, budget=smallest - 1, storage=storage)


def test_auto_without_data_is_robe_where_nothing_else_can_be_so_small():
    tables = [TableSpec("user", 4000, 8), TableSpec("item", 900, 8)]
    graded = make_plan("auto", tables, compression=200)
    assert graded.method.name == "graded"
    smallest = make_plan("auto", tables, compression=2_000)
    assert str(smallest.method).startswith("robe:block=4,floats=")
    assert smallest.num_bytes <= (4000 + 900) * 8 * 4 / 2_000


def test_auto_is_full_tables_no_further_than_these_fit_in_the_format_asked_for():
    tables = [TableSpec("user", 4000, 8)]
    assert make_plan("auto", tables, compression=14).method == Full()
    assert make_plan("auto", tables, compression=2, storage="bf16").method == Full()
    assert make_plan("auto", tables, compression=2.5, storage="bf16").method.name == "graded"
