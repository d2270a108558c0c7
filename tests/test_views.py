"""A view of a group: the module of one table, of any dim, in anyone's model."""

import copy
import io

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tablefold import TableSpec, make_plan, parse
from tablefold.optim import Adagrad

TABLES = [TableSpec("user", 1000, 16), TableSpec("item", 317, 16), TableSpec("country", 20, 16)]
MIXED = [TableSpec("user", 1000, 16), TableSpec("item", 317, 8), TableSpec("country", 20, 4)]
SPECS = ("full", "qr:collisions=4", "qr:collisions=4,combine=concat", "robe:block=8,floats=2000", "hash:collisions=3")
SAME_DIM = ("unified:lookups=2,rows=300", "hash_embeddings:k=2,floats=4000", "path:collisions=4,function=linear")


class TwoTowers(nn.Module):
    """Two columns of one table, one of another; the weight beside them is the model's own."""

    def __init__(self, group):
        super().__init__()
        self.user, self.seen, self.item = group["user"], group["item"], group["item"]
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, users, seen, items):
        return ((self.user(users) + self.seen(seen).mean(1)) * self.item(items) * self.weight).sum(-1)


def inputs(seed=0, batch=32):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1000, (batch,)), (317, (batch, 3)), (317, (batch,)))
    return [torch.randint(rows, shape, generator=generator) for rows, shape in shapes]


@pytest.mark.parametrize("spec", SPECS + SAME_DIM)
def test_a_view_gives_the_vectors_of_its_table(spec):
    group = parse(spec).build(TABLES, seed=1)
    ids = torch.stack([torch.arange(20) for _ in TABLES], dim=1)
    vectors = group(ids)
    for column, table in enumerate(TABLES):
        assert torch.equal(group[table.name](ids[:, column]), vectors[:, column])
        assert torch.equal(group[table.name](ids[:, column].view(4, 5)), vectors[:, column].view(4, 5, 16))
        assert group[table.name](torch.tensor(3)).shape == (16,)
        assert group[table.name](ids[:0, column]).shape == (0, 16)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("storage", ["fp32", "int2"])
def test_tables_of_different_dims_share_a_group(spec, storage):
    group = make_plan(spec, MIXED, storage=storage).build()
    for table in MIXED:
        full = group.unfold(table.name)
        assert full.shape == (table.rows, table.dim)
        assert len(full.unique(dim=0)) > 1
        ids = torch.tensor([[1, 2], [3, table.rows - 1]])
        assert torch.equal(group[table.name](ids), full[ids])
    with pytest.raises(ValueError, match="needs tables of one dim; got 4, 8, 16"):
        group(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("spec", SAME_DIM)
def test_a_method_that_needs_one_dim_says_so(spec):
    with pytest.raises(ValueError, match=r"needs tables of one dim; got 4, 8, 16"):
        parse(spec).build(MIXED)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("spec", SPECS + SAME_DIM)
def test_gradients_of_views_add_up_to_those_of_the_group(spec, sparse):
    group = parse(spec).build(TABLES)
    group.sparse = sparse
    ids = torch.stack([torch.randint(table.rows, (50,)) for table in TABLES], dim=1)
    group(ids).square().sum().backward()
    whole = [array.grad.to_dense().clone() for array in group.arrays]
    group.zero_grad()
    sum(group[table.name](ids[:, column]).square().sum() for column, table in enumerate(TABLES)).backward()
    for array, expected in zip(group.arrays, whole, strict=True):
        torch.testing.assert_close(array.grad.to_dense(), expected)


def test_an_array_that_a_view_does_not_read_gets_no_gradient():
    group = parse("full").build(MIXED)
    group["item"](torch.tensor([3])).sum().backward()
    assert {name for name, array in group.memory.items() if array.grad is not None} == {"rows_8"}


def test_weights_are_saved_once_and_load_again(tmp_path):
    model = TwoTowers(parse("qr:collisions=4").build(TABLES))
    state = model.state_dict()
    assert sorted(state) == ["user.group._extra_state", "user.group.memory.rows_16", "weight"]
    save_file(state, tmp_path / "model.safetensors")
    other = TwoTowers(parse("qr:collisions=4").build(TABLES))
    with torch.no_grad():
        other.user.group.arrays[0].zero_()
    assert other.load_state_dict(load_file(tmp_path / "model.safetensors")) == ([], [])
    assert torch.equal(other(*inputs()), model(*inputs()))
    state.pop("user.group.memory.rows_16")
    with pytest.raises(RuntimeError, match=r"user.group.memory.rows_16"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"user.group.memory.rows_16.*item.group.memory.rows_16"):
        other.load_state_dict({"weight": state["weight"]})


def test_weights_are_one_parameter_for_an_optimiser():
    model = TwoTowers(parse("robe:block=8,floats=2000").build(TABLES))
    assert [name for name, _ in model.named_parameters()] == ["weight", "user.group.memory.rows_1"]
    before = model(*inputs()).detach()
    optimizer = Adagrad(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(*inputs()).square().sum().backward()
        optimizer.step()
    assert not torch.equal(model(*inputs()), before)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: torch.load(_saved(model), weights_only=False)])
