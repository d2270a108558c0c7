"""Blocks of the mixing hash fall independently: rows stay distinct, and blocks are shared no more than by chance.

A linear hash, which moves all blocks of a row together, is the counter-example.
"""

import math

import numpy as np
import pytest

from tablefold import TableSpec, parse
from tablefold.theory.expected import codes_of
from tablefold.theory.sample import measure_sharing

SETTINGS = [(100_000, 1000, 16, 4), (1_000_000, 100_000, 64, 16), (1_000_000, 16_000, 16, 2)]
PRIME = 2**31 - 1


def linear_codes(rows, places, blocks, seed=0):
    """Block starts by ((a x + b c + d) mod P) mod places, universal for single blocks."""
    a, b, d = np.random.default_rng(seed).integers(1, PRIME, size=3)
    ids, block = np.arange(rows, dtype=np.int64)[:, None], np.arange(blocks, dtype=np.int64)
    return (a * ids + b * block + d) % PRIME % places


@pytest.mark.parametrize(("rows", "floats", "dim", "block"), SETTINGS)
def test_all_rows_are_distinct_and_blocks_independent(rows, floats, dim, block):
    address_map = parse(f"robe:block={block},floats={floats}").address_map([TableSpec("user", rows, dim)], seed=0)
    places = address_map.terms[0][0].partition.num_buckets
    sharing = measure_sharing(address_map.codes("user", np.arange(rows)))

    assert sharing.distinct == rows
    assert codes_of(address_map.terms[0], rows).repeats(rows) < 0.01, "as the formula has it"
    expected_first = rows * (rows - 1) / 2 / places
    assert abs(sharing.first_pairs - expected_first) < 4 * math.sqrt(expected_first)
    expected_both = sharing.first_pairs / places
    assert abs(sharing.second_pairs - expected_both) < 4 * math.sqrt(expected_both)


@pytest.mark.parametrize(("rows", "floats", "dim", "block"), SETTINGS)
def test_a_linear_hash_moves_the_blocks_of_a_row_together(rows, floats, dim, block):
    sharing = measure_sharing(linear_codes(rows, floats, dim // block, seed=3))
    assert sharing.distinct < 0.5 * rows
    assert sharing.second_given_first > 0.8


def test_every_pair_of_blocks_is_independent():
    rows, blocks, places = 200_000, 8, 2000
    address_map = parse(f"robe:block=1,floats={places}").address_map([TableSpec("user", rows, blocks)], seed=7)
    codes = address_map.codes("user", np.arange(rows))
    expected = rows * (rows - 1) / 2 / places**2
    deviations = []
    for first in range(blocks):
        for second in range(first):
            both = measure_sharing(codes[:, [first, second]])
            deviations.append((both.second_pairs - expected) / math.sqrt(expected))
    assert max(map(abs, deviations)) < 4.5
    assert 0.6 < np.std(deviations) < 1.6
