"""Every model: shapes, parameter counts, formulas, seeded starts, and the options it refuses."""

import pytest
import torch

from tablefold import EmbeddingGroup, Full, TableSpec
from tablefold.models import all_models, build_model, find_model, model_options
from tablefold.tables import Column


class Lookup(EmbeddingGroup):
    """Full tables, of which the first `extra` give a second feature."""

    def __init__(self, tables=26, dim=16, rows=50, extra=0, model="dlrm"):
        specs = [TableSpec(f"t{i}", rows, dim) for i in range(tables)]
        super().__init__(Full().address_map(find_model(model).tables_for(specs)))
        self.num_features += extra
        self.extra = extra

    def forward(self, ids):
        vectors = super().forward(ids)
        return torch.cat([vectors, vectors[:, : self.extra] * 2], dim=1)


def inputs(batch=5, dense=13, tables=26, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(batch, dense, generator=generator),
        torch.randint(50, (batch, tables), generator=generator),
    )


@pytest.mark.parametrize("name", all_models())
@pytest.mark.parametrize("dense", [0, 13])
@pytest.mark.parametrize("extra", [0, 3])
def test_any_group_gives_one_logit_per_row_and_every_parameter_learns(name, dense, extra):
    model = build_model(name, Lookup(extra=extra, model=name), dense)
    for batch in (0, 1, 5):
        assert model(*inputs(batch, dense)).shape == (batch,)
    model(*inputs(64, dense)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


LISTS = (Column("t1", "t1"), Column("t0", "t0", length=3), Column("history", "t1", length=2, pool="sum"))


@pytest.mark.parametrize("name", all_models())
def test_lists_are_pooled_after_they_are_composed(name):
    group = Lookup(tables=2, dim=4, model=name)
    model = build_model(name, group, 3, columns=LISTS)
    ids = torch.tensor([[7, 1, 4, 1, 9, 9], [8, 3, -1, -1, 5, -1], [6, -1, -1, -1, -1, -1]])
    dense = torch.rand(3, 3)
    rows = group.unfold("t0"), group.unfold("t1")
    mean = torch.stack([rows[0][[1, 4, 1]].mean(0), rows[0][3], torch.zeros_like(rows[0][0])])
    total = torch.stack([rows[1][9] * 2, rows[1][5], torch.zeros_like(rows[1][0])])
    expected = torch.stack([rows[1][ids[:, 0]], mean, total], dim=1)
    torch.testing.assert_close(model.vectors(ids), expected)
    assert model(dense, ids).shape == (3,)
    with pytest.raises(ValueError, match=r"ids must be \[batch, 6\]"):
        model(dense, torch.cat([ids, ids], dim=1))
    with pytest.raises(ValueError, match="table 't0': id 50"):
        model(dense, torch.where(ids == 4, 50, ids))


@pytest.mark.parametrize("name", all_models())
def test_rows_do_not_see_each_other(name):
    model = build_model(name, Lookup(model=name), 13)
    dense, ids = inputs(8)
    apart = torch.cat([model(dense[i : i + 1], ids[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(model(dense, ids), apart)


@pytest.mark.parametrize("name", all_models())
def test_the_start_is_a_function_of_the_seed_alone(name):
    state = torch.get_rng_state()
    one = build_model(name, Lookup(model=name), 13, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    other, different = (
        build_model(name, Lookup(model=name), 13, seed=3),
        build_model(name, Lookup(model=name), 13, seed=4),
    )
    x = inputs()
    assert torch.equal(one(*x), other(*x))
    assert not torch.equal(one(*x), different(*x))


@pytest.mark.parametrize("name", all_models())
def test_logits_start_near_zero_but_not_constant(name):
    """A start far off costs the first thousand steps; a constant one learns nothing from pairs."""
    model = build_model(name, Lookup(model=name), 13)
    logits = model(*inputs(512))
    assert logits.abs().mean() < 2
    assert logits.std() > 1e-3


def test_dlrm_has_the_papers_network_parameters():
    assert build_model("dlrm", Lookup(), 13).num_network_parameters == 475_985


def test_dlrm_reads_all_pairs_of_dot_products():
    model = build_model("dlrm", Lookup(tables=2, dim=4), 3, top_mlp=(), bottom_mlp=(8,))
    dense, ids = inputs(6, dense=3, tables=2)
    bottom = model.bottom(dense)
    first, second = model.group(ids).unbind(1)
    pairs = [(first * bottom).sum(1), (second * bottom).sum(1), (second * first).sum(1)]
    expected = model.top(torch.cat([bottom, torch.stack(pairs, 1)], 1)).squeeze(1)
    torch.testing.assert_close(model(dense, ids), expected)


def test_dcn_cross_layers_follow_the_formula():
    model = build_model("dcn", Lookup(tables=2, dim=4), 3, cross_layers=2)
    x0 = torch.rand(6, 11)
    x = x0
    for weight, bias in zip(model.cross.weight, model.cross.bias, strict=True):
        x = x0 * (x @ weight)[:, None] + bias + x
    torch.testing.assert_close(model.cross(x0), x)


@pytest.mark.parametrize(("rank", "parameters"), [(0, 11 * 11 + 11), (2, 2 * 11 * 2 + 11)])
def test_dcn_v2_cross_is_full_or_low_rank(rank, parameters):
    model = build_model("dcn_v2", Lookup(tables=2, dim=4), 3, cross_layers=1, cross_rank=rank)
    layer = model.cross[0]
    assert sum(p.numel() for p in layer.parameters()) == parameters
    x0, x = torch.rand(6, 11), torch.rand(6, 11)
    torch.testing.assert_close(layer(x0, x), x0 * layer.weight(x) + x)


def test_neumf_of_two_tables_reads_both_and_their_product():
    model = build_model("neumf", Lookup(tables=2, dim=4), 0, top_mlp=(8,))
    dense, ids = inputs(6, dense=0, tables=2)
    user, item = model.group(ids).unbind(1)
    torch.testing.assert_close(model(dense, ids), model.top(torch.cat([user, item, user * item], 1)).squeeze(1))


def test_deepfm_adds_weights_pairs_and_an_mlp():
    model = build_model("deepfm", Lookup(tables=3, dim=4, model="deepfm"), 2, deep_mlp=(8,))
    assert [table.dim for table in model.group.tables] == [5, 5, 5]
    dense, ids = inputs(6, dense=2, tables=3)
    rows = torch.stack([model.group.unfold(f"t{i}")[ids[:, i]] for i in range(3)], dim=1)
    vectors, weights = rows[:, :, :4], rows[:, :, 4].sum(dim=1)
    one, two, three = vectors.unbind(1)
    pairs = (one * two + one * three + two * three).sum(1)
    deep = model.deep(torch.cat([dense, vectors.flatten(1)], 1)).squeeze(1)
    torch.testing.assert_close(model(dense, ids), model.linear(dense).squeeze(1) + weights + pairs + deep)


def test_two_tower_is_matrix_factorisation_where_its_towers_have_no_layers():
    model = build_model("two_tower", Lookup(tables=2, dim=4), 0)
    dense, ids = inputs(6, dense=0, tables=2)
    user, item = model.group(ids).unbind(1)
    torch.testing.assert_close(model(dense, ids), (user * item).sum(1))


def test_two_tower_keeps_its_sides_apart():
    columns = [Column("t0", "t0", side="user"), Column("t1", "t1", side="item"), Column("t2", "t2", side="user")]
    columns.append(Column("history", "t1", length=2, side="user"))
    model = build_model("two_tower", Lookup(tables=3, dim=4), 2, columns=columns, user_mlp=(8,), item_mlp=(6,))
    dense, ids = inputs(6, dense=2, tables=5)
    vectors = model.vectors(ids)
    user, item = model.users(dense, vectors[:, [0, 2, 3]]), model.items(vectors[:, [1]])
    torch.testing.assert_close(model(dense, ids), (user * item).sum(1) + model.bias)
    with pytest.raises(ValueError, match="this data has one column alone"):
        build_model("two_tower", Lookup(tables=1), 0)


def test_unknown_names_and_options_say_what_there_is():
    with pytest.raises(ValueError, match=r"unknown model 'dlmr'; did you mean 'dlrm'\? models are: dcn,"):
        build_model("dlmr", Lookup())
    with pytest.raises(
        ValueError, match=r"'neumf' has no option 'bottom_mlp' \(did you mean 'top_mlp'\?\); it has: top"
    ):
        build_model("neumf", Lookup(), bottom_mlp=(3,))
    with pytest.raises(ValueError, match="cross_layers=0 must be at least 1"):
        build_model("dcn", Lookup(), cross_layers=0)
    with pytest.raises(ValueError, match="cross_rank=-1 must be an integer from 0 to 65,536"):
        build_model("dcn_v2", Lookup(), cross_rank=-1)
    with pytest.raises(ValueError, match="two vectors to interact"):
        build_model("dlrm", Lookup(tables=1), 0)
    with pytest.raises(ValueError, match=r"top_mlp=\(0,\) must be a list of integers from 1 to 65,536"):
        build_model("dlrm", Lookup(), top_mlp=(0,))
    assert model_options("dlrm") == {"bottom_mlp": (512, 256, 64), "top_mlp": (512, 256)}
