"""Formulas against counting: distinct rows, shared terms and load of address maps of every kind."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.cases import CASES, TABLES
from tablefold import TableSpec, parse
from tablefold.formats import INT2
from tablefold.hashing import derive_key
from tablefold.partitions import Partition, hashed, lookup, quotient, remainder
from tablefold.starts import Start
from tablefold.terms import AddressMap, Region, Term, Weight
from tablefold.theory.expected import bucket_sizes, codes_of, expected_load, same_address, table_bytes
from tablefold.theory.inspection import inspect
from tablefold.theory.sample import equal_pairs, measure_load, measure_sharing, sample_ids

ROWS = 3000


def one_table(terms, floats, rows=ROWS):
    dim = max(term.slot + term.width for term in terms)
    return AddressMap((TableSpec("user", rows, dim),), (tuple(terms),), (Region(floats, 1, Start(0.1)),))


def keyed(term, seed):
    """The term under another key, where it hashes."""

    def rekeyed(part):
        return part if part.key is None else dataclasses.replace(part, key=derive_key(seed, part.key))

    weight = term.weight and dataclasses.replace(term.weight, partition=rekeyed(term.weight.partition))
    return dataclasses.replace(term, partition=rekeyed(term.partition), weight=weight)


KINDS = {
    "hash": ([Term(hashed(500, 1), 0, stride=4, width=4)], 2000),
    "two hashes, concatenated": (
        [Term(hashed(40, 1), 0, 2, 2), Term(hashed(40, 2), 80, 2, 2, slot=2)],
        160,
    ),
    "blocks anywhere": ([Term(hashed(97, 1), 0, 1, 4), Term(hashed(97, 2), 0, 1, 4, slot=4)], 100),
    "circular blocks": (
        [Term(hashed(100, 1), 0, 1, 4, wrap=100), Term(hashed(100, 2), 0, 1, 4, wrap=100, slot=4)],
        100,
    ),
    "remainder and a hash": ([Term(remainder(60), 0, 2, 2), Term(hashed(30, 2), 120, 2, 2, slot=2)], 180),
    "rows side by side": ([Term(Partition(50, div=5, key=1), 0, stride=20, width=4, neighbours=5)], 1000),
    "hash and a weight": ([Term(hashed(50, 1), 0, 4, 4, weight=Weight(hashed(20, 9), 200))], 220),
    "remainder": ([Term(remainder(700), 0, 4, 4)], 2800),
    "remainder and quotient": ([Term(remainder(60), 0, 2, 2), Term(quotient(ROWS, 60), 120, 2, 2, slot=2)], 220),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [ROWS, 1000])
def test_formulas_are_the_mean_over_many_hashes(kind, size):
    terms, floats = KINDS[kind]
    measured = []
    for seed in range(60):
        address_map = one_table([keyed(term, seed) for term in terms], floats)
        ids = sample_ids(ROWS, size, seed)
        sharing, load = measure_sharing(address_map.codes("user", ids)), measure_load(address_map, [ids])
        starts = address_map.codes("user", ids)[:, : len(terms)]
        together = sum(equal_pairs(starts[:, term]) for term in range(len(terms))) / math.comb(size, 2)
        measured.append((sharing.distinct, together, load.mean, load.unread))
    mean, error = np.mean(measured, axis=0), np.std(measured, axis=0) / math.sqrt(len(measured))
    load = expected_load(address_map, [size], [size / ROWS])
    expected = [
        codes_of(terms, ROWS).distinct(ROWS, size / ROWS),
        sum(same_address(term, ROWS) for term in terms),
        load.mean,
        load.unread,
    ]
    # The sample keeps each id by chance where the formula thins; blocks see less load at the ends of memory.
    slack = [1e-3 * expected[0], 1e-3 * expected[1], 1e-12, 0.01]
    for value, figure, by_chance, allowed in zip(expected, mean, error, slack, strict=True):
        assert abs(value - figure) <= 4 * by_chance + allowed


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_load_is_what_many_hashes_give(kind):
    terms, floats = KINDS[kind]
    largest = []
    for seed in range(60):
        address_map = one_table([keyed(term, seed) for term in terms], floats)
        largest.append(measure_load(address_map, [np.arange(ROWS)]).largest)
    expected = expected_load(address_map, [ROWS]).largest
    assert min(largest) - 1 <= expected <= max(largest) + 1
    assert expected == pytest.approx(np.median(largest), rel=0.08, abs=1)


@settings(deadline=None)  # a busy machine must not fail it
@given(rows=st.integers(1, 300), div=st.integers(1, 20), num_buckets=st.integers(1, 20))
def test_bucket_sizes_and_pairs_are_counted(rows, div, num_buckets):
    buckets = Partition(num_buckets, div=div)(np.arange(rows))
    counted = sorted(np.bincount(buckets, minlength=num_buckets).tolist())
    sizes = bucket_sizes(Partition(num_buckets, div=div), rows)
    assert sorted(itertools.chain(*([size] * count for count, size in sizes))) == counted
    together = same_address(Term(Partition(num_buckets, div=div), 0, 2, 2), rows)
    if rows > 1:
        assert together == pytest.approx(equal_pairs(buckets) / math.comb(rows, 2))


@settings(max_examples=30, deadline=None)
@given(
    ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=40, unique=True),
    floats=st.integers(8, 60),
    wrap=st.booleans(),
)
def test_measured_load_is_the_count_of_every_read(ids, floats, wrap):
    partition = hashed(floats if wrap else floats - 3, 5)
    address_map = one_table([Term(partition, 0, 1, 4, wrap=floats if wrap else 0)], floats, rows=2**41)
    reads = np.zeros(floats, dtype=int)
    for start in address_map.codes("user", np.array(ids))[:, 0]:
        for offset in range(4):
            reads[(start + offset) % floats] += 1
    load = measure_load(address_map, [np.array(ids)])
    assert load.largest == reads.max()
    assert load.mean == pytest.approx(reads.mean())
    assert load.unread == pytest.approx(np.mean(reads == 0))


def test_what_no_formula_covers_says_so():
    custom = Term(lookup([0, 1, 1, 0]), 0, 4, 4)
    assert codes_of([custom], 4) is None
    assert same_address(custom, 4) == pytest.approx(2 / 6), "a lookup alone is counted"
    hashed_quotient = Term(Partition(10, div=5, key=1), 0, 4, 4)
    assert codes_of([hashed_quotient], 100) is None
    assert codes_of([hashed_quotient, dataclasses.replace(custom, partition=remainder(100))], 100).classes == 100


def test_overlapping_neighbours_prove_nothing():
    # Rows of blocks that may start anywhere: (block, neighbour) cannot be told from the address.
    term = Term(Partition(20, div=4, key=1), 0, stride=1, width=2, neighbours=4)
    address_map = one_table([term], 40, rows=40)
    distinct = measure_sharing(address_map.codes("user", np.arange(40))).distinct
    assert distinct < 40
    assert codes_of([term], 40).classes == 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
def test_every_method_can_be_looked_over(case):
    address_map = case.method.address_map(TABLES, seed=1)
    found = inspect(address_map)
    assert [table.name for table in found.tables] == [table.name for table in TABLES]
    for table, spec in zip(found.tables, TABLES, strict=True):
        assert table.measured.ids == spec.rows
        assert table.distinct.rows == table.measured.distinct, "counted or proved: all ids are in the sample"
        if table.terms_per_pair > 0:
            assert table.measured.terms_per_pair == pytest.approx(table.terms_per_pair, rel=0.5, abs=0.04)
    assert found.load.mean == pytest.approx(found.measured_load.mean)


def test_a_trillion_ids_cost_a_sample():
    for spec in ("robe:block=4,floats=1000000", "qr", "hash:by=mix,max_rows=50000"):
        address_map = parse(spec).address_map([TableSpec("user", 10**12, 16)])
        found = inspect(address_map, size=20_000)
        table = found.tables[0]
        assert table.measured.ids == 20_000
        assert table.measured.distinct == pytest.approx(table.sampled_distinct, rel=0.01)
        assert found.measured_load.mean == pytest.approx(found.sampled_load.mean)


def test_samples_are_different_ids_of_the_table():
    assert sample_ids(5, 10).tolist() == [0, 1, 2, 3, 4]
    for rows in (1500, 10**6, 10**12, None):
        ids = sample_ids(rows, 1000, seed=1)
        assert len(np.unique(ids)) == 1000
        assert ids.min() >= 0
        assert ids.max() < (rows or 2**62)
        assert (ids == sample_ids(rows, 1000, seed=1)).all()
        assert (ids != sample_ids(rows, 1000, seed=2)).any()


def test_table_bytes_tell_shared_memory_from_a_tables_own():
    tables = [TableSpec("a", 1000, 8), TableSpec("b", 10, 8)]
    shared = parse("robe:block=4,floats=100").address_map(tables)
    assert table_bytes(shared, 0) == (400, True)
    assert table_bytes(shared.in_format(INT2), 0) == (36, True)  # 100 floats in blocks of 32, nine bytes each
    own = parse("hash:max_rows=100").address_map(tables)
    assert [table_bytes(own, column) for column in range(2)] == [(3200, False), (320, False)]


def test_digits_and_remainders_share_as_arithmetic_has_it():
    for spec in ("mixed_radix:k=3", "chinese_remainder:k=3", "qr"):
        found = inspect(parse(spec).address_map([TableSpec("user", 5000, 12)]))
        table = found.tables[0]
        assert table.measured.second_given_first == pytest.approx(table.second_given_first, abs=1e-12)
        assert table.measured.terms_per_pair == pytest.approx(table.terms_per_pair, abs=1e-12)


def test_lookups_are_counted_where_no_formula_applies():
    case = next(case for case in CASES if "lookup" in case.spec)
    address_map = case.method.address_map(TABLES)
    few, all_ids = inspect(address_map, size=200), inspect(address_map)
    user, whole = few.tables[0], all_ids.tables[0]
    assert user.distinct.proof == whole.distinct.proof == "counting"
    assert user.distinct.rows == whole.measured.distinct == 1000
    assert user.terms_per_pair == pytest.approx(whole.measured.terms_per_pair)
    assert all_ids.load.largest == all_ids.measured_load.largest
