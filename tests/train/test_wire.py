"""What step_bytes promises is what the processes send; the page's table is what it computes."""

import re
from pathlib import Path

import pytest
import torch

from methods.cases import CASES
from tablefold import TableSpec, parse
from tablefold.data import Batch
from tablefold.models import build_model
from tablefold.train import Trainer, world
from tablefold.train.wire import step_bytes

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
TABLES = [TableSpec("user", 3000, 16), TableSpec("item", 170, 16), TableSpec("city", 40, 16)]


class Wire:
    """Stands for torch.distributed with a twin of this process at the other end; counts what is sent."""

    def __init__(self):
        self.summed = self.gathered = 0

    def all_reduce(self, tensor):
        self.summed += tensor.nbytes
        tensor *= 2

    def all_gather(self, tensors, tensor):
        self.gathered += tensor.nbytes
        for one in tensors:
            one.copy_(tensor)

    def all_gather_object(self, values, value):
        values[:] = [value] * len(values)


@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("spec", sorted({case.spec for case in CASES if "lookup" not in case.spec}))
def test_what_is_promised_is_what_is_sent(monkeypatch, spec, form):
    wire = Wire()
    monkeypatch.setattr(world, "dist", wire)
    batch_size = 256
    group = parse(spec).build(TABLES, seed=0)
    group.gather.gradient = form
    model = build_model("neumf", group, 0, top_mlp=(8,))
    promised = step_bytes(model, batch_size)
    trainer = Trainer(model, "sgd", 0.1, device="cpu", world=world.World(0, 2))
    ids = torch.stack([torch.arange(batch_size) * 7919 % table.rows for table in TABLES], 1)
    trainer.step(Batch(torch.empty(batch_size, 0), ids, torch.ones(batch_size)))
    assert wire.summed == promised.summed
    assert wire.gathered <= promised.gathered
    assert (promised.gathered > 0) == (form == "rows")


def test_distinct_rows_reach_the_promise(monkeypatch):
    wire = Wire()
    monkeypatch.setattr(world, "dist", wire)
    group = parse("full").build(TABLES, seed=0)
    group.gather.gradient = "rows"
    model = build_model("neumf", group, 0, top_mlp=(8,))
    ids = torch.stack([torch.arange(100) % table.rows for table in TABLES], 1)
    trainer = Trainer(model, "sgd", 0.1, device="cpu", world=world.World(0, 2))
    trainer.step(Batch(torch.empty(100, 0), ids, torch.ones(100)))
    assert wire.gathered == step_bytes(model, 100).gathered == (100 + 100 + 40) * (8 + 64)


def show(count):
    return f"{count / 1e6:,.1f} MB"


def test_the_pages_table_is_computed(kaggle_tables):
    rows = re.findall(r"^\| `(.+?)`(?: at ([\d,]+)x)? \| ([\d,]+) \| (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(rows) == 4
    for spec, compression, floats, cells in rows:
        method = parse(spec)
        if compression:
            full = sum(table.rows * table.dim * 4 for table in kaggle_tables)
            method = method.for_budget(kaggle_tables, int(full / int(compression.replace(",", ""))))
        group = method.build(kaggle_tables, device="meta")
        sent = step_bytes(build_model("dlrm", group), batch_size=2048)
        expected = [show(sent.gathered), show(sent.summed), *(show(sent.received(n)) for n in (2, 8, 64))]
        assert f"{group.memory.numel():,}" == floats
        assert [cell.strip() for cell in cells.strip(" |").split("|")] == expected
