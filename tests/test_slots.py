"""How many weights share a float: counted, estimated, and used to average gradients."""

import numpy as np
import pytest
import torch

from methods.cases import CASES, TABLES
from tablefold import Robe, TableSpec, parse
from tablefold.slots import slot_counts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
def test_counts_are_what_the_ids_read(case):
    address_map = case.method.address_map(TABLES, seed=3)
    expected = np.zeros(address_map.floats)
    for table, terms in zip(TABLES, address_map.terms, strict=True):
        for term in terms:
            place = term.address(np.arange(table.rows))[:, None] - term.base + np.arange(term.width)
            np.add.at(expected, term.base + (place % term.wrap if term.wrap else place), 1)
            if term.weight is not None:
                weight = term.weight
                np.add.at(expected, weight.base + weight.stride * weight.partition(np.arange(table.rows)), 1)
    np.testing.assert_array_equal(slot_counts(address_map), expected)


def test_large_tables_are_estimated():
    table = TableSpec("t", 10**12, 16)
    counts = slot_counts(Robe(block=16, floats=1000).address_map([table]), most_ids=200_000)
    assert counts.sum() == pytest.approx(16 * 10**12)
    inner = counts[16:-16]  # floats near the ends are inside of fewer blocks
    assert inner.std() / inner.mean() < 0.05


def test_open_vocabularies_cannot_be_counted():
    with pytest.raises(ValueError, match="open vocabulary"):
        Robe(floats=100, gradient="mean").build([TableSpec("t", None, 4)])


@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("spec", ["robe:block=4,floats=500", "robe:block=8,aligned=true,wrap=true,floats=504"])
def test_mean_gradients_are_sums_over_counts(spec, form):
    method = parse(spec)
    mean = parse(spec + ",gradient=mean").build(TABLES, seed=1)
    total = method.build(TABLES, seed=1)
    ids = torch.arange(20)[:, None].expand(20, 3)
    for group in (mean, total):
        group.gather.gradient = form
        group(ids).square().sum().backward()
        assert group.memory.grad.is_sparse == (form == "rows")
    counts = torch.from_numpy(slot_counts(method.address_map(TABLES, seed=1))).view_as(total.memory)
    expected = (total.memory.grad.to_dense() / counts.clamp(min=1)).float()
    torch.testing.assert_close(mean.memory.grad.to_dense(), expected)
    assert torch.equal(mean(ids), total(ids))
