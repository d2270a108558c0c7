"""Mixed radix and Chinese remainder: every id named, within the size, at any number of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tablefold import ChineseRemainder, MixedRadix, TableSpec
from tablefold.partitions import are_complementary, ceil_root


@pytest.mark.parametrize("kind", [MixedRadix, ChineseRemainder])
@given(rows=st.integers(1, 2**40), k=st.integers(2, 5), size=st.floats(0, 1))
def test_every_id_is_named_within_the_size(kind, rows, k, size):
    smallest = sum(part.num_buckets for part in kind(k=k).partitions(TableSpec("t", rows, 60), 0, 0))
    assert smallest <= min(rows, 1.1 * k * ceil_root(rows, k) + 2 * k)  # coprime numbers lie less dense
    max_rows = max(1, int(rows**size))
    parts = kind(k=k, max_rows=max_rows).partitions(TableSpec("t", rows, 60), 0, 0)
    assert sum(part.num_buckets for part in parts) <= max(max_rows, smallest)
    answer = are_complementary(parts, rows)
    assert answer
    assert answer.proof == "arithmetic"


@pytest.mark.parametrize("kind", [MixedRadix, ChineseRemainder])
@pytest.mark.parametrize("power", [24, 31, 40, 62])
def test_large_ids_have_codes_of_their_own(kind, power):
    rows = 2**power
    address_map = kind(k=3).address_map([TableSpec("t", rows, 1)])
    ids = np.concatenate([np.arange(2**24 - 5000, 2**24), np.arange(rows - 50_000, rows)])
    ids = np.unique(ids[ids < rows])
    codes = address_map.codes("t", ids)
    assert len(np.unique(codes, axis=0)) == len(ids)
    exact = [
        [int(x) // term.partition.div % term.partition.num_buckets for term in address_map.terms[0]] for x in ids[-9:]
    ]
    bases = [term.base for term in address_map.terms[0]]
    assert (codes[-9:] - bases).tolist() == exact


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixedRadix(k=1), "k=1 must be at least 2 and at most 64 parts"),
        (lambda: MixedRadix(moduli=(5,)), "moduli=5 must be at least 2 numbers"),
        (lambda: MixedRadix(k=2, moduli=(5, 6)), "moduli=5x6 set the parts and their sizes"),
        (lambda: MixedRadix(moduli=(5, 6)).build([TableSpec("t", 31, 4)]), "5x6 multiply to 30, below rows=31"),
        (lambda: ChineseRemainder(moduli=(6, 9)).build([TableSpec("t", 31, 4)]), "moduli 6 and 9 share the factor 3"),
        (
            lambda: MixedRadix(k=3, combine="concat").build([TableSpec("t", 99, 16)]),
            "dim=16 of table 't' is no multiple of 3",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_smaller_first_modulus_with_more_behind_it_does_not_exceed_the_size():
    parts = ChineseRemainder(k=5, max_rows=29).partitions(TableSpec("t", 127, 60), 0, 0)
    assert sum(part.num_buckets for part in parts) <= 29
