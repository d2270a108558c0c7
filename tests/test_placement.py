"""A threshold keeps small tables full, in the same memory, within the same budget."""

import numpy as np
import pytest
import torch

from tablefold import Full, Placement, TableSpec, parse
from tablefold.tables import full_bytes

TABLES = [TableSpec("user", 1000, 8), TableSpec("country", 20, 8), TableSpec("item", 317, 8), TableSpec("day", 7, 8)]


@pytest.mark.parametrize("spec", ["hash:collisions=4", "qr:collisions=4", "robe:block=4,floats=500", "full"])
def test_small_tables_own_their_rows_and_columns_keep_their_order(spec):
    placement = Placement(parse(spec), threshold=20)
    group = placement.build(TABLES, seed=1)
    assert group.num_bytes == placement.num_bytes(TABLES)
    assert [table.name for table in group.tables] == ["user", "country", "item", "day"]
    for name, rows in (("country", 20), ("day", 7)):
        assert len(np.unique(group.address_map.codes(name, np.arange(rows)), axis=0)) == rows
        assert len(group.address_map.terms[group.address_map.index(name)]) == 1
    alone = parse(spec).build([TABLES[0], TABLES[2]], seed=1)
    ids = torch.stack([torch.arange(7)] * 4, dim=1)
    folded = group(ids)[:, [0, 2]]
    assert torch.equal(folded, alone(ids[:, :2]))


def test_a_threshold_above_all_tables_is_the_full_table():
    placement = Placement(parse("robe:block=4,floats=500"), threshold=1000)
    assert placement.num_bytes(TABLES) == full_bytes(TABLES)
    assert placement.for_budget(TABLES, full_bytes(TABLES)) == placement
    assert placement.build(TABLES).address_map.fingerprint == Full().build(TABLES).address_map.fingerprint


def test_open_vocabularies_are_always_folded():
    open_table = TableSpec("query", None, 8)
    group = Placement(parse("robe:block=4,floats=500"), threshold=10**9).build([open_table, TABLES[0]])
    assert group.num_parameters == 500 + 8000


def test_the_budget_covers_all_tables():
    for budget in (4_064, 10_000, 30_000):
        fitted = Placement(parse("qr"), threshold=20).for_budget(TABLES, budget)
        assert 0.8 * budget < fitted.num_bytes(TABLES) <= budget


def test_what_cannot_be_met_is_refused():
    with pytest.raises(
        ValueError, match="a budget of 800 bytes is below the 864 bytes of the 2 tables that threshold=20"
    ):
        Placement(parse("hash"), threshold=20).for_budget(TABLES, 800)
    with pytest.raises(
        ValueError, match=r"a budget of 900 bytes is below the smallest possible for hash, 928 bytes \(864 of them for"
    ):
        Placement(parse("hash"), threshold=20).for_budget(TABLES, 900)
    with pytest.raises(ValueError, match="a budget of 100 bytes is below the smallest possible for qr"):
        Placement(parse("qr"), storage="int8").for_budget(TABLES, 100)
    with pytest.raises(ValueError, match="format 'fp16' must be one of fp32, bf16, int8, int4, int2"):
        Placement(parse("qr"), storage="fp16")
    with pytest.raises(ValueError, match="threshold=-1 must be 0 or more rows"):
        Placement(Full(), threshold=-1)


def test_a_budget_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="a budget of nan bytes is below the smallest possible for hash, 32 bytes"):
        Placement(parse("hash")).for_budget([TableSpec("user", 1000, 8)], float("nan"))
