"""What an address map promises of all pairs of ids, and the smallest size of a method that keeps a promise."""

import math

import numpy as np
import pytest

from methods.cases import CASES, TABLES
from tablefold import TableSpec, parse
from tablefold.theory.bounds import Blocks
from tablefold.theory.expected import codes_of
from tablefold.theory.occupancy import coincidence_bounds
from tablefold.theory.overlap import guaranteed_overlap, log_failure
from tablefold.theory.promises import (
    all_distinct,
    best_digits,
    computes_after_gather,
    fewest_rows,
    little_overlap,
    smallest,
)
from theory.test_bounds import violations, worst_overlap

SMALL = [TableSpec("user", 25, 16), TableSpec("item", 15, 16)]
TERABYTE = [TableSpec("ids", 882_774_559, 128)]


def test_a_map_of_blocks_promises_what_the_closed_scheme_does():
    for block in (1, 2, 8):
        tables = [TableSpec("user", 10**6, 16)]
        address_map = parse(f"robe:block={block},floats=50000").address_map(tables)
        scheme = Blocks(16 // block, block)
        for eps in (0.05, 0.2, 0.6):
            expected = scheme.log_failure(10**6, eps, 50_000 - block + 1)
            assert log_failure(address_map, eps) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_tables_that_share_memory_count_as_one_with_all_their_ids():
    both = parse("robe:block=1,floats=60000").address_map(SMALL)
    one = parse("robe:block=1,floats=60000").address_map([TableSpec("all", 40, 16)])
    assert log_failure(both, 0.1) == pytest.approx(log_failure(one, 0.1))


@pytest.mark.parametrize(
    "spec",
    [
        "robe:block=1",
        "robe:block=2,sign=true",
        "robe:block=4,aligned=true",
        "robe:block=4,wrap=true",
    ],
)
def test_at_the_size_that_promises_it_no_more_seeds_than_delta_fail(spec):
    eps, delta = 0.3, 0.1
    largest = 1 << 22  # the full tables are too small for a proof; the promise is about any memory
    method = parse(spec)
    low, high = 16, largest
    while low < high:
        middle = (low + high) // 2
        fits = log_failure(method.sized(middle).address_map(SMALL), eps) <= math.log(delta)
        low, high = (low, middle) if fits else (middle + 1, high)
    assert low < largest
    assert violations(str(method.sized(low)), SMALL, eps, seeds=100) <= delta


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
def test_no_method_breaks_its_promise(case):
    if "lookup" in case.spec:  # made for its own number of ids
        tables = [table for table in TABLES if table.name == "user"]
    else:
        tables = [TableSpec(table.name, 30, table.dim) for table in TABLES]
    address_map = case.method.address_map(tables, seed=5)
    assert worst_overlap(address_map) <= guaranteed_overlap(address_map, delta=0.01) + 1e-6


def test_arithmetic_is_judged_by_its_worst_pair():
    table = [TableSpec("user", 1000, 12)]
    assert guaranteed_overlap(parse("full").address_map(table), 0.01) == 0
    assert guaranteed_overlap(parse("hash:max_rows=999").address_map(table), 0.01) == 1
    assert guaranteed_overlap(parse("qr:collisions=4").address_map(table), 0.01) == 0.5
    assert guaranteed_overlap(parse("mixed_radix:k=3").address_map(table), 0.01) == pytest.approx(2 / 3)


def test_the_promise_at_the_scale_of_a_terabyte():
    promise = little_overlap(0.1, 0.01)
    fine = smallest(parse("robe:block=1"), TERABYTE, promise)
    assert fine.floats == pytest.approx(Blocks(128).floats(TERABYTE[0].rows, 0.1, 0.01), abs=1)
    assert fine.num_bytes(TERABYTE) < 400_000
    assert smallest(parse("robe:block=128"), TERABYTE, promise) is None
    assert smallest(parse("hash:by=mix"), TERABYTE, promise).max_rows == TERABYTE[0].rows
    assert smallest(parse("qr"), TERABYTE, little_overlap(0.5, 0.01)).num_bytes(TERABYTE) == 59_424 * 128 * 4
    assert smallest(parse("full"), TERABYTE, promise) == parse("full")


def test_the_smallest_size_keeps_the_promise_and_the_next_smaller_one_does_not():
    for spec in ("robe:block=4", "robe:block=2", "hash:by=mix"):
        promise = all_distinct(0.01)
        method = smallest(parse(spec), SMALL, promise)
        size = getattr(method, method.size_options[0])
        assert promise(method.address_map(SMALL))
        if size > method.size_range(SMALL)[0]:
            assert not promise(method.sized(size - 1).address_map(SMALL))


def test_distinct_rows_hold_in_simulation():
    tables = [TableSpec("user", 300, 4)]
    method = smallest(parse("robe:block=2"), tables, all_distinct(0.1))
    codes = [method.address_map(tables, seed).codes("user", np.arange(300)) for seed in range(400)]
    rate = np.mean([len(np.unique(code, axis=0)) < 300 for code in codes])
    low, high = coincidence_bounds(300, codes_of(method.address_map(tables).terms[0], 300).per_class)
    assert high <= 0.1
    error = math.sqrt(high / len(codes))
    assert low - 4 * error <= rate <= high + 4 * error


def test_methods_that_compute_after_the_gather_are_refused():
    method = parse("path:collisions=4")
    assert computes_after_gather(method)
    with pytest.raises(ValueError, match="path computes after the gather"):
        smallest(method, SMALL, all_distinct(0.1))


def test_the_best_number_of_digits_is_near_the_logarithm():
    for rows in (1, 2, 10, 10**3, 10**6, 10**12):
        k = best_digits(rows)
        assert fewest_rows(rows, k) <= min(fewest_rows(rows, other) for other in (1, 2, 3, max(1, k - 1), k + 1))
    assert abs(best_digits(10**12) - math.log(10**12)) < 4
