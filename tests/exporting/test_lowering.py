"""An exported graph computes what torch computes, in few operations, from memory as it is packed."""

import math

import pytest
import torch
from torch.export import Dim

from methods.cases import CASES
from tablefold import Embedding, EmbeddingBag, TableSpec, make_plan, parse
from tablefold.exporting.capture import capture, shipped
from tablefold.exporting.constants import fold_constants
from tablefold.formats import FORMATS
from tablefold.group import EmbeddingGroup
from tablefold.ops.lowering import lowers
from tablefold.partitions import Partition, identity, intervals
from tablefold.starts import Start
from tablefold.terms import AddressMap, Projection, Region, Term

TABLES = [TableSpec("user", 1000, 8), TableSpec("item", 317, 8), TableSpec("country", 20, 8)]
FIRST = list({case.method.name: case for case in CASES}.values())
quiet = pytest.mark.filterwarnings("ignore")


def some_ids(rows=9, tables=TABLES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(table.rows, (rows,), generator=generator) for table in tables], dim=1)


def captured(module, *inputs):
    names = [f"input_{number}" for number in range(len(inputs))]
    return capture(module, dict(zip(names, inputs, strict=True))).program


def same(program, module, *inputs):
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*inputs), module(*inputs))


@quiet
@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.spec)
@pytest.mark.parametrize("storage", ["fp32", "int4"])
def test_a_method_is_lowered_to_what_it_means(case, storage):
    group = make_plan(case.method, TABLES, storage=storage).build(seed=3)
    own = shipped(group)
    program = captured(own, some_ids())
    for rows in (1, 33):
        same(program, own, some_ids(rows, seed=rows))


@quiet
@pytest.mark.parametrize("dim", [1, 3, 8, 16, 24, 32, 48])
@pytest.mark.parametrize("storage", ["bf16", "int8", "int4", "int2"])
def test_rows_of_any_width_are_lowered_in_every_format(storage, dim):
    tables = [TableSpec("user", 3000, dim), TableSpec("item", 33, dim)]
    own = shipped(make_plan("full", tables, storage=storage).build(seed=1))
    program = captured(own, some_ids(tables=tables))
    every = torch.stack([torch.arange(33), torch.arange(33)], dim=1)
    same(program, own, every)
    assert sum(each.nbytes for each in program.state_dict.values()) <= 1.125 * own.num_bytes + 3000


@quiet
@pytest.mark.parametrize(
    "spec", ["robe:block=16,floats=1000", "robe:block=16,floats=37,wrap=true", "robe:block=8,sign=true,floats=999"]
)
def test_runs_of_floats_are_cut_from_whole_lines(spec):
    tables = [TableSpec("user", 5000, 16), TableSpec("item", 300, 16)]
    own = shipped(parse(spec).build(tables, seed=2))
    program = captured(own, some_ids(tables=tables))
    same(program, own, some_ids(500, tables))


@quiet
def test_tables_of_other_sizes_dims_and_kinds_keep_their_places():
    tables = [TableSpec("a", 7, 8), TableSpec("b", 500, 8), TableSpec("c", 9, 8), TableSpec("d", 900, 8)]
    own = shipped(make_plan("qr:collisions=4,combine=mul", tables, threshold=20).build())
    same(captured(own, some_ids(tables=tables)), own, some_ids(50, tables))


def graded(kept):
    """Ranges with narrow projected rows, a row for each interval of ids, and for some ids that alone; ranks; full rows;
    one table of intervals, one of ranges without."""
    tables = [TableSpec(name, 4000, 16) for name in "abcdef"]
    regions, terms = [], [[] for _ in tables]

    def region(rows, width, role="rows"):
        regions.append(Region(rows, width, Start(std=1.0), role))
        return sum(each.floats for each in regions[:-1])

    def add(column, part, width, first=0, stop=None, projected=True):
        base = region(part.num_buckets, width)
        by = Projection(region(width, 16, "projections"), 16) if projected and width < 16 else None
        terms[column].append(Term(part, base, width, width, first=first, stop=stop, projection=by))

    for column, cuts in ((0, [0, 64, 300, 1200, 4000]), (3, [0, 100, 4000])):
        for width, first, stop in zip((16, 4, 2, 0), cuts, cuts[1:], strict=False):
            blocks = intervals([20, 50]) if stop < 4000 else Partition(1)
            add(column, blocks, 16, first, stop)
            if width:
                add(column, identity(stop - first), width, first, stop)
    add(1, identity(4000), 3)
    add(2, identity(4000), 16)
    add(4, intervals(range(1, 4000, 7)), 16)
    add(5, Partition(1), 16, 0, 10)
    add(5, identity(3990), 2, 10, 4000)
    return AddressMap(tuple(tables), tuple(map(tuple, terms)), tuple(regions)).in_format(FORMATS[kept])


@quiet
@pytest.mark.parametrize("outside", ["nan", "unchecked"])
@pytest.mark.parametrize("kept", FORMATS)
def test_ranges_projections_and_edges_are_lowered(kept, outside):
    address_map = graded(kept)
    assert lowers(address_map)
    own = shipped(EmbeddingGroup(address_map, seed=2), outside)
    program = captured(own, some_ids(tables=address_map.tables))
    every = torch.arange(4000)[:, None].repeat(1, 6)
    same(program, own, every)
    assert sum(each.nbytes for each in program.state_dict.values()) <= own.num_bytes + 50_000
    if outside == "nan":
        wild = torch.tensor([[0, 1, 2, 3, 4, 4000], [-1, 1, 2, 4001, 4, 5]])
        lost = program.module()(wild).isnan().all(-1)
        assert lost.tolist() == [[False] * 5 + [True], [True, False, False, True, False, False]]


