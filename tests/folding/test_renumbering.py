"""Ids that may be renumbered: clusters are intervals of numbers, for next to nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from folding.toys import DeepFM, look_trained, some_ids
from tablefold import ClusteredResidual, TableSpec, fold, from_pretrained, plan, save_pretrained, unfold
from tablefold.folding.planning import Weighed, plan_trained
from tablefold.folding.replacing import load_kept
from tablefold.formats import FP32, INT4
from tablefold.method import Trained
from tablefold.plans import Part, Plan

pytestmark = pytest.mark.filterwarnings("ignore:.*tune the model")


def clustered(rows=3000, dim=8, clusters=40, **options):
    """A module whose rows lie near a few points, in no order."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(clusters, dim, generator=generator)
    of = torch.randint(clusters, (rows,), generator=generator)
    module = nn.Embedding(rows, dim, **options)
    with torch.no_grad():
        module.weight.copy_(points[of] + 0.05 * torch.randn(rows, dim, generator=generator))
    return module


def renumbered(report, ids):
    """Ids of `DeepFM` by their new numbers."""
    names = {"user": "user", "item": "item", "city": "more.city", "tag": "more.tag"}
    names |= {"day": "times.0", "hour": "times.1"}
    new = {name: torch.from_numpy(report.numbering[table])[ids[name]] for name, table in names.items()}
    return {**ids, **new, "history": torch.from_numpy(report.numbering["history"])[ids["history"]]}


@pytest.mark.parametrize("compression", [6, 20, 60])
def test_a_model_reads_new_numbers_as_it_read_the_old_ones(compression):
    model = look_trained(DeepFM())
    before, vectors = model(some_ids()), {name: model.get_submodule(name).weight.detach() for name in ("user", "item")}
    report = fold(model, compression=compression, ids="renumber")
    assert report.num_bytes <= report.bytes_before / compression
    assert report.numbering["history"] is report.numbering["item"]
    for table in report.tables:
        numbers = report.numbering[table.names[0]]
        assert np.array_equal(np.sort(numbers), np.arange(table.rows))
    for name, old in vectors.items():
        new = model.get_submodule(name).weight.detach()[torch.from_numpy(report.numbering[name])]
        lost = float((old - new).square().sum() / old.square().sum())
        error = next(table.error for table in report.tables if name in table.names)
        assert lost == pytest.approx(error, rel=0.02, abs=2e-4)  # the padding id reads zero
    assert report.numbering["history"][0] == model.history.padding_idx == 0
    changed = (model(renumbered(report, some_ids())) - before).square().mean()
    assert changed < (0.05 if compression == 6 else 1.5) * before.square().mean()
    unfold(model)


def test_clusters_are_intervals_and_next_to_free():
    model = nn.ModuleDict({"a": clustered()})
    report = fold(model, compression=100, ids="renumber")
    assert model["a"].group.edges is not None
    assert model["a"].group.lookup is None
    assert report.tables[0].representation.startswith("clustered_residual:rows=")
    assert report.tables[0].error < 0.02
    assert report.num_bytes == model["a"].num_bytes <= report.bytes_before / 100
    with pytest.raises(ValueError, match="below the smallest possible that keeps these trained tables"):
        fold(nn.ModuleDict({"a": clustered()}), compression=100)  # a pointer has 2.7 bits


def test_a_size_with_pointers_says_that_it_counts_them():
    table = Trained(TableSpec("a", 3000, 8), clustered().weight.detach(), np.ones(3000), None, renumbers=True)
    free = plan_trained([Weighed(table, 96_000, 4)], "auto", 1_600, seed=0)
    assert free.bytes().embedding <= 1_600 < free.bytes().with_pointers
    told = "a budget of 1000 bytes is below the smallest possible .* [0-9]{4} bytes with pointers: raise it to"
    with pytest.raises(ValueError, match=told):
        plan_trained([Weighed(table, 96_000, 4)], "auto", 1_000, seed=0, with_pointers=True)


def test_a_padding_id_becomes_0_and_stays_zero():
    module = clustered(padding_idx=1234)
    with torch.no_grad():
        module.weight[1234] = 0
    model = nn.ModuleDict({"a": module})
    report = fold(model, compression=40, ids="renumber")
    assert report.numbering["a"][1234] == model["a"].padding_idx == 0
    assert not model["a"](torch.tensor([0])).any()


