"""Balls into bins: how many codes are taken, how many ids repeat, how full the fullest bin is.

An id takes one of `codes` values, independently and uniformly: the model of hashed ids. Every function here holds from
1 to 10^12 ids and for any number of codes (a Python int of any size): differences of nearly equal numbers are never
taken, they are expanded.
"""

from __future__ import annotations

import math

SMALLEST = 1e-100
"""Of a probability or share that a size is asked for."""

_LARGEST_LOG = 700.0  # exp of more overflows a float
_SERIES_BELOW = 0.01


def expected_distinct(ids: int, codes: int, kept: float = 1.0) -> float:
    """Expected number of different codes that occur.

        E = N * (1 - (1 - kept / N)^ids),    N = codes

    Args:
        ids: how many ids there are.
        codes: how many values an id can take.
        kept: look at a random sample in which every id is with this probability, instead of at all ids.

    >>> round(expected_distinct(ids=1000, codes=1000))
    632
    """
    log_codes = _log_codes(codes)
    rate = kept * math.exp(-log_codes)
    if rate >= 1.0:
        return float(ids > 0)
    if log_codes > _LARGEST_LOG:
        return ids * kept
    return -math.exp(log_codes) * math.expm1(ids * math.log1p(-rate))


def expected_repeats(ids: int, codes: int, kept: float = 1.0) -> float:
    """Expected number of ids that add no new code, `kept * ids - expected_distinct(ids, codes, kept)`.

    Exact to rounding where it is far below one id, when the difference of the two would be lost.

    >>> f"{expected_repeats(ids=10**6, codes=10**24):.7g}"
    '4.999995e-13'
    """
    if ids <= 1 and kept == 1.0:
        return 0.0
    rate = kept * math.exp(-_log_codes(codes))
    if rate >= 1.0:
        return ids - 1.0
    # With l = -ids log(1 - rate):  repeats = N (l - 1 + e^-l) - N (l - ids rate).  Both differences are expanded.
    beyond = _log_excess(rate)
    exponent = -ids * math.log1p(-rate)
    repeats = ids * kept * ((1.0 + beyond) * _exp_excess(exponent) - beyond)
    return max(0.0, repeats)


def coincidence_bounds(ids: int, codes: int) -> tuple[float, float]:
    """Bounds on the probability that at least two ids take the same code (the birthday problem).

        1 - exp(-P / N)  <=  probability  <=  P / N,    P = ids (ids - 1) / 2

    The upper bound needs the codes of any two ids to be independent, no more; the lower one all of them.

    >>> low, high = coincidence_bounds(ids=23, codes=365)
    >>> low < 0.5073 < high
    True
    """
    pairs = ids * (ids - 1) // 2
    if pairs == 0:
        return 0.0, 0.0
    expected = math.exp(min(math.log(pairs) - _log_codes(codes), _LARGEST_LOG))
    return -math.expm1(-expected), min(1.0, expected)


def codes_for_distinct(ids: int, delta: float) -> int:
    """The fewest codes for which the birthday bound lets any two ids coincide with probability `delta` at most.

    >>> codes_for_distinct(ids=1000, delta=0.01)
    49950000
    """
    check_probability("delta", delta)
    return max(1, math.ceil(ids * (ids - 1) / (2 * delta)))


def log_poisson_tail(mean: float, at_least: int) -> float:
    """Logarithm of an upper bound on P(X >= at_least), X Poisson with `mean`, for `at_least` above the mean.

        P(X >= a) <= P(X = a) * (a + 1) / (a + 1 - mean)

    Successive probabilities fall by mean / (a + 1) at least, so that a geometric series bounds them. P(X = a) is
    taken by Stirling's series around its exponent a log(a / mean) + mean - a, which keeps its digits at any mean.
    """
    assert at_least > mean
    ratio = at_least / mean
    exponent = mean * _entropy(ratio - 1.0) if mean < 1e300 else 0.0
    stirling = 1 / (12 * at_least) - 1 / (360 * at_least**3)
    point = -0.5 * math.log(2 * math.pi * at_least) - stirling - exponent
    return point + math.log((at_least + 1) / (at_least + 1 - mean))


def largest_load(mean: float, bins: float) -> int:
    """The load that the fullest of `bins` independent Poisson(`mean`) bins reaches with probability about 1/2.

    >>> largest_load(mean=1.0, bins=10**6)
    9
    """
    if mean <= 0 or bins < 1:
        return 0
    threshold = math.log(math.log(2)) - math.log(bins)
    low = math.floor(mean)
    if bins == 1:
        return max(low, 1)
    step = 1
    while log_poisson_tail(mean, low + step) > threshold:
        step *= 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_poisson_tail(mean, middle) <= threshold else (middle, high)
    return low


def check_probability(name: str, value: float) -> None:
    """`ValueError` unless `value` lies strictly between 0 and 1, and is not so small that sizes overflow."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name}={value} must lie between 0 and 1, both excluded")
    if value < SMALLEST:
        raise ValueError(f"{name}={value} is below {SMALLEST:g}, the smallest for which sizes are computed")


def _log_codes(codes: int) -> float:
    if codes < 1:
        raise ValueError(f"codes={codes} must be at least 1")
    return math.log(codes)  # of an int of any size


def _log_excess(rate: float) -> float:
    """-log(1 - rate) / rate - 1 = rate / 2 + rate^2 / 3 + ..."""
    if rate < _SERIES_BELOW:
        return sum(rate**power / (power + 1) for power in range(1, 9))
    return -math.log1p(-rate) / rate - 1.0


def _exp_excess(exponent: float) -> float:
    """(x - 1 + e^-x) / x = x / 2 - x^2 / 6 + ..."""
    if exponent < _SERIES_BELOW:
        return -sum((-exponent) ** power / math.factorial(power + 1) for power in range(1, 9))
    return 1.0 + math.expm1(-exponent) / exponent


def _entropy(excess: float) -> float:
    """(1 + u) log(1 + u) - u, from u^2 / 2 near 0 on."""
    if abs(excess) < _SERIES_BELOW:
        return sum((-excess) ** power / (power * (power - 1)) for power in range(2, 14))
    return (1.0 + excess) * math.log1p(excess) - excess
