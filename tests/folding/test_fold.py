"""Folding anyone's model: what is found, what is left alone, one budget, and the model that goes on working."""

import copy
import gc
import io
import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

import tablefold
from folding.toys import DeepFM, look_trained, some_ids
from tablefold import fold, unfold
from tablefold.nn import Folded

pytestmark = pytest.mark.filterwarnings("ignore:.*tune the model")
TABLES = ("user = same_user", "item = history", "more.city", "more.tag", "times.0", "times.1")


def drop_ins(model):
    return {module for module in model.modules() if isinstance(module, Folded)}


def held(model, report):
    """Bytes of the drop-ins' groups, and of the tables that stay."""
    groups = {module.group for module in drop_ins(model)}
    return sum(group.num_bytes for group in groups) + sum(
        table.bytes_before for table in report.tables if table.representation == "as it is"
    )


@pytest.mark.parametrize("method", ["auto", "robe", "hash", "unified"])
def test_a_new_model_is_folded_50x_by_one_line_and_trains(method):
    torch.manual_seed(0)
    model = DeepFM()
    skip = ("more.*", "times.*", "item") if method == "unified" else None
    report = fold(model, compression=50, weights="new", method=method, skip=skip)
    assert tuple(" = ".join(table.names) for table in report.tables) == (TABLES[:1] if skip else TABLES)
    assert report.num_bytes == held(model, report) <= report.bytes_before / 50
    assert model.same_user is model.user
    assert skip or model.history.group is model.item.group
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    scaler, losses = torch.amp.GradScaler("cpu"), []
    labels = torch.rand(32, generator=torch.Generator().manual_seed(2)).round()
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.binary_cross_entropy_with_logits(model(some_ids()).float(), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    again = copy.deepcopy(model)
    assert torch.equal(again(some_ids()), model(some_ids()))


@pytest.mark.filterwarnings("ignore")
def test_a_folded_model_compiles():
    model = look_trained(DeepFM())
    fold(model, compression=10)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(some_ids()), model(some_ids()))
    compiled(some_ids()).sum().backward()
    assert all(array.grad is not None for each in drop_ins(model) for array in each.group.arrays)


@pytest.mark.parametrize(("compression", "most"), [(3.5, 1e-4), (7, 0.02), (12, 0.1)])
def test_trained_tables_are_kept(compression, most):
    model = look_trained(DeepFM())
    before, original = model(some_ids()), copy.deepcopy(model)
    report = fold(model, compression=compression)
    assert report.num_bytes == held(model, report) <= report.bytes_before / compression
    for table in report.tables:
        old, new = (each.get_submodule(table.names[0]).weight.detach() for each in (original, model))
        lost = float((old - new).square().sum() / old.square().sum())
        assert lost == pytest.approx(table.error, rel=0.01, abs=1e-7)
        assert lost < most
    assert (model(some_ids()) - before).square().mean() < 2 * most * before.square().mean() + 1e-6
    assert "lost" in str(report)


def test_bytes_go_where_counts_say():
    counts = torch.zeros(4000).index_fill(0, torch.arange(100), 10_000.0)
    lost = []
    for given in (None, {"user": counts}):
        model = look_trained(DeepFM())
        old = model.user.weight.detach().clone()
        fold(model, compression=12, only="*user", counts=given)
        lost.append(float((old - model.user.weight.detach())[:100].square().mean()))
    assert lost[1] < 0.5 * lost[0]


def test_data_says_which_errors_cost_what():
    changed = []
    for with_data in (False, True):
        model = look_trained(DeepFM(), rank=8)
        with torch.no_grad():
            model.top[0].weight[:, 2:16] = 0.0  # of a user, the network looks at two numbers
        before = model(some_ids(512, seed=9))
        given = {"data": [some_ids(512, seed=seed) for seed in range(3)], "loss": lambda own, ids: own(ids).sum()}
        fold(model, compression=14, only=["user", "same_user"], **(given if with_data else {}))
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        changed.append(float((model(some_ids(512, seed=9)) - before).detach().square().mean()))
    assert changed[1] < 0.3 * changed[0]
    unread = {"data": [0], "loss": lambda own, _: own.top[0].weight.sum()}
    refused = [({"data": []}, "data and loss together"), ({"data": [], "loss": len}, "no batches")]
    for given, message in (*refused, (unread, "reads none of the tables")):
        with pytest.raises(ValueError, match=message):
            fold(look_trained(DeepFM()), compression=10, **given)


