"""Quotient-remainder: sizes to the unit, large ids exact, starts as promised."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arrays import flat_memory
from tablefold import Hash, QuotientRemainder, TableSpec, make_plan
from tablefold.methods.sizing import largest_first_modulus
from tablefold.partitions import ceil_div


@pytest.mark.parametrize(
    ("spec", "threshold", "parameters"),
    [
        ("full", 0, 540_201_232),
        ("hash:collisions=4", 0, 135_050_464),
        ("qr:collisions=4,combine=mul", 0, 135_052_112),
        ("qr:collisions=4,combine=mul", 200, 135_054_048),
        ("qr:collisions=4,combine=mul", 20_000, 135_619_648),
        ("qr:collisions=60,combine=mul", 0, 9_023_120),
        ("qr:combine=mul", 0, 460_800),
    ],
)
def test_parameters_on_criteo_kaggle(kaggle_tables, spec, threshold, parameters):
    plan = make_plan(spec, kaggle_tables, threshold=threshold)
    assert plan.num_bytes == 4 * parameters
    assert plan.build(device="meta").num_parameters == parameters


@pytest.mark.parametrize("collisions", [2, 4, 250])
def test_forty_million_ids_have_codes_of_their_own(collisions):
    rows = 40_000_000
    table = TableSpec("t", rows, dim=16)
    address_map = QuotientRemainder(collisions=collisions).address_map([table])
    modulus = ceil_div(rows, collisions)
    near = [np.arange(middle - 50_000, middle + 50_000) for middle in (1 << 24, modulus, 2 * modulus)]
    ids = np.unique(np.concatenate([*near, np.arange(rows - 100_000, rows)]))
    ids = ids[ids < rows]
    codes = address_map.codes("t", ids)
    assert len(np.unique(codes, axis=0)) == len(ids)
    base = modulus * 16
    exact = [((x % modulus) * 16, base + (x // modulus) * 16) for x in ids.tolist()]
    assert [tuple(code) for code in codes.tolist()] == exact


@pytest.mark.parametrize("power", [24, 31, 40])
def test_gathered_rows_of_large_ids_are_exact(power):
    table = TableSpec("t", (1 << power) + 1000, dim=1)
    group = QuotientRemainder(max_rows=1).build([table])
    ids = torch.arange((1 << power) - 500, (1 << power) + 500)
    memory, terms = flat_memory(group), group.address_map.terms[0]
    expected = [
        memory[int(x) % terms[0].partition.num_buckets] * memory[terms[1].base + int(x) // terms[1].partition.div]
        for x in ids
    ]
    assert torch.equal(group(ids[:, None]).flatten(), torch.stack(expected))


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_the_split_takes_what_the_size_allows(rows, max_rows):
    smallest_first = math.isqrt(rows - 1) + 1
    modulus = largest_first_modulus(rows, max_rows, smallest_first, lambda first: first + ceil_div(rows, first))
    taken = rows if modulus == rows else modulus + ceil_div(rows, modulus)
    smallest = min(rows, smallest_first + ceil_div(rows, smallest_first))
    assert taken <= max(max_rows, smallest)
    if smallest < max_rows < rows:
        assert modulus + 1 + ceil_div(rows, modulus + 1) > max_rows


def test_the_papers_start_is_uniform_from_the_root_of_one_over_rows_to_one():
    group = QuotientRemainder(collisions=4, init="paper").build([TableSpec("t", 10_000, dim=16)])
    memory = flat_memory(group)
    assert memory.min() >= math.sqrt(1 / 10_000)
    assert memory.max() <= 1
    assert abs(float(memory.mean()) - 0.505) < 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuotientRemainder(collisions=0), "collisions=0 must be a number of at least 1"),
        (lambda: QuotientRemainder(collisions=math.nan), "collisions=nan must be"),
        (lambda: QuotientRemainder(max_rows=0), "max_rows=0 must be at least 1"),
        (lambda: QuotientRemainder(collisions=2, max_rows=3), "not both"),
        (lambda: QuotientRemainder(combine="max"), "combine=max must be one of mul, add, concat, features"),
        (lambda: QuotientRemainder(init="xavier"), "init=xavier must be one of matched, paper"),
        (
            lambda: QuotientRemainder(combine="concat").build([TableSpec("t", 99, 5)]),
            "dim=5 of table 't' is no multiple",
        ),
        (lambda: QuotientRemainder(collisions=4).build([TableSpec("t", 3, 4)]), "more than the full tables' 48"),
        (lambda: QuotientRemainder(collisions=4).build([TableSpec("t", None, 4)]), "open vocabulary"),
        (lambda: Hash(max_rows=5).build([TableSpec("t", None, 4)]), "needs by=mix"),
        (lambda: Hash().build([TableSpec("t", 9, 4)]), "hash needs a size"),
        (lambda: Hash(by="md5"), "by=md5 must be one of modulo, mix"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_any_int64_is_an_id_of_an_open_vocabulary():
    group = Hash(max_rows=5, by="mix").build([TableSpec("t", None, 4)])
    ids = torch.tensor([[-(2**63)], [-1], [0], [2**63 - 1]])
    assert group(ids).shape == (4, 1, 4)
