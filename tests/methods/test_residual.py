"""Residual quantisation: trained tables in a byte per stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tablefold import Residual, TableSpec, all_methods
from tablefold import method as method_module
from tablefold.formats import INT4, INT8
from tablefold.formats.fitting import fitted
from tablefold.method import Trained
from tablefold.methods import codebooks
from tablefold.plans import Part, Plan

TABLE = TableSpec("user", 2000, 8)


def trained(metric=None, dim=8):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2000, 3, generator=generator) @ torch.randn(3, dim, generator=generator)
    values += 0.1 * torch.randn(2000, dim, generator=generator)
    return Trained(TableSpec("user", 2000, dim), values, 1.0 + np.arange(2000) % 7, metric)


def group_of(kept, method, within=INT8, table=TABLE):
    group = Plan((table,), (Part((table,), method, within),)).build()
    with torch.no_grad():
        group.arrays[0].copy_(torch.cat(kept.regions))
    if kept.lookups:
        group.lookup.copy_(torch.from_numpy(np.concatenate(kept.lookups)))
    return group


@pytest.mark.parametrize("metric", [None, torch.diag(torch.arange(1.0, 9.0))])
def test_an_error_is_the_same_a_piece_at_a_time(metric, monkeypatch):
    table = trained(metric)
    errors, weights = table.values.double(), torch.from_numpy(table.weights)
    costs = torch.einsum("rd,de,re->r", errors, torch.eye(8).double() if metric is None else metric.double(), errors)
    monkeypatch.setattr(method_module, "_PIECE", 300)
    assert table.error(table.values) == pytest.approx(float(weights @ costs / weights.sum()), rel=1e-6)


@pytest.mark.parametrize(
    ("stages", "rows", "sharing", "bits"), [(4, 16, 2, 16), (3, 7, 3, 8), (1, 16, 2, 4), (1, 33, 3, 16 / 3)]
)
def test_pointers_that_share_a_number_are_its_remainders(stages, rows, sharing, bits):
    method, table = Residual(stages, rows, sharing), trained()
    kept = method.keep(table, INT8)
    group = group_of(kept, method)
    assert group.lookup.nbytes == -(-2000 * bits // 8)
    assert group.num_bytes == method.num_bytes_of(TABLE, INT8)
    apart = Residual(stages, rows)
    errors = [
        table.error(table.values - group_of(each.keep(table, INT8), each).unfold("user")) for each in (method, apart)
    ]
    assert errors[0] < 1.4 * errors[1]  # for some rows fewer
    fresh = Plan((TABLE,), (Part((TABLE,), method, INT8),)).build()
    fresh.load_state_dict(group.state_dict())
    assert torch.equal(fresh.unfold("user"), group.unfold("user"))


def test_the_best_of_several_sums_lose_less_than_the_nearest_row_at_each_stage(monkeypatch):
    errors = []
    for beam in (1, codebooks.BEAM_OF_SMALL):
        monkeypatch.setattr(codebooks, "BEAM_OF_SMALL", beam)
        method = Residual(4, 16)
        errors.append(trained().error(trained().values - group_of(method.keep(trained(), INT8), method).unfold("user")))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("dim", [1, 5, 8])
@pytest.mark.parametrize("kind", all_methods().values(), ids=lambda kind: kind.name)
def test_a_ladder_tells_the_bytes_and_about_the_error(kind, dim):
    table = trained(dim=dim)
    for rung in kind().ladder(table, most=table.table.num_bytes):
        plan = Plan((table.table,), (Part((table.table,), rung.method, rung.format),))
        assert plan.num_bytes == rung.num_bytes < table.table.num_bytes
        kept = rung.method.keep(table, rung.format)
        vectors = group_of(kept, rung.method, rung.format, table.table).unfold("user")
        assert 0.3 * rung.error - 1e-9 <= table.error(table.values - vectors) <= 1.05 * rung.error + 1e-9


def test_tables_in_one_array_with_others_get_pointers_of_a_byte_and_whole_blocks():
    plain = trained(dim=16)
    own = replace(plain, singly=True, stacked=True)
    rungs, others = ([*Residual().ladder(each, most=plain.table.num_bytes)] for each in (own, plain))
    assert 0 < len(rungs) < len(others)
    for rung in rungs:
        assert not rung.method.shares_ids
        assert rung.method.radix <= 256
        assert sum(rung.method.codebooks) * 16 % 32 == 0


def test_more_stages_lose_less_and_all_stages_count():
    table, errors = trained(), []
    for stages in (1, 2, 4):
        group = group_of(Residual(stages, 32).keep(table, INT8), Residual(stages, 32))
        errors.append(table.error(table.values - group.unfold("user")))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_a_metric_moves_errors_to_where_they_cost_nothing():
    metric = torch.diag(torch.tensor([1.0] * 4 + [0.0] * 4))
    plain, guided = (Residual(2, 32).keep(each, INT8) for each in (trained(), trained(metric)))
    errors = [
        trained(metric).error(trained().values - group_of(kept, Residual(2, 32)).unfold("user"))
        for kept in (plain, guided)
    ]
    assert errors[1] < 0.75 * errors[0]


def test_pointers_are_state_and_load_where_they_are_in_range():
    method = Residual(2, 32)
    group = group_of(method.keep(trained(), INT8), method)
    fresh = Plan((TABLE,), (Part((TABLE,), method, INT8),)).build()
    fresh.load_state_dict(group.state_dict())
    assert torch.equal(fresh.unfold("user"), group.unfold("user"))
    assert fresh.address_map.fingerprint == group.address_map.fingerprint
    wild = {**group.state_dict(), "lookup": group.lookup.clone().fill_(32)}
    with pytest.raises(ValueError, match="lookup of these weights is not the array"):
        fresh.load_state_dict(wild)


@pytest.mark.parametrize(
    "options", [{"stages": 0}, {"stages": 65}, {"rows": 0}, {"sharing": 0}, {"sharing": 4}, {"rows": 5, "sharing": 4}]
)
def test_sizes_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=r"residual: .* must be at least 1"):
        Residual(**options)


def test_fitted_masters_never_lose_more_than_plain_ones():
    values = torch.randn(37, 5, generator=torch.Generator().manual_seed(1)) ** 3
    for kept in (INT8, INT4):
        plain, best = ((kept.read(each) - values).square().sum() for each in (values, fitted(values, kept)))
        assert best <= plain
