"""How much memory keeps ids apart: bounds with explicit constants, proved in docs/theory.md.

The overlap of two ids is the share of one's reads whose weights the other reads too. It bounds the inner product of
their views of memory (scaled so that an id's product with itself is 1), the share of one's vector that a gradient step
for the other moves, and the expected cosine of their vectors under random memory.

All sizes grow with log(ids) wherever an id reads many independent places, and with ids^2 where it reads one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tablefold.theory.occupancy import check_probability, codes_for_distinct


def log_binomial_tail(trials: int, probability: float, at_least: int) -> float:
    """Logarithm of P(X >= at_least) for X binomial, to rounding; -inf where it is impossible.

    >>> round(math.exp(log_binomial_tail(trials=4, probability=0.5, at_least=3)), 4)
    0.3125
    """
    if at_least <= 0 or probability >= 1.0:
        return 0.0 if at_least <= trials else -math.inf
    if at_least > trials or probability <= 0.0:
        return -math.inf
    log_odds = math.log(probability) - math.log1p(-probability)
    term = _log_choose(trials, at_least) + at_least * math.log(probability)
    term += (trials - at_least) * math.log1p(-probability)
    total = largest = term
    for count in range(at_least, trials):
        term += math.log((trials - count) / (count + 1)) + log_odds
        largest = max(largest, term)
        total = max(total, term) + math.log1p(math.exp(-abs(total - term)))
        if term < largest - 45:  # past the mode, and below rounding
            break
    return min(0.0, total)


def first_refused(trials: int, eps: float) -> int:
    """The smallest number of `trials` that is more than a share `eps` of them.

    >>> first_refused(trials=128, eps=0.1), first_refused(trials=4, eps=0.25)
    (13, 2)
    """
    return math.floor(eps * trials * (1 + 1e-12)) + 1


def log_meetings(ids: int, blocks: int) -> float:
    """Logarithm of how many events a union bound over the pairs of `ids` has.

    Ordered pairs, and every id with itself: ids^2. One block cannot meet itself and meets another one mutually, which
    leaves the unordered pairs; -inf where there is none.
    """
    if blocks > 1:
        return 2 * math.log(ids)
    return math.log(ids) + math.log(ids - 1) - math.log(2) if ids > 1 else -math.inf


@dataclass(frozen=True)
class Blocks:
    """A memory that every id reads in `blocks` hashed places, all blocks in one array (ROBE).

    Args:
        blocks: k, places that an id reads.
        width: Z, floats per block.
        aligned: blocks start at multiples of Z only; else anywhere.
    """

    blocks: int
    width: int = 1
    aligned: bool = False

    def touch(self, starts: float) -> float:
        """The chance (an upper bound) that one block touches any of the k blocks of another id.

        A block meets another one if it starts less than `width` floats before or after: at 2 Z - 1 of the `starts`
        places, at one of them if blocks are aligned.
        """
        return min(1.0, self.blocks * (1 if self.aligned else 2 * self.width - 1) / starts)

    def log_failure(self, ids: int, eps: float, starts: float) -> float:
        """Logarithm of a bound on P(some pair of ids overlaps by more than `eps`, or an id with itself).

        ids^2 * P(Binomial(k, touch) > eps k),    for k = 1    ids (ids - 1) / 2 * touch
        """
        tail = log_binomial_tail(self.blocks, self.touch(starts), first_refused(self.blocks, eps))
        return min(0.0, log_meetings(ids, self.blocks) + tail)

    def floats(self, ids: int, eps: float, delta: float) -> float:
        """The fewest floats of memory for which all pairs overlap by `eps` at most, with probability 1 - delta.

        Raises:
            ValueError: unless 0 < eps < 1 and 0 < delta < 1.

        >>> round(Blocks(blocks=128).floats(882_774_559, eps=0.1, delta=0.01), -3)
        92000.0
        """
        _check(eps, delta)
        low, high = 0.0, 1.0  # base-2 logarithms of the number of starts
        while self.log_failure(ids, eps, 2.0**high) > math.log(delta):
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self.log_failure(ids, eps, 2.0**middle) <= math.log(delta) else (middle, high)
        starts = math.ceil(2.0**high)
        return float(starts * self.width if self.aligned else starts + self.width - 1)


def smallest_overlap(ids: int, scheme: Blocks, floats: int, delta: float) -> float:
    """The smallest eps that `Blocks` guarantees for all pairs of ids with this memory; 1.0 where it guarantees none.

    >>> smallest_overlap(882_774_559, Blocks(blocks=128), floats=2_700_000, delta=0.01)
    0.0546875
    """
    check_probability("delta", delta)
    starts = floats // scheme.width if scheme.aligned else floats - scheme.width + 1
    for shared in range(scheme.blocks):
        eps = shared / scheme.blocks
        if scheme.log_failure(ids, eps, starts) <= math.log(delta):
            return eps
    return 1.0


def logarithmic_size(ids: int, eps: float, delta: float) -> tuple[int, int]:
    """(reads per id, floats) that always suffice, in closed form: the rate at which memory grows with ids.

        k = ceil(ln(ids^2 / delta) / eps),    m = ceil(e^2 k / eps)    so    m = O(log(ids / delta) / eps^2)

    One hashed weight per read (blocks of one). `Blocks.floats` finds smaller sizes, and any k.
    """
    _check(eps, delta)
    reads = math.ceil((2 * math.log(ids) - math.log(delta)) / eps)
    return reads, math.ceil(math.e**2 * reads / eps)


def signed_blocks_size(ids: int, eps: float, delta: float) -> tuple[int, int]:
    """(reads per id, weights) of a sparse Johnson-Lindenstrauss map of k parts with a signed read in each.

        k = ceil(8 ln(ids^2 / delta) / (3 eps)) parts of ceil(1 / eps) places each,
        m = k ceil(1 / eps), about (8/3) ln(ids^2 / delta) / eps^2

    By Bernstein's inequality; the construction and its rate are Kane and Nelson's.
    """
    _check(eps, delta)
    reads = math.ceil(8 * (2 * math.log(ids) - math.log(delta)) / (3 * eps))
    return reads, reads * math.ceil(1 / eps)


def dense_projection_size(ids: int, eps: float, delta: float) -> int:
    """Weights of a dense map with entries +-1/sqrt(m), where every id reads all of memory.

        m = ceil(2 ln(ids (ids - 1) / delta) / eps^2)

    By Hoeffding's inequality: the best constant here, at a cost that no lookup can pay. A line to compare with.
    """
    _check(eps, delta)
    if ids < 2:
        return 1
    return math.ceil(2 * (math.log(ids) + math.log(ids - 1) - math.log(delta)) / eps**2)


def one_read_size(ids: int, delta: float) -> int:
    """Rows for which hashing every id to one row leaves all ids apart with probability 1 - delta.

        m = ids (ids - 1) / (2 delta)

    Two ids in a row share everything, so there is no weaker promise to make; above `ids` rows a full table is smaller.
    """
    return codes_for_distinct(ids, delta)


def read_back_error(floats: float, delta: float) -> float:
    """How far a signed hashed copy of a table lies off at one entry, in units of the norm of all entries.

    For `w = S^T t` and its view `S w` (every entry of the tables' floats t hashed, with a sign, to one of `floats`
    weights): `|(S w)_i - t_i| <= read_back_error * |t|` for any given entry i, with probability 1 - delta.

    >>> read_back_error(floats=10_000, delta=0.01)
    0.1
    """
    check_probability("delta", delta)
    return 1 / math.sqrt(floats * delta)


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _check(eps: float, delta: float) -> None:
    check_probability("eps", eps)
    check_probability("delta", delta)
