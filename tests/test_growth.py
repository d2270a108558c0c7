"""Tables that take more ids: old ids keep their vectors, new ones read rows of the right kind."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from methods.cases import CASES, TABLES
from tablefold import TableSpec, make_plan, parse
from tablefold.formats import FORMATS, FP32, find_format
from tablefold.group import EmbeddingGroup
from tablefold.growth import carried, carried_pointers, grown
from tablefold.json_files import JsonValue
from tablefold.partitions import Pointers
from tablefold.plans import Part, Plan

MORE = [replace(table, rows=rows) for table, rows in zip(TABLES, (1450, 317, 23), strict=True)]
FIXED = ("chinese_remainder:k", "path", "residual:stages=1,")  # the last shares a pointer among ids
"""Specs that cannot grow, beside those with metadata of each id: they say so."""


def groups(before, after):
    """A group, and that of the grown map with its weights."""
    old, new = EmbeddingGroup(before, seed=1), EmbeddingGroup(after, seed=1)
    with torch.no_grad():
        for number, name in enumerate(old.memory):
            new.memory[name].copy_(carried(old.memory[name], number, before, after))
        if old.edges is not None:
            new.edges.copy_(old.edges)
        if old.lookup is not None:
            new.lookup.copy_(carried_pointers(old.lookup, before, after))
    return old, new


def can_grow(case):
    lookups = case.method.address_map(TABLES).lookups
    return not case.spec.startswith(FIXED) and all(isinstance(each, Pointers) for each in lookups)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
@pytest.mark.parametrize("kept", [FP32.name, "int2"])
def test_old_ids_keep_their_vectors_and_new_ids_have_some(case, kept):
    plan = Plan(tuple(TABLES), (Part(tuple(TABLES), case.method, find_format(kept)),))
    if not can_grow(case):
        with pytest.raises(ValueError, match="train anew") as error:
            plan.grown(MORE)
        assert "\n" not in str(error.value)
        return
    after = plan.grown(MORE)
    old, new = groups(plan.address_map(3), after.address_map(3))
    for column, table in enumerate(TABLES):
        ids = torch.zeros(table.rows, len(TABLES), dtype=torch.int64)
        ids[:, column] = torch.arange(table.rows)
        if kept == FP32.name:  # else a block in which a region ends has another scale
            assert torch.equal(old(ids), new(ids))
        ids = torch.zeros(MORE[column].rows - table.rows, len(TABLES), dtype=torch.int64)
        ids[:, column] = torch.arange(table.rows, MORE[column].rows)
        assert new(ids).isfinite().all()
    assert after.num_bytes == after.build(seed=3).freeze().num_bytes
    read = Plan.from_json(JsonValue(json.loads(json.dumps(after.to_json())), "config.json", "plan"))
    assert read == after
    assert read.address_map(3).fingerprint == after.address_map(3).fingerprint


@pytest.mark.parametrize("case", [case for case in CASES if can_grow(case)], ids=lambda case: case.spec)
def test_growing_twice_is_growing_once(case):
    plan = Plan(tuple(TABLES), (Part(tuple(TABLES), case.method, FP32),))
    middle = [replace(table, rows=rows) for table, rows in zip(TABLES, (1101, 317, 21), strict=True)]
    twice = plan.grown(middle).grown(MORE)
    assert twice == plan.grown(MORE)
    assert plan.grown(TABLES) == plan
    old, new = groups(plan.grown(middle).address_map(), twice.address_map())
    ids = torch.stack([torch.arange(20) + table.rows - 20 for table in middle], dim=1)
    assert torch.equal(old(ids), new(ids))


def test_in_few_bits_all_blocks_stay_but_those_in_which_a_table_ends():
    plan = Plan(tuple(TABLES), (Part(tuple(TABLES), parse("full"), FORMATS["int2"]),))
    old, new = groups(plan.address_map(), plan.grown(MORE).address_map())
    changed = [int((old.unfold(t.name) != new.unfold(t.name)[: t.rows]).any(dim=1).sum()) for t in TABLES]
    assert sum(changed) <= 2 * 3  # rows of 8 floats, of which a block holds 4


def test_a_grown_plan_that_does_not_fit_its_tables_is_refused():
    plan = make_plan("full", TABLES).grown(MORE)
    content = json.loads(json.dumps(plan.to_json()))
    content["parts"][0]["first_rows"] = [1000]
    with pytest.raises(ValueError, match="must be 3 numbers"):
        Plan.from_json(JsonValue(content, "config.json", "plan"))


def test_new_rows_begin_as_the_unseen_or_the_mean_and_new_factors_as_the_last():
    tables, more = [TableSpec("user", 100, 4)], [TableSpec("user", 130, 4)]
    before = parse("full").address_map(tables)
    after = grown(before, more)
    old, new = groups(before, after)
    np.testing.assert_allclose(new.unfold("user")[100:], old.unfold("user").mean(0).expand(30, 4), atol=1e-7)
    memory = carried(old.memory["rows_4"], 0, before, after, unseen=1)
    assert torch.equal(memory[100:], old.memory["rows_4"][1].expand(30, 4))
    before = parse("qr:collisions=10").address_map(tables)
    old, new = groups(before, grown(before, more))
    ids = torch.arange(100, 130)[:, None]
    assert torch.equal(new(ids), old(90 + (ids % 10))), "as the rarest neighbour with the same remainder"
    before = parse("graded:stops=600,widths=8x2").address_map([TableSpec("user", 1000, 8)])
    after = grown(before, [TableSpec("user", 1030, 8)])
    number = next(number for number, array in enumerate(before.arrays) if array.width == 2)
    codes = groups(before, after)[0].arrays[number]
    memory = carried(codes, number, before, after, unseen=1)
    torch.testing.assert_close(memory[400:], codes.mean(0).expand(30, 2))  # the unseen value has no such code


def test_zones_go_on_with_the_codes_of_the_rarest():
    tables = [TableSpec("user", 1000, 8)]
    plan = Plan(tuple(tables), (Part(tuple(tables), parse("graded:stops=100x400,widths=8x4x1"), FP32),))
    more = [TableSpec("user", 1200, 8)]
    assert plan.grown(more).num_bytes == plan.num_bytes + 200 * 4
    plan = Plan(tuple(tables), (Part(tuple(tables), parse("graded:stops=100x400,widths=8x4x0"), FP32),))
    assert plan.grown(more).num_bytes == plan.num_bytes
    _, new = groups(plan.address_map(), plan.grown(more).address_map())
    vectors = new.unfold("user")
    assert torch.equal(vectors[1000:], vectors[999].expand(200, 8)), "the block that the rarest share"


def test_a_clusters_last_interval_takes_new_ids():
    tables = (TableSpec("user", 1000, 8),)
    plan = Plan(tables, (Part(tables, parse("clusters:rows=10"), FP32),), {"user 0": np.arange(1, 10) * 20})
    after = plan.grown([TableSpec("user", 1200, 8)])
    group = after.build(seed=2)
    vectors = group.unfold("user")
    assert torch.equal(vectors[1000:], vectors[180].expand(200, 8))


def test_what_is_no_growth_is_refused():
    plan = make_plan("full", TABLES)
    with pytest.raises(ValueError, match="'user' has 999 ids, before it had 1,000"):
        plan.grown([replace(TABLES[0], rows=999), *TABLES[1:]])
    with pytest.raises(ValueError, match="not become others"):
        plan.grown(TABLES[:2])


@pytest.mark.parametrize(
    ("spec", "like"), [("residual:stages=2,rows=16", 1), ("clustered_residual:rows=8,stages=2", -1)]
)
def test_new_ids_point_where_unseen_values_or_the_last_id_do(spec, like):
    table, more = TableSpec("user", 1000, 16), TableSpec("user", 1030, 16)
    before, after = parse(spec).address_map([table]), grown(parse(spec).address_map([table]), [more])
    pointers = torch.randint(8, (2000,), generator=torch.Generator().manual_seed(0))
    found = carried_pointers(pointers, before, after, unseen=1).view(2, 1030)
    assert torch.equal(found[:, :1000], pointers.view(2, 1000))
    assert torch.equal(found[:, 1000:], pointers.view(2, 1000)[:, [like]].expand(2, 30))
