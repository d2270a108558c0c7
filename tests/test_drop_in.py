"""A drop-in is one: torch's own optimisers, scalers and wrappers take it at production size, and it says what it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

import tablefold
from arrays import one_array
from methods.cases import CASES
from tablefold import backend, optim

ROWS, DIM = 2_000_000, 16
LARGE = ["qr:max_rows=1_250_000", "robe:block=16,floats=20_000_000"]
OPTIMISERS = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
}


def train(module, make_optimizer, clip=False, scaler=None):
    optimizer = make_optimizer(module.parameters())
    for step in range(3):
        ids = torch.randint(0, ROWS, (50, 4), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = (module(ids) * torch.linspace(-1, 2, DIM)).square().sum()
        if scaler is None:
            loss.backward()
        else:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    return one_array(module.group)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_full_table_of_twenty_million_floats_learns_what_torchs_does(name):
    module = tablefold.Embedding(1_250_000, DIM, method="full", init="torch")
    theirs = nn.Embedding.from_pretrained(module.unfold(), freeze=False)
    ids = torch.randint(0, 1_250_000, (2, 50), generator=torch.Generator().manual_seed(0))
    for each in (module, theirs):
        optimizer = OPTIMISERS[name](each.parameters())
        for batch in ids:
            optimizer.zero_grad()
            each(batch).square().sum().backward()
            nn.utils.clip_grad_norm_(each.parameters(), 1.0)
            optimizer.step()
    assert one_array(module.group).numel() == 20_000_000
    assert not one_array(module.group).grad.is_sparse
    torch.testing.assert_close(one_array(module.group), theirs.weight)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("method", LARGE)
def test_torchs_optimisers_clipping_and_scalers_take_it_at_production_size(method, name):
    learned = []
    for each in ("cpu", "reference"):
        module = tablefold.Embedding(ROWS, DIM, method=method, init=0.1)
        with backend(each):
            learned.append(train(module, OPTIMISERS[name], clip=True, scaler=torch.amp.GradScaler("cpu")))
        assert not learned[-1].grad.is_sparse
    assert learned[0].numel() >= 19_999_999
    torch.testing.assert_close(*learned, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", LARGE)
@pytest.mark.parametrize("kind", [tablefold.Embedding, tablefold.EmbeddingBag])
def test_sparse_asks_for_rows_which_sparse_optimisers_take(kind, method):
    ids = torch.randint(0, ROWS, (50, 4), generator=torch.Generator().manual_seed(0))
    gradients = []
    for sparse in (False, True):
        module = kind(ROWS, DIM, method=method, sparse=sparse)
        module(ids).square().sum().backward()
        gradients.append(one_array(module.group).grad)
        assert gradients[-1].is_sparse == sparse
    torch.testing.assert_close(gradients[1].to_dense(), gradients[0])
    for make in (torch.optim.SparseAdam, optim.Adagrad, optim.RowwiseAdagrad, optim.SGD):
        before = one_array(module.group).detach().clone()
        make(module.parameters(), lr=0.1).step()
        assert not torch.equal(one_array(module.group), before)


@pytest.mark.parametrize("method", ["full", "qr:collisions=4", "robe:block=16,floats=100_000", "hash:collisions=8"])
def test_vectors_start_with_the_deviation_that_is_asked_for(method):
    for init, expected in ((None, 0.02), (0.3, 0.3), ("torch", 1.0)):
        options = {} if init is None else {"init": init}
        table = tablefold.Embedding(20_000, DIM, method=method, **options).unfold()
        assert float(table.std()) == pytest.approx(expected, rel=0.05)
        assert abs(float(table.mean())) < 0.05 * expected


def test_its_size_is_a_compression_or_a_budget():
    by_compression = tablefold.Embedding(1_000_000, DIM, method="qr", compression=50)
    assert 0.99 * 1_280_000 < by_compression.num_bytes <= 1_280_000
    assert tablefold.EmbeddingBag(1_000_000, DIM, method="robe", budget=64_000).num_bytes > 63_990
    assert "qr:max_rows=" in str(by_compression)
    assert "50x smaller than full" in str(by_compression)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": 50, "budget": 1000}, "both set the size; give one"),
        ({"compression": 0.5}, "compression=0.5 must be at least 1"),
        ({"compression": float("nan")}, "compression=nan must be at least 1"),
        ({"budget": 10}, "below the smallest possible for qr"),
        ({"init": 0}, "init=0 must be a deviation above 0, or 'torch'"),
        ({"init": "normal"}, "init='normal' must be a deviation above 0, or 'torch'"),
        ({"outside": "clamp"}, "outside=clamp must be one of nan, zero, unchecked"),
        ({"scale_grad_by_freq": True}, "scale_grad_by_freq=True changes single rows"),
        ({"padding_idx": 2.5}, "padding_idx=2.5 must be an integer"),
        ({"padding_idx": 100_000}, "padding_idx=100000 must be an id"),
    ],
)
def test_sizes_and_starts_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tablefold.Embedding(100_000, DIM, method="qr", **options)


@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.tensor([0, -5]), "never fall"),
        (torch.tensor([1, 2]), "must begin with 0"),
        (torch.tensor([0, 9]), "must cover the 5 ids"),
        (torch.tensor([0.0, 2.0]), "1-D int64 or int32"),
        (torch.tensor([[0, 2]]), "1-D int64 or int32"),
        (torch.tensor([], dtype=torch.int64), "must cover the 5 ids"),
    ],
)
def test_offsets_are_checked_as_torch_checks_them(offsets, message, last, padding_idx):
    module = tablefold.EmbeddingBag(100, 4, method="qr:collisions=4", include_last_offset=last, padding_idx=padding_idx)
    with pytest.raises(ValueError, match=f"{message}|last offset must be the number of ids"):
        module(torch.tensor([1, 2, 3, 4, 5]), offsets)


@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("devices", [("cpu", "meta"), ("meta", "cpu")])
def test_bags_on_another_device_than_memory_are_refused(devices, last, padding_idx):
    module = tablefold.EmbeddingBag(100, 4, method="qr:collisions=4", include_last_offset=last, padding_idx=padding_idx)
    ids, offsets = (torch.tensor(one, device=on) for one, on in zip(([1, 3, 5], [0, 3]), devices, strict=True))
    with pytest.raises(ValueError, match="ids are on meta, memory is on cpu: move one to the other"):
        module(ids, offsets)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    ("tables", "method"),
    [
        *(("drop-ins", "full"), ("views", "full")),
        pytest.param("drop-ins", "robe:block=16,floats=10000000", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_twenty_million_floats_as_one_does(wrapper, tables, method):
    script = Path(__file__).with_name("distributed_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), wrapper, tables, method, "625000"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{wrapper}: 20000033 floats" in done.stdout


class DeepFM(nn.Module):
    """A small model of the kind that drop-ins go into: an id, a bag of ids, a layer."""

    def __init__(self, method, **options):
        super().__init__()
        self.items = tablefold.Embedding(1000, 8, method=method, seed=1, **options)
        self.tags = tablefold.EmbeddingBag(1000, 8, method=method, seed=2, mode="sum", **options)
        self.layer = nn.Linear(16, 1)

    def forward(self, ids):
        items, tags = self.items(ids[:, 0]), self.tags(ids)
        return self.layer(torch.cat([items, tags], dim=1)).squeeze(1) + (items * tags).sum(1)


def some_batch(batch, seed=0):
    return torch.randint(0, 1000, (batch, 4), generator=torch.Generator().manual_seed(seed))


METHODS = list({case.method.name: case.spec for case in CASES if case.features == 3}.values())
each_method = pytest.mark.parametrize("method", [spec for spec in METHODS if "lookup=" not in spec])
each_padding = pytest.mark.parametrize("options", [{}, {"padding_idx": 3}], ids=["", "padding"])


@pytest.mark.filterwarnings("ignore")  # torch's compiler and exporter warn of their own insides
@each_padding
@each_method
def test_a_model_of_drop_ins_compiles_and_exports_as_one_graph_for_any_batch(method, options):
    model = DeepFM(method, **options)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    program = torch.export.export(model, (some_batch(5),), dynamic_shapes=({0: Dim("batch")},)).module()
    for batch in (5, 3, 9):
        for each in (compiled, program):
            torch.testing.assert_close(each(some_batch(batch)), model(some_batch(batch)))
    compiled(some_batch(5)).sum().backward()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@each_padding
@each_method
def test_bags_export_as_they_pool(method, options, mode):
    bag = tablefold.EmbeddingBag(1000, 8, method=method, mode=mode, dtype=torch.float64, **options)
    ids, offsets = torch.tensor([3, 5, 7, 3, 9]), torch.tensor([0, 2, 3])
    sizes = ({0: Dim("ids")}, {0: Dim("bags")})
    program = torch.export.export(bag, (ids, offsets), dynamic_shapes=sizes).module()
    for each, begins in ((ids, offsets), (some_batch(4).flatten(), torch.tensor([0, 0, 3, 9, 16]))):
        torch.testing.assert_close(program(each, begins), bag(each, begins))
