"""Balls into bins, against exact arithmetic, brute force and simulation."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tablefold.theory.occupancy import (
    codes_for_distinct,
    coincidence_bounds,
    expected_distinct,
    expected_repeats,
    largest_load,
    log_poisson_tail,
)

COUNTS = st.integers(0, 12).flatmap(lambda power: st.integers(1, 10**power))
CODES = st.integers(0, 60).flatmap(lambda power: st.integers(1, 10**power))


def exact(ids, codes, kept):
    """(distinct, repeats) in 200 digits."""
    with localcontext() as context:
        context.prec = 200
        share = Decimal(kept)
        distinct = codes * (1 - (1 - share / codes) ** ids)
        return distinct, ids * share - distinct


@settings(deadline=None)  # a busy machine must not fail it
@given(ids=COUNTS, codes=CODES, kept=st.sampled_from([1.0, 0.5, 1e-6]))
def test_distinct_and_repeats_keep_their_digits_from_one_id_to_a_trillion(ids, codes, kept):
    distinct, repeats = exact(ids, codes, kept)
    assert expected_distinct(ids, codes, kept) == pytest.approx(float(distinct), rel=1e-9)
    # Where ids are few, repeats are a difference of two like terms: exact to the larger of them.
    size = ids * kept * (kept / codes)
    assert expected_repeats(ids, codes, kept) == pytest.approx(float(repeats), rel=1e-8, abs=1e-11 * size)


def test_codes_beyond_all_floats_are_no_trouble():
    assert expected_distinct(10**12, 10**900) == 10**12
    assert expected_repeats(10**12, 10**900) == 0.0
    assert coincidence_bounds(10**12, 10**900) == (0.0, 0.0)
    with pytest.raises(ValueError, match="codes=0 must be at least 1"):
        expected_distinct(5, 0)


@pytest.mark.parametrize(("ids", "codes", "kept"), [(1000, 50, 1.0), (1000, 1000, 1.0), (300, 40_000, 0.5)])
def test_distinct_is_what_simulation_gives(ids, codes, kept):
    rng = np.random.default_rng(0)
    counts = [len(np.unique(rng.integers(codes, size=ids)[rng.random(ids) < kept])) for _ in range(400)]
    error = np.std(counts) / math.sqrt(len(counts))
    assert abs(np.mean(counts) - expected_distinct(ids, codes, kept)) <= 4 * error + 1e-6


@settings(deadline=None)  # a busy machine must not fail it
@given(ids=st.integers(1, 60), codes=st.integers(1, 5000))
def test_birthday_bounds_enclose_the_truth(ids, codes):
    truth = 1 - math.prod(max(0, codes - i) / codes for i in range(ids))
    low, high = coincidence_bounds(ids, codes)
    assert low - 1e-12 <= truth <= high + 1e-12


def test_codes_for_distinct_keep_the_coincidence_below_delta():
    rng = np.random.default_rng(0)
    codes = codes_for_distinct(30, delta=0.1)
    draws = np.sort(rng.integers(codes, size=(4000, 30)), axis=1)
    rate = np.mean((np.diff(draws, axis=1) == 0).any(axis=1))
    assert 0.05 < rate <= 0.1
    with pytest.raises(ValueError, match="delta=0 must lie between 0 and 1"):
        codes_for_distinct(30, delta=0)


def poisson_log_tail(mean, at_least):
    """log P(X >= at_least), term by term."""
    steps = np.arange(1, 1000 + int(60 * math.sqrt(mean)))
    ratios = np.concatenate([[0.0], np.cumsum(math.log(mean) - np.log(at_least + steps))])
    point = at_least * math.log(mean) - mean - math.lgamma(at_least + 1)
    return point + math.log(np.exp(ratios).sum())


@settings(deadline=None)  # a busy machine must not fail it
@given(mean=st.floats(1e-6, 1e9), deviations=st.floats(1, 30))
def test_poisson_tail_is_an_upper_bound_and_a_close_one(mean, deviations):
    at_least = math.floor(mean + deviations * math.sqrt(mean)) + 1
    exact_tail = poisson_log_tail(mean, at_least)
    bound = log_poisson_tail(mean, at_least)
    assert exact_tail - 1e-3 <= bound <= exact_tail + 1.0


@pytest.mark.parametrize(("mean", "bins"), [(0.01, 10_000), (1.0, 10_000), (50.0, 1000), (1600.0, 1000), (3e6, 500)])
def test_largest_load_is_the_median_of_simulated_maxima(mean, bins):
    rng = np.random.default_rng(0)
    maxima = rng.poisson(mean, size=(300, bins)).max(axis=1)
    assert np.quantile(maxima, 0.3) <= largest_load(mean, bins) <= np.quantile(maxima, 0.7)


def test_loads_at_the_ends_of_the_range():
    assert largest_load(0.0, 10**6) == 0
    assert largest_load(1e-12, 1e9) <= 1
    huge = largest_load(1e15, 1e10)
    assert 6 < (huge - 1e15) / math.sqrt(1e15) < 7
