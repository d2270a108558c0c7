"""Methods of others, in studies/rivals: what stands where a group of ours stands, on small tables."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tablefold.formats import INT4
from tablefold.tables import TableSpec
from tablefold.train.loop import Trainer
from tablefold.train.progress import Schedule

FOLDER = Path(__file__).parents[2] / "studies" / "rivals"
TABLES = (TableSpec("user", 400, 16), TableSpec("item", 90, 16))
BUDGET = 6000
NAMES = {"cce": "Cce", "cafe": "Cafe", "mpe": "Mpe", "tensor_train": "TensorTrain"}


@pytest.fixture(autouse=True)
def rivals(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("rival")


def task(rivals, budget=BUDGET, **options):
    counts = tuple(np.arange(table.rows, 0, -1) for table in TABLES)
    return rivals.Task(TABLES, budget, counts=counts, **options)


def made(rivals, name, **options):
    return getattr(importlib.import_module(name), NAMES[name]).fit(task(rivals, **options))


def batch(count=64):
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randint(table.rows, (count,), generator=generator) for table in TABLES], dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_rival_gives_vectors_and_gets_gradients(rivals, name):
    rival = made(rivals, name)
    vectors = rival(batch())
    assert vectors.shape == (64, 2, 16)
    vectors.square().sum().backward()
    assert all(each.grad is not None and bool(each.grad.ne(0).any()) for each in rival.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_rival_keeps_to_its_budget_and_uses_it(rivals, name):
    rival = made(rivals, name)
    if name == "mpe":
        rival.shares.data = torch.arange(128.0, 0, -1)[:, None] * torch.arange(7) / 100  # the rarer, the fewer bits
    assert BUDGET / 2 < rival.num_bytes <= BUDGET


@pytest.mark.parametrize("name", ["cce", "cafe", "tensor_train"])
def test_bytes_are_those_of_the_arrays(rivals, name):
    rival = made(rivals, name)
    assert rival.num_bytes == sum(each.nbytes for each in rival.parameters())
    assert made(rivals, name, format=INT4).num_bytes <= BUDGET


def test_pointers_are_counted(rivals):
    cce, cafe = made(rivals, "cce"), made(rivals, "cafe")
    assert cce.pointer_bytes == 490 * 4 * (cce.rows - 1).bit_length() / 8
    assert cafe.pointer_bytes == 4 * cafe.hot
    assert made(rivals, "tensor_train").pointer_bytes == 0


def test_clusters_keep_what_vectors_are_near(rivals):
    cce = made(rivals, "cce")
    with torch.no_grad():
        cce.t0.copy_(torch.arange(cce.t0.numel()).view_as(cce.t0) % 7)
        cce.t1.zero_()
    before = cce(batch())
    cce.cluster()
    assert torch.allclose(cce(batch()), before, atol=1e-5)  # seven vectors at most, and more clusters than that
    assert not cce.t1.any()


def test_hot_ids_are_those_of_large_gradients(rivals):
    cafe = made(rivals, "cafe")
    ids = batch()
    ids[:5, 0] = 7
    (cafe(ids) * (ids == 7).any(dim=1)[:, None, None]).sum().backward()
    before = cafe(torch.tensor([[7, 3]]))
    cafe.move()
    assert int(cafe.row_of[7]) < cafe.hot
    assert torch.equal(cafe(torch.tensor([[7, 3]])), before)  # a hot id begins with its hashed row
    assert len(set(cafe.row_of[cafe.owner[cafe.owner >= 0]].tolist())) == int((cafe.owner >= 0).sum())


def test_bits_are_chosen_within_the_budget_and_fixed(rivals):
    mpe = made(rivals, "mpe", budget=1150)
    with torch.no_grad():
        mpe.shares[:30, 4] = 1.0
        mpe.shares[30:, 0] = 1.0
    fixed = mpe.second()
    assert fixed.num_bytes <= 1150
    assert sorted(fixed.bits.unique().tolist()) == [0, 4]
    assert fixed(batch()).shape == (64, 2, 16)
    assert fixed.pointer_bytes == -(-490 // 8)
    assert fixed.second() is None


def test_product_quantisation_reads_its_codes(rivals):
    module = importlib.import_module("product_quantisation")
    values = [torch.randint(2, (table.rows, 2)).repeat_interleave(8, dim=1).float() for table in TABLES]
    quantised = module.ProductQuantisation(task(rivals), values, parts=2, bits=1)
    ids = batch()
    expected = torch.stack([each[own] for each, own in zip(values, ids.T, strict=True)], dim=1)
    assert torch.allclose(quantised(ids), expected, atol=0.01)  # codebooks are read in int8
    assert quantised.num_bytes == -(-490 * 2 // 8) + 2 * 33  # codes; two codes of 16 floats for each table
    assert all(module.num_bytes(task(rivals), *shape) <= BUDGET for shape in module.shapes(task(rivals)))


class Pairs(nn.Module):
    def __init__(self, group):
        super().__init__()
        self.group = group

    def forward(self, dense, ids):
        return self.group(ids).prod(dim=1).sum(dim=1)


class Rows:
    rows = 640

    def num_batches(self, size, world):
        return 10

    def batches(self, size, **_):
        from tablefold.data.dataset import Batch

        for _ in range(10):
            yield Batch(torch.zeros(64, 0), batch(), torch.arange(64).remainder(2).float())


@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_of_ours_trains_it(rivals, name):
    rival = made(rivals, name)
    trainer = Trainer(Pairs(rival), "amsgrad", 1e-2, device="cpu")
    trainer.listeners = (rivals.Follower(rival, trainer.optimizer, 2),)
    before = rival(batch()).detach()
    assert trainer.fit(Rows(), Schedule(epochs=2, batch_size=64)).step == 20
    assert not torch.equal(rival(batch()), before)