def test_modules_keep_what_they_were():
    model, calls = look_trained(DeepFM()).eval(), []
    handle = model.user.register_forward_hook(lambda *_: calls.append("user"))
    model.user.weight.requires_grad_(False)
    fold(model, compression=10)
    model(some_ids())
    handle.remove()
    model(some_ids())
    assert calls == ["user"]
    assert not model.user.training
    assert not any(array.requires_grad for array in model.user.group.arrays)
    assert isinstance(model.user, nn.Embedding)
    assert isinstance(model.history, nn.EmbeddingBag)
    assert (model.history.padding_idx, model.history.mode) == (0, "sum")


def test_weight_is_readable_and_carries_a_gradient():
    model = look_trained(DeepFM())
    fold(model, compression=10)
    weight = model.user.weight
    assert weight.shape == (4000, 16)
    torch.testing.assert_close(weight[5:9], model.user(torch.arange(5, 9)))
    weight.square().sum().backward()
    assert model.user.group.arrays[0].grad.any()
    with pytest.raises(ValueError, match="a folded table computes its weight"):
        model.user.weight = torch.zeros(4000, 16)


@pytest.mark.parametrize("weights", ["keep", "new"])
def test_unfold_writes_full_tables_back(weights):
    model = look_trained(DeepFM())
    fold(model, compression=10, weights=weights)
    before = model(some_ids())
    unfold(model)
    assert not drop_ins(model)
    assert type(model.user) is nn.Embedding
    assert model.history.weight is model.item.weight
    torch.testing.assert_close(model(some_ids()), before)
    with pytest.raises(ValueError, match="has no folded table in it"):
        unfold(model)


def test_start_values_have_the_deviation_of_the_module_that_was_replaced():
    model = nn.ModuleDict({"small": nn.Embedding(4000, 16), "large": nn.EmbeddingBag(4000, 16)})
    nn.init.normal_(model["small"].weight, std=1e-4)
    fold(model, compression=10, weights="new")
    for name, deviation in (("small", 1e-4), ("large", 1.0)):
        assert float(model[name].weight.detach().std()) == pytest.approx(deviation, rel=0.1)


def test_an_optimiser_of_old_tables_is_refused_when_it_steps_and_only_then():
    model = nn.Sequential(nn.Embedding(2000, 8), nn.Linear(8, 1))
    early, kept = torch.optim.Adam(model.parameters()), copy.deepcopy(model)
    other = torch.optim.SGD(kept.parameters(), lr=0.1)
    fold(model, compression=10, weights="new")
    model(torch.arange(10)).sum().backward()
    with pytest.raises(ValueError, match="this Adam was made before the fold: it moves the old table '0'"):
        early.step()
    torch.optim.Adam(model.parameters()).step()
    kept(torch.arange(10)).sum().backward()
    other.step()
    early.add_param_group({"params": list(model[0].parameters())})
    early.step()
    del early
    gc.collect()
    assert not _global_optimizer_pre_hooks


def test_a_copy_leaves_the_model_as_it_is():
    model = look_trained(DeepFM())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = fold(model, compression=10, inplace=False)
    assert not drop_ins(model)
    assert drop_ins(report.model)
    model(some_ids()).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_vectors_keep_their_type(dtype):
    model = look_trained(nn.ModuleDict({"a": nn.Embedding(3000, 8), "b": nn.Embedding(5, 8)}).to(dtype))
    report = fold(model, compression=6)
    assert report.bytes_before == 3005 * 8 * dtype.itemsize
    assert report.num_bytes == held(model, report) <= report.bytes_before / 6
    assert model["a"](torch.tensor([1])).dtype == model["a"].weight.dtype == dtype
    unfold(model)
    assert model["a"].weight.dtype == dtype


def test_a_padding_vector_that_is_not_zero_is_kept():
    model = look_trained(nn.ModuleDict({"a": nn.Embedding(3000, 8, padding_idx=2)}))
    before = model["a"].weight.detach()[2].clone()
    fold(model, compression=3.6)
    vector = model["a"](torch.tensor([2]))
    torch.testing.assert_close(vector[0], before, atol=2e-3, rtol=0.05)
    vector.sum().backward()
    assert not any(array.grad.any() for array in model["a"].group.arrays)


