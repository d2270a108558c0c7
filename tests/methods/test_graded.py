"""Graded codes: zones by counts, a plan that meets its budget, errors that help."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tablefold import Graded, TableSpec, make_plan, parse
from tablefold.methods.zones import Zone

TABLES = [TableSpec("user", 30_000, 16), TableSpec("item", 5_000, 16), TableSpec("day", 7, 16)]


def zipf(table, reads=100_000, seed=0):
    """Counts that fall, of so many reads."""
    odds = 1 / np.arange(1, table.rows + 1)
    return -np.sort(-np.random.default_rng(seed).multinomial(reads, odds / odds.sum()))


COUNTS = {table.name: zipf(table) for table in TABLES}


@settings(max_examples=30, deadline=None)
@given(st.integers(4_000, 95_000), st.booleans())
def test_a_plan_takes_most_of_its_budget_and_never_more(budget, counted):
    plan = make_plan("graded", TABLES, budget=budget, counts=COUNTS if counted else None)
    built = plan.build(device="meta")
    assert built.num_bytes == plan.num_bytes <= budget
    if budget > 20_000:
        assert plan.num_bytes > 0.9 * min(budget, 90_000)  # ids that nobody has seen get no codes


def test_codes_are_as_wide_as_counts_support():
    plan = make_plan("graded", TABLES, compression=30, counts=COUNTS)
    for part in plan.parts[:2]:
        (table,), method = part.tables, part.method
        counts = COUNTS[table.name]
        edges = [0, *method.stops, table.rows]
        assert list(method.widths) == sorted(method.widths, reverse=True)
        wide = [counts[first] for first in edges[:-1]]
        n0 = [count / (2 ** (width / 4) - 1) for count, width in zip(wide[1:], method.widths[1:], strict=True) if width]
        assert wide == sorted(wide, reverse=True)
        assert len(n0) < 2 or max(n0) / min(n0) < 20  # one n0, within what rounding counts and small zones leave


def test_blocks_lengthen_and_are_cut_at_zones():
    method = Graded(stops=(10,), widths=(4, 0), growth=2.0)
    assert method.blocks(Zone(0, 10, 4))(np.arange(10)).tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 4, 4]
    assert method.blocks(Zone(10, 40, 0))(np.arange(30)).tolist() == [0] * 6 + [1] * 16 + [2] * 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse("graded:scale=-1"), "scale=-1 must lie in 0"),
        (lambda: parse("graded:stops=5x3,widths=1x1x1"), "stops=5x3 must rise"),
        (lambda: parse("graded:stops=5,widths=1"), "must be 2 numbers"),
        (lambda: parse("graded:stops=5"), "stops need widths"),
        (lambda: parse("graded:scale=3,widths=1"), "or widths, not both"),
        (lambda: parse("graded:growth=1"), "growth=1.0 must be more than 1"),
        (lambda: parse("graded").build(TABLES), "graded needs a size"),
        (lambda: parse("graded:scale=9").build([TableSpec("a", None, 4)]), "open vocabulary"),
        (lambda: make_plan("graded", TABLES, budget=10**5, counts={"x": np.ones(3)}), "no table of that name"),
        (lambda: make_plan("graded", TABLES, budget=10**5, counts={"day": np.ones(3)}), r"must be \[7\]"),
        (lambda: make_plan("graded", TABLES, budget=100), "below the smallest possible for graded"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
