"""Clusters: found in trained tables, carried by the order of the ids, within the budget."""

import numpy as np
import pytest
import torch

from tablefold import Clusters, TableSpec, parse
from tablefold.method import Trained
from tablefold.plans import Part, Plan

FIRST = 2


def planted(name="user", rows=4000, kinds=20, seed=0, metric=None):
    """(a trained table whose rows are of a few kinds, the kind of each)."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, kinds, rows)
    centres = random.normal(size=(kinds, 8))
    values = torch.from_numpy(centres[kind] + 0.01 * random.normal(size=(rows, 8))).float()
    counts = random.permutation(np.maximum(5, 20_000 // np.arange(1, rows + 1))).astype(np.float64)
    return Trained(TableSpec(name, rows, 8), values, counts, metric), kind


def plan_of(tables, learned):
    parts = tuple(Part((each.table,), own.method, own.format) for each, own in zip(tables, learned, strict=True))
    edges = {name: own for each in learned for name, own in each.edges.items()}
    return Plan(tuple(each.table for each in tables), parts, edges)


def vectors_in_old_order(plan, learned, name, seed=0):
    group = plan.build(seed=seed)
    unfolded = group.unfold(name)
    found = torch.empty_like(unfolded)
    found[torch.from_numpy(learned.order)] = unfolded
    return found


def test_ids_of_a_kind_share_a_row():
    table, kind = planted()
    (learned,) = Clusters(share=1.0).learn([table], 900, FIRST)
    vectors = vectors_in_old_order(plan_of([table], [learned]), learned, "user")
    distinct = torch.unique(vectors, dim=0)
    assert 20 <= len(distinct) <= 900 / 8.5
    mixed = sum(len(np.unique(kind[FIRST:][(vectors[FIRST:] == each).all(dim=1).numpy()])) > 1 for each in distinct)
    assert mixed <= 2


@pytest.mark.parametrize("budget", [700, 2_000, 10_000, 40_000])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_budget_is_met_and_ids_of_no_value_stay_first_and_alone(budget, share):
    tables = [planted()[0], planted("item", 600, 7, seed=1)[0]]
    learned = Clusters(share=share).learn(tables, budget, FIRST, seed=3)
    plan = plan_of(tables, learned)
    assert plan.build().num_bytes == plan.num_bytes <= budget
    for table, own in zip(tables, learned, strict=True):
        assert own.order[:FIRST].tolist() == [0, 1]
        assert sorted(own.order) == list(range(table.table.rows))
        vectors = vectors_in_old_order(plan, own, table.table.name)
        assert all((vectors == vectors[first]).all(dim=1).sum() == 1 for first in range(FIRST))


@pytest.mark.parametrize("budget", [2_000, 3_000, 5_000, 12_000])
@pytest.mark.parametrize("share", [0.1, 1.0, None])
def test_a_budget_can_bound_pointers_too(budget, share):
    tables = [planted()[0], planted("item", 600, 7, seed=1)[0]]
    learned = Clusters(share=share).learn(tables, budget, FIRST, seed=3, with_pointers=True)
    plan = plan_of(tables, learned)
    assert plan.pointer_bytes > 0
    assert 0.7 * budget < plan.num_bytes + plan.pointer_bytes <= budget


def test_it_is_the_same_each_time_and_another_with_another_seed():
    table, _ = planted()
    first, again, other = (Clusters(share=0.4).learn([table], 3_000, FIRST, seed)[0] for seed in (1, 1, 2))
    assert first.method == again.method
    assert np.array_equal(first.order, again.order)
    assert not np.array_equal(first.order, other.order)


def test_rare_ids_get_no_cluster_by_their_vector():
    table, _ = planted()
    counts = np.where(np.arange(4000) < 1000, 50.0, np.arange(4000) % 3)
    (learned,) = Clusters(least=5).learn([Trained(table.table, table.values, counts)], 900, FIRST)
    rare = [x for x in learned.order[FIRST:] if counts[x] < 5]
    assert [counts[x] for x in rare] == sorted((counts[x] for x in rare), reverse=True)
    assert learned.order[-len(rare) :].tolist() == rare
    vectors = vectors_in_old_order(plan_of([table], [learned]), learned, "user")
    assert len(torch.unique(vectors[torch.tensor(rare)], dim=0)) <= 3  # by counts 2, 1 and 0


def test_clusters_lie_where_errors_cost():
    flat = torch.diag(torch.tensor([1.0, 1.0, 0, 0, 0, 0, 0, 0]))
    table, _ = planted(kinds=2000)
    costs = {}
    for name, metric in (("plain", None), ("metric", flat)):
        trained = Trained(table.table, table.values, table.weights, metric)
        (learned,) = Clusters().learn([trained], 500, FIRST)
        vectors = vectors_in_old_order(plan_of([table], [learned]), learned, "user")
        costs[name] = sum(
            float((table.values[mask] - table.values[mask].mean(dim=0))[:, :2].square().sum())
            for mask in [(vectors == each).all(dim=1) for each in torch.unique(vectors, dim=0)]
        )
    assert costs["metric"] < 0.5 * costs["plain"]


def test_edges_are_saved_with_the_weights_and_checked():
    table, _ = planted()
    learned = Clusters(share=0.4).learn([table], 3_000, FIRST)
    plan = plan_of([table], learned)
    group, blank = plan.build(seed=0), Plan(plan.tables, plan.parts).build(seed=1)
    assert not torch.equal(group.edges, blank.edges)
    state = {name: value.clone() for name, value in group.state_dict().items()}
    blank.load_state_dict(state)
    ids = torch.arange(4000)[:, None]
    assert torch.equal(blank(ids), group(ids))
    for damage in (-1, 0, 4000, 2**31 - 1):
        damaged = {**state, "edges": state["edges"].clone()}
        damaged["edges"][3] = damage
        with pytest.raises(ValueError, match="edges of these weights is not the array"):
            blank.load_state_dict(damaged)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse("clusters:rows=0"), "rows=0 must be at least 1"),
        (lambda: parse("clusters:rows=3,clusters=3"), "or the clusters of each zone, not both"),
        (lambda: parse("clusters:stored=true,stops=5,clusters=1x1"), "stored pointers go with one zone"),
        (lambda: parse("clusters:stops=5,clusters=1"), "must be 2 numbers"),
        (lambda: parse("clusters:share=0"), "share=0.0 must lie in"),
        (lambda: parse("clusters").build([TableSpec("a", 10, 4)]), "clusters needs a size"),
        (lambda: Clusters().learn([planted()[0]], 100, FIRST), "a budget of 100 bytes is below the smallest possible"),
        (
            lambda: Clusters().learn([planted()[0]], 1_000, FIRST, with_pointers=True),
            "a budget of 1000 bytes is below the smallest possible for clusters here",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