def test_copies_share_nothing_with_the_original_and_all_among_themselves(how):
    model = TwoTowers(parse("qr:collisions=4").build(TABLES))
    other = how(model)
    assert other.user.group is other.item.group is other.seen.group is not model.user.group
    with torch.no_grad():
        model.user.group.arrays[0].zero_()
    assert other(*inputs()).abs().sum() > 0


def _saved(model):
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return stream


def test_a_model_of_views_compiles_as_one_graph():
    model = TwoTowers(parse("qr:collisions=4").build(TABLES))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (32, 7):
        torch.testing.assert_close(compiled(*inputs(batch=batch)), model(*inputs(batch=batch)))


def test_a_model_of_views_is_exported():
    model = TwoTowers(parse("qr:collisions=4").build(TABLES)).eval()
    batch = torch.export.Dim("batch")
    exported = torch.export.export(model, tuple(inputs()), dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    torch.testing.assert_close(exported.module()(*inputs(1, 7)), model(*inputs(1, 7)))


def test_a_view_says_what_is_wrong():
    group = parse("full").build(MIXED)
    with pytest.raises(ValueError, match="no table 'colour' in this group; its tables: user, item, country"):
        group["colour"]
    with pytest.raises(ValueError, match=r"table 'country': id 20 \(example 1 of the batch\) is outside 0 .. 19"):
        group["country"](torch.tensor([3, 20]))
    with pytest.raises(ValueError, match="ids must be int64 or int32; got"):
        group["country"](torch.zeros(3))


def test_frozen_views_refuse_gradients():
    group = make_plan("full", TABLES, storage="int4").build()
    expected = group["item"](torch.arange(317))
    group.freeze()
    assert torch.equal(group["item"](torch.arange(317)), expected)
    with pytest.raises(ValueError, match="memory is frozen and cannot learn"):
        group["item"](torch.arange(3)).sum().backward()


def test_the_lookup_arrays_of_a_table_are_its_own():
    from tablefold import Custom

    folder = "tests/golden/lookup/small"
    group = Custom(lookup=folder).build(
        [TableSpec("user", 1000, 8), TableSpec("item", 317, 8), TableSpec("country", 20, 8)]
    )
    ids = torch.stack([torch.arange(20)] * 3, dim=1)
    for column, table in enumerate(group.tables):
        assert torch.equal(group[table.name](ids[:, column]), group(ids)[:, column])


@pytest.mark.parametrize("spec", SPECS + SAME_DIM)
def test_every_parameter_is_in_one_group_for_an_optimiser(spec):
    group = parse(spec).build(TABLES)
    found = [parameter for each in group.param_groups() for parameter in each["params"]]
    assert [id(one) for one in found] == [id(one) for one in group.parameters()]
    assert {each["role"] for each in group.param_groups()} <= {"rows", "weights", "transform"}
    torch.optim.Adam(group.param_groups(), lr=0.1).step()
