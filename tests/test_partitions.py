"""Partitions, and the proof that several of them name every id."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tablefold.hashing import derive_key
from tablefold.partitions import (
    COUNTING_LIMIT,
    Partition,
    are_complementary,
    ceil_root,
    chinese_remainder,
    coprime_moduli,
    hashed,
    identity,
    intervals,
    lookup,
    mixed_radix,
    mixed_radix_moduli,
    quotient,
    remainder,
)


def distinct(partitions, rows):
    """Brute force: whether all ids have codes of their own."""
    codes = {tuple(int(partition(x)) for partition in partitions) for x in range(rows)}
    return len(codes) == rows


def from_classes(classes):
    """The lookup partition that a list of sets of ids describes."""
    buckets = np.zeros(sum(map(len, classes)), dtype=np.int64)
    for bucket, members in enumerate(classes):
        buckets[list(members)] = bucket
    return lookup(buckets)


def test_the_papers_example_is_complementary():
    parts = [
        from_classes([{0}, {1, 3, 4}, {2}]),
        from_classes([{0, 1, 3}, {2, 4}]),
        from_classes([{0, 3}, {1, 2, 4}]),
    ]
    answer = are_complementary(parts, 5)
    assert answer
    assert answer.proof == "counting"
    for left_out in range(3):
        assert not are_complementary(parts[:left_out] + parts[left_out + 1 :], 5)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 12, 30])
def test_arithmetic_agrees_with_brute_force_for_all_small_partitions(rows):
    singles = [Partition(buckets, div=div) for buckets in range(1, 8) for div in range(1, 8)]
    for parts in itertools.combinations(singles, 2):
        answer = are_complementary(parts, rows)
        assert bool(answer) == distinct(parts, rows), parts
        if not answer:
            one, other = answer.coincidence
            assert 0 <= one < other < rows
            assert all(partition(one) == partition(other) for partition in parts)


@settings(max_examples=300)
@given(st.integers(1, 60), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=4))
def test_arithmetic_agrees_with_brute_force(rows, numbers):
    parts = [Partition(buckets, div=div) for buckets, div in numbers]
    answer = are_complementary(parts, rows)
    assert bool(answer) == distinct(parts, rows)


@given(st.integers(1, 2**40), st.integers(1, 6))
def test_mixed_radix_is_complementary_and_near_the_fewest_buckets(rows, k):
    parts = mixed_radix(rows, k=k)
    answer = are_complementary(parts, rows)
    assert answer
    assert answer.proof == "arithmetic"
    assert len(parts) == k
    assert sum(part.num_buckets for part in parts) <= k * ceil_root(rows, k)


@given(st.integers(1, 2**40), st.integers(1, 6))
def test_chinese_remainder_is_complementary(rows, k):
    parts = chinese_remainder(rows, k=k)
    answer = are_complementary(parts, rows)
    assert answer
    assert answer.proof == "arithmetic"
    assert len(parts) == k


@given(st.integers(10**6, 2**40), st.integers(2, 4))
def test_coprime_moduli_come_close_to_the_smallest_product(rows, k):
    moduli = coprime_moduli(rows, k)
    assert all(math.gcd(one, other) == 1 for one, other in itertools.combinations(moduli, 2))
    assert rows <= math.prod(moduli) <= 1.04 * rows
    assert sum(moduli) <= 1.02 * sum(mixed_radix_moduli(rows, k))


@given(st.integers(2, 2**62), st.integers(1, 2**20), st.integers(0, 2**62))
def test_quotient_and_remainder_name_every_id_exactly(rows, divisor, x):
    x %= rows
    assert int(quotient(rows, divisor)(x)) * divisor + int(remainder(divisor)(x)) == x


@pytest.mark.parametrize("power", [24, 31, 40, 62])
def test_large_ids_keep_their_own_buckets(power):
    ids = np.arange(2**power - 3, 2**power, dtype=np.int64)
    parts = [remainder(1 << 12), quotient(2**power, 1 << 12)]
    codes = np.stack([part(ids) for part in parts], -1)
    assert [(int(x) % 4096, int(x) // 4096) for x in ids] == [tuple(code) for code in codes.tolist()]
    assert are_complementary(parts, 2**power)


def test_hashes_are_counted_and_refused_where_they_cannot_be():
    key = derive_key(0, 0)
    answer = are_complementary([hashed(1000, key)], 1000)
    assert not answer
    assert answer.proof == "counting"
    one, other = answer.coincidence
    assert hashed(1000, key)(one) == hashed(1000, key)(other)
    assert are_complementary([hashed(10, key), identity(5000)], 5000).proof == "arithmetic"
    with pytest.raises(ValueError, match="too many to count"):
        are_complementary([hashed(1000, key)], COUNTING_LIMIT + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixed_radix(101, moduli=(10, 10)), "10x10 multiply to 100, below rows=101"),
        (lambda: chinese_remainder(101, moduli=(10, 12)), "moduli 10 and 12 share the factor 2"),
        (lambda: chinese_remainder(101, moduli=(10, 9)), "multiply to 90, below rows=101"),
        (lambda: mixed_radix(10, k=0), "k=0 must be at least 1"),
        (lambda: mixed_radix(10, moduli=(0, 10)), "modulus 0 must be at least 1"),
        (lambda: mixed_radix(10), "either k or moduli"),
        (lambda: lookup([0, 1, -1]), "id 2 has bucket -1"),
        (lambda: lookup([0, 5], num_buckets=3), "id 1 has bucket 5; num_buckets=3"),
        (lambda: lookup([0.5]), "1-D int array"),
        (lambda: lookup([]), "1-D int array"),
        (lambda: intervals([]), "edges need a 1-D int array"),
        (lambda: intervals([2.5]), "edges need a 1-D int array"),
        (lambda: intervals([3, 9, 9]), "edges must rise from 1 or more: 9 comes after 9"),
        (lambda: intervals([0, 3]), "edges must rise from 1 or more: 0 comes first"),
        (lambda: intervals(np.array([1 << 63], dtype=np.uint64)), "an edge at 9223372036854775808 is beyond"),
        (lambda: remainder(0), "at least one bucket"),
        (lambda: Partition(3, div=0), "divisor must be at least 1"),
        (lambda: are_complementary([], 3), "at least one partition"),
    ],
)
def test_what_is_no_partition_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(st.sets(st.integers(1, 2**62), min_size=1, max_size=40), st.lists(st.integers(-(2**62), 2**62)))
def test_intervals_are_numbered_in_the_order_of_their_ids(firsts, ids):
    part = intervals(sorted(firsts))
    ids += [first + near for first in firsts for near in (-1, 0, 1)]
    assert part(ids).tolist() == [sum(first <= x for first in firsts) for x in ids]
    assert part.edges.firsts.dtype == (np.int32 if max(firsts) < 2**31 else np.int64)
    assert part.num_buckets == len(firsts) + 1
    assert part == intervals(np.array(sorted(firsts)))


def test_lookup_arrays_are_kept_narrow_and_compared_by_content():
    assert lookup(np.arange(200)).lookup.buckets.dtype == np.uint8
    assert lookup(np.arange(300)).lookup.buckets.dtype == np.int16
    assert lookup([0, 1, 2]) == lookup(np.array([0, 1, 2], dtype=np.int64))
    assert lookup([0, 1, 2]) != lookup([0, 2, 1])