def test_ranges_that_multiply_or_hash_are_exported_as_the_reference():
    tables = [TableSpec("a", 4000, 16)]
    assert not lowers(parse("hot:rows=10,over=qr:combine=mul").build(tables).address_map)


class Views(torch.nn.Module):
    def __init__(self):
        super().__init__()
        tables = [TableSpec("user", 300, 4), TableSpec("item", 90, 16)]
        group = make_plan("full", tables, storage="int8").build()
        self.user, self.item = group["user"], group["item"]

    def forward(self, ids):
        return torch.cat([self.user(ids[:, 0]), self.item(ids[:, 1])], dim=1)


@quiet
def test_views_of_tables_of_several_dims_are_lowered():
    own = shipped(Views())
    ids = torch.stack([torch.arange(80), torch.arange(80)], dim=1)
    same(captured(own, ids[:5]), own, ids)


@quiet
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_are_lowered(mode):
    bag = EmbeddingBag(1000, 8, method="qr:combine=mul", mode=mode, storage="int4", padding_idx=3)
    own = shipped(bag)
    program = captured(own, torch.arange(12), torch.tensor([0, 3, 3, 7]))
    same(program, own, torch.arange(40, 900, 7), torch.arange(0, 100, 3))


@quiet
@pytest.mark.parametrize("storage", ["fp32", "int4", "int2"])
def test_ids_outside_are_answered_alike_in_every_format(storage):
    for outside, answer in (("nan", math.nan), ("zero", 0.0)):
        group = make_plan("qr:collisions=4,combine=add", TABLES, storage=storage).build(seed=3)
        own = shipped(group, outside)
        program = captured(own, some_ids())
        wild = some_ids()
        expected = own(wild)
        wild[2, 1], wild[4, 0], wild[5, 2] = 317, -1, 1 << 62
        expected[2, 1] = expected[4, 0] = expected[5, 2] = answer
        torch.testing.assert_close(program.module()(wild), expected, equal_nan=True)


@quiet
@pytest.mark.parametrize("power", [24, 31, 40, 62])
def test_addresses_are_exact_for_large_ids(power):
    rows = min((1 << power) + 5, 1 << 62)
    tables = [TableSpec("user", rows, 4), TableSpec("item", rows, 4)]
    own = shipped(parse("hash:max_rows=1000").build(tables, seed=1))
    ids = torch.arange(rows - 64, rows).view(-1, 2)
    same(captured(own, ids[:3]), own, ids)


@quiet
def test_a_batch_costs_the_same_nodes_however_many_tables():
    counts = []
    for number in (2, 20):
        tables = [TableSpec(f"t{each}", 1000 + each, 16) for each in range(number)]
        group = parse("robe:block=4,floats=4000").build(tables)
        counts.append(len(captured(shipped(group), some_ids(tables=tables)).graph.nodes))
    assert counts[0] == counts[1]


@quiet
def test_a_direct_export_reads_packed_memory_as_it_is():
    """Without an exporter that folds constants nothing may be computed of the whole memory in each call."""
    group = make_plan("full", TABLES, storage="int4").build().freeze().eval()
    program = torch.export.export(group, (some_ids(),), dynamic_shapes=({0: Dim.DYNAMIC},))
    (memory,) = group.arrays
    large = [node for node in program.graph.nodes if node.op == "call_function" and _floats(node) >= memory.numel() / 2]
    assert not [node for node in large if "select" in str(node.target) or "slice" in str(node.target)]


def _floats(node):
    value = node.meta.get("val")
    return value.numel() if isinstance(value, torch.Tensor) and isinstance(value.numel(), int) else 0


@quiet
def test_constants_are_folded_unless_they_would_grow():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3))

        def forward(self, x):
            return x @ (self.weight * 2) @ self.weight.t().repeat(1, 4000)[:, :2] + self.weight.sum()

    inputs = (torch.ones(3, 2),)
    program = torch.export.export(Model(), inputs)
    folded = fold_constants(program.module(check_guards=False))
    torch.testing.assert_close(folded(*inputs), Model()(*inputs))
    left = [str(node.target) for node in folded.graph.nodes if node.op == "call_function"]
    assert not [name for name in left if "sum" in name]
    assert max(each.nbytes for each in folded.state_dict().values()) < 10_000


@quiet
def test_the_model_stays_as_it_was():
    embedding = Embedding(1000, 16, method="qr", storage="int4", outside="zero")
    model = torch.nn.Sequential(embedding, torch.nn.Linear(16, 1)).train()
    before = model.state_dict()
    own = shipped(model, "unchecked")
    assert own[0].group.is_frozen
    assert not embedding.group.is_frozen
    assert model.training
    assert embedding.group.outside == "zero"
    assert own[0].group.outside == "unchecked"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert own[1].weight.data_ptr() == model[1].weight.data_ptr()