def test_what_cannot_be_folded_is_left_alone_and_named():
    class Own(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * 2

    model = nn.ModuleDict(
        {
            "tied": nn.Embedding(1000, 8),
            "out": nn.Linear(8, 1000, bias=False),
            "norm": nn.Embedding(1000, 8, max_norm=1.0),
            "rare": nn.Embedding(1000, 8, scale_grad_by_freq=True),
            "own": Own(1000, 8),
            "scaled": nn.utils.parametrizations.weight_norm(nn.Embedding(1000, 8)),
            "meta": nn.Embedding(1000, 8, device="meta"),
            "asked": nn.Embedding(1000, 8),
            "good": nn.Embedding(1000, 8),
        }
    )
    model["out"].weight = model["tied"].weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = fold(model, compression=4, skip=lambda name, _: name == "asked")
    reasons = {each.names[0]: each.reason for each in report.left}
    assert [table.names for table in report.tables] == [("good",)]
    assert reasons["tied"] == "its weight is tied to out.weight"
    assert reasons["norm"] == "max_norm=1 changes single rows, which a folded table's ids share"
    assert reasons["rare"].startswith("scale_grad_by_freq")
    assert reasons["own"] == "Own has a forward of its own"
    assert reasons["scaled"] == "its weight is computed by a parametrization: remove that first"
    assert reasons["meta"] == "it is on meta and has no weights to keep: take weights='new'"
    assert reasons["asked"] == "as asked"
    assert "left alone: tied (32 kB): its weight is tied to out.weight" in str(report)


def test_noise_is_not_taken_for_a_trained_table():
    with pytest.warns(UserWarning, match="0: the rows are noise, as before a training"):
        fold(nn.Sequential(nn.Embedding(3000, 8)), compression=4)


def one_table(rows=2000, dim=8):
    return look_trained(nn.ModuleDict({"a": nn.Embedding(rows, dim)}))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            nn.Linear(2, 2),
            {"compression": 2},
            "Linear has no nn.Embedding or nn.EmbeddingBag: there is nothing to fold",
        ),
        (nn.Embedding(2, 2), {"compression": 2}, r"Embedding has no table that can be folded \(: it is the model"),
        (one_table(), {}, "give compression=50, or budget='64MB'"),
        (one_table(), {"compression": 2, "budget": 1}, "give compression=50, or budget='64MB'"),
        (one_table(), {"compression": 1}, "compression=1 must be more than 1"),
        (one_table(), {"budget": "64KB"}, "a budget of 64000 bytes must be above 0 and below the 64000 bytes"),
        (one_table(), {"budget": "much"}, "'much' is not a size in bytes"),
        (one_table(), {"budget": 100}, "below the smallest possible that keeps these trained tables, [0-9]{3} bytes"),
        (one_table(), {"budget": 10, "weights": "new"}, "a budget of 10 bytes is below the smallest possible for qr"),
        (
            one_table(),
            {"compression": 4, "method": "qr"},
            "qr cannot keep trained tables: take method='auto' or one of",
        ),
        (one_table(), {"compression": 4, "weights": "old"}, "weights=old must be one of keep, new"),
        (one_table(), {"compression": 4, "only": "b*"}, r"only='b\*' fits the name of no table: a"),
        (one_table(), {"compression": 4, "counts": {"b": [1]}}, "counts of 'b', which is no table to fold: a"),
        (one_table(), {"compression": 4, "counts": {"a": [1]}}, r"counts of 'a' have shape \[1\]; it has 2000 rows"),
        (one_table(), {"compression": 4, "counts": {"a": [-1.0] * 2000}}, "counts of 'a' must be finite numbers"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        fold(model, **options)
    assert "\n" not in str(caught.value)
    assert not drop_ins(model)


def test_rows_that_are_not_finite_are_refused():
    model = one_table()
    with torch.no_grad():
        model["a"].weight[7, 3] = torch.nan
    with pytest.raises(ValueError, match="table 'a': row 7 is not finite: its training has diverged"):
        fold(model, compression=4)


def test_a_plan_builds_nothing_and_is_what_fold_builds():
    model = look_trained(DeepFM())
    plan = tablefold.plan(model, "60KB")
    assert not drop_ins(model)
    assert plan.num_bytes <= 60_000
    assert "residual" in str(plan)
    report = fold(model, budget="60KB")
    assert report.plan == plan
    tables = [tablefold.TableSpec("user", 100_000, 16), tablefold.TableSpec("day", 7, 16)]
    assert tablefold.plan(tables, compression=20).num_bytes <= 100_007 * 64 / 20


def test_a_folded_state_loads_into_a_model_folded_alike():
    first, second = (look_trained(DeepFM()) for _ in range(2))
    nn.init.normal_(second.item.weight)
    for model in (first, second):
        fold(model, compression=10, only="user")
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file))
    assert torch.equal(first(some_ids()), second(some_ids()))
