"""A folded model trained a little, on data."""

import copy

import pytest
import torch
from torch import nn

from folding.toys import look_trained
from tablefold import fold
from tablefold.folding.tuning import APART

pytestmark = pytest.mark.filterwarnings("ignore:.*tune the model")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(4000, 16), nn.Embedding(3000, 16, padding_idx=0)
        self.top = nn.Linear(16, 1)
        look_trained(self, rank=8)

    def forward(self, ids):
        return self.top(torch.tanh(4 * self.user(ids[:, 0])) * self.item(ids[:, 1])).flatten()


def batches(count=60, seed=0):
    """Ids, and what the model that is folded says of them."""
    torch.manual_seed(7)
    teacher, generator = Net(), torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        ids = torch.stack([torch.randint(rows, (256,), generator=generator) for rows in (4000, 3000)], 1)
        found.append((ids, teacher(ids).detach()))
    return teacher, found


def loss(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


@pytest.mark.parametrize(("ids", "one_shot", "size"), [("stored", True, 60), ("renumber", False, 60)])
def test_codebooks_and_network_learn_and_pointers_stay(ids, one_shot, size):
    model, data = batches()
    plain = copy.deepcopy(model)
    untuned = fold(plain, compression=size, data=data, loss=loss, ids=ids)
    given = iter(data * 3) if one_shot else data
    report = fold(model, compression=size, data=given, loss=loss, ids=ids, tune=40)
    assert report.tuned.steps in (10, 20, 30, 40)
    assert report.tuned.after < report.tuned.before
    assert f"tuned for {report.tuned.steps} steps: loss" in str(report)
    assert report.plan == untuned.plan
    for name in ("user", "item"):
        group, same = model.get_submodule(name).group, plain.get_submodule(name).group
        assert group.lookup is None or torch.equal(group.lookup, same.lookup)
        assert group.edges is None or torch.equal(group.edges, same.edges)
        assert not torch.equal(group.arrays[0], same.arrays[0])
        assert all(array.requires_grad and array.grad is None for array in group.arrays)
        assert not model.get_submodule(name)._forward_pre_hooks
    assert model.training


def test_codes_of_full_tables_stay():
    model, data = batches(20)
    fold(model, compression=3.5, data=data, loss=loss, tune=5)
    plain = batches(20)[0]
    fold(plain, compression=3.5, data=data, loss=loss)
    for name in ("user", "item"):
        assert torch.equal(model.get_submodule(name).group.arrays[0], plain.get_submodule(name).group.arrays[0])
        assert model.get_submodule(name).group.arrays[0].requires_grad


def test_what_makes_it_worse_is_undone():
    model, data = batches(20)
    plain = copy.deepcopy(model)
    wrong = data[:APART] + [(ids, 10 + labels) for ids, labels in data[APART:]]
    report = fold(model, compression=24, data=wrong, loss=loss, tune=30)
    fold(plain, compression=24, data=wrong, loss=loss)
    assert report.tuned.steps == 0
    assert "it was undone" in str(report)
    assert torch.equal(model(data[0][0]), plain(data[0][0]))


def test_batches_of_ones_own_judge_and_the_best_on_the_way_is_kept():
    model, data = batches(20)
    data, judge = ([(ids, labels + 0.2) for ids, labels in each] for each in (data, batches(4, seed=9)[1]))
    report = fold(model, compression=24, data=data, loss=loss, tune=40, judge=judge)
    assert report.tuned.steps in (10, 20, 30, 40)
    with torch.no_grad():
        found = sum(float(loss(model, batch)) for batch in judge) / 4
    assert found == pytest.approx(report.tuned.after, rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"tune": 5}, {"tune": -1}, {"tune": 5, "weights": "new", "data": [], "loss": loss}]
)
def test_what_cannot_be_is_refused_in_one_line(options):
    with pytest.raises(ValueError, match="is a number of steps over data=, by loss="):
        fold(Net(), compression=8, **options)
    with pytest.raises(ValueError, match="data has 3 batches: the first 8 judge, and none is left"):
        fold(Net(), compression=8, data=batches(3)[1], loss=loss, tune=5)
