"""Tables whose ids are read by different terms: what is proved of their ids is so, and what is not is counted."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from ops.test_reference import address_maps
from tablefold import TableSpec, parse
from tablefold.partitions import identity, intervals, quotient, remainder
from tablefold.starts import Start
from tablefold.terms import AddressMap, Projection, Region, Term
from tablefold.theory.expected import bucket_sizes, expected_load
from tablefold.theory.inspection import inspect
from tablefold.theory.overlap import guaranteed_overlap
from tablefold.theory.promises import all_distinct
from tablefold.theory.ranges import merged_codes, table_codes
from tablefold.theory.sample import measure_load

TABLE = TableSpec("user", 100, 4)
START = Start(0.1)


def distinct(address_map, name):
    """Brute force: how many different codes the ids of a table have."""
    number = address_map.index(name)
    codes = address_map.codes(name, np.arange(address_map.tables[number].rows))
    return len(np.unique(merged_codes(address_map.terms[number], codes), axis=0))


@settings(max_examples=200, deadline=None)
@given(address_maps())
def test_what_is_proved_of_any_ranges_is_so(address_map):
    for table, terms in zip(address_map.tables, address_map.terms, strict=True):
        codes = table_codes(table, terms, table.rows)
        if codes is not None and codes.is_proved:
            assert distinct(address_map, table.name) == table.rows
    overlap = guaranteed_overlap(address_map, 0.01)
    assert 0 <= overlap <= 1


def of(*terms, rows=50):
    regions = (Region(rows, 4, START), Region(rows, 4, START), Region(4, 4, START, "projections"))
    return AddressMap((TABLE,), (terms,), (*regions, Region(4, 4, START, "projections")))


HOT = Term(identity(50), 0, 4, 4, stop=50)
REST = Term(identity(50), 200, 4, 4, first=50)
ONE, OTHER = Projection(400, 4), Projection(416, 4)


@pytest.mark.parametrize(
    ("terms", "rows", "proof"),
    [
        ((HOT, REST), 100, "arithmetic"),
        ((HOT, replace(REST, base=0)), 50, "counting"),  # the same rows for both
        ((HOT, replace(REST, base=0, projection=ONE)), 100, "arithmetic"),
        ((replace(HOT, projection=OTHER), replace(REST, base=0, projection=ONE)), 100, "arithmetic"),
        ((replace(HOT, projection=ONE), replace(REST, base=0, projection=ONE)), 50, "counting"),
        ((HOT, replace(REST, partition=remainder(20))), 70, "counting"),
        ((HOT, replace(REST, partition=quotient(50, 5))), 60, "counting"),
        ((HOT, replace(REST, partition=intervals([10, 30]))), 53, "counting"),
        ((Term(remainder(50), 0, 4, 4), replace(HOT, base=200)), 100, "arithmetic"),  # what both read, and its own
        ((Term(remainder(50), 0, 4, 4), replace(REST, partition=remainder(2))), 100, "arithmetic"),
    ],
)
def test_ids_of_two_ranges_coincide_only_where_they_read_the_same(terms, rows, proof):
    address_map = of(*terms)
    (table,) = inspect(address_map).tables
    assert (table.distinct.proof, table.distinct.rows) == (proof, rows)
    assert distinct(address_map, "user") == rows
    assert all_distinct(0.5)(address_map) == (proof == "arithmetic")


def test_a_promise_of_the_rest_is_that_of_hot_rows_over_it():
    tables = [TableSpec("user", 10**6, 16)]
    inner, outer = (
        parse(spec) for spec in ("robe:block=4,floats=10000", "hot:rows=1000,over=robe:block=4,floats=10000")
    )
    codes = table_codes(tables[0], outer.address_map(tables).terms[0], 10**6)
    rest = replace(tables[0], rows=10**6 - 1000)
    alone = table_codes(rest, inner.address_map([rest]).terms[0], rest.rows)
    assert codes.repeats() == alone.repeats() > 0
    assert codes.distinct() == pytest.approx(1000 + alone.distinct())
    assert all_distinct(0.5)(parse("low_rank:rank=2").address_map(tables))
    assert guaranteed_overlap(parse("low_rank:rank=2").address_map(tables), 0.01) == 0
    assert guaranteed_overlap(parse("hot:over=low_rank:rank=2").address_map(tables), 0.01) == 0
    assert guaranteed_overlap(parse("hot:over=qr").address_map(tables), 0.01) == 0.5


@pytest.mark.parametrize("spec", ["hot:rows=30,over=qr", "low_rank:rank=1", "hot:rows=10,over=hash:collisions=4"])
def test_the_load_of_ranges_and_projections_is_what_is_counted(spec):
    address_map = parse(spec).address_map([TABLE])
    expected, measured = expected_load(address_map, [100]), measure_load(address_map, [np.arange(100)])
    assert (expected.mean, expected.largest) == (pytest.approx(measured.mean), measured.largest)
    assert expected.unread == pytest.approx(measured.unread, abs=1e-12)


def test_intervals_are_counted_by_their_edges():
    assert bucket_sizes(intervals([2, 5]), 10) == [(1, 2), (1, 3), (1, 5)]
    assert bucket_sizes(intervals([2, 50]), 10) == [(1, 2), (1, 8), (1, 0)]
    assert bucket_sizes(replace(intervals([2, 5]), num_buckets=2, div=3), 19) == [(1, 10), (1, 9)]