def test_stages_of_a_residual_go_on_where_clusters_end():
    values = look_trained(nn.ModuleDict({"a": nn.Embedding(3000, 16)}), rank=8)["a"].weight.detach()
    table = TableSpec("a", 3000, 16)
    trained, errors = Trained(table, values, np.ones(3000), renumbers=True), []
    for method in (
        ClusteredResidual(rows=64),
        ClusteredResidual(rows=64, stages=1),
        ClusteredResidual(rows=64, stages=3),
    ):
        kept = method.keep(trained, INT4)
        group = Plan((table,), (Part((table,), method, INT4),)).build()
        load_kept(group, kept)
        errors.append(trained.error(values[torch.from_numpy(kept.order)] - group.unfold("a")))
    assert errors[0] > 1.3 * errors[1] > 1.3 * 1.3 * errors[2]


def test_a_ladder_tells_the_bytes_and_about_the_error():
    model = look_trained(nn.ModuleDict({"a": nn.Embedding(3000, 8)}))
    table, values = TableSpec("a", 3000, 8), model["a"].weight.detach()
    trained = Trained(table, values, 1.0 + np.arange(3000) % 7, renumbers=True)
    assert not [*ClusteredResidual().ladder(Trained(table, values, trained.weights), most=96_000)]
    rungs = [*ClusteredResidual().ladder(trained, most=96_000)]
    assert {rung.method.stages for rung in rungs} >= {0, 1, 2}
    for rung in rungs:
        part = Part((table,), rung.method, rung.format)
        assert Plan((table,), (part,)).num_bytes == rung.num_bytes < table.num_bytes
    for rung in rungs[::7]:
        kept = rung.method.keep(trained, rung.format)
        group = Plan((table,), (Part((table,), rung.method, rung.format),)).build()
        load_kept(group, kept)
        lost = trained.error(values - group.unfold("a")[torch.from_numpy(np.argsort(kept.order))])
        assert 0.5 * rung.error < lost < 1.2 * rung.error


def test_edges_are_state_and_load_where_they_rise_within_the_table(tmp_path):
    model = nn.ModuleDict({"a": clustered()})
    report = fold(model, compression=60, ids="renumber")
    save_pretrained(model, tmp_path / "folded")
    loaded = from_pretrained(tmp_path / "folded", nn.ModuleDict({"a": nn.Embedding(3000, 8)}))
    assert torch.equal(loaded["a"].weight, model["a"].weight)
    fresh = report.plan.build()
    state = model["a"].group.state_dict()
    edges = state["edges"]
    for wild in (edges + 3000, edges.flip(0), edges * 0, edges[1:], edges.to(torch.int64)):
        with pytest.raises(ValueError, match="edges of these weights is not the array"):
            fresh.load_state_dict({**state, "edges": wild})
    fresh.load_state_dict(state)
    assert torch.equal(fresh.unfold("a"), model["a"].unfold())


def test_more_clusters_than_differ_are_no_trouble():
    module = nn.Embedding(3000, 8)
    with torch.no_grad():
        module.weight.copy_(torch.randn(5, 8)[torch.arange(3000) % 5])
    model = nn.ModuleDict({"a": module})
    assert fold(model, budget=2000, method="clustered_residual", ids="renumber").tables[0].error < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": "renumber", "weights": "new"}, "ids='renumber' numbers ids by what was learned of them"),
        ({"ids": "shuffled"}, "ids=shuffled must be one of stored, renumber"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    for function in (fold, plan):
        with pytest.raises(ValueError, match=message):
            function(nn.ModuleDict({"a": clustered()}), compression=10, **options)


def test_a_plan_renumbers_too():
    model = nn.ModuleDict({"a": clustered()})
    found = plan(model, compression=60, ids="renumber")
    assert found == fold(model, compression=60, ids="renumber").plan


def test_what_the_numbering_carries_is_told():
    method, tables = ClusteredResidual(rows=40), (TableSpec("user", 3000, 8), TableSpec("hour", 24, 8))
    assert method.pointer_bytes(tables) == 3000 * 6 // 8  # 6 bits for 40 clusters; the small table is full
    assert Plan(tables, (Part(tables, method, INT4),)).bytes().with_pointers == Plan(
        tables, (Part(tables, method, INT4),)
    ).num_bytes + method.pointer_bytes(tables)


def test_pinned_ids_come_first_and_share_with_no_others():
    values = clustered().weight.detach()
    trained = Trained(TableSpec("a", 3000, 8), values, np.ones(3000), renumbers=True, pinned=(7, 1234))
    kept = ClusteredResidual(rows=40).keep(trained, FP32)
    assert kept.order[:2].tolist() == [7, 1234]
    assert kept.edges[0][:2].tolist() == [1, 2]
    torch.testing.assert_close(kept.regions[0][:2], values[[7, 1234]])
    with pytest.raises(ValueError, match="rows=2 must be more than the 2 ids of table 'a' that have rows of their own"):
        ClusteredResidual(rows=2).keep(trained, INT4)
