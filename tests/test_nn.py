"""The drop-ins equal torch's own over the table they stand for: values, and gradients down to the memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tablefold
from methods.cases import CASES
from tablefold import parse
from tablefold.tables import TableSpec

ROWS, DIM = 1000, 8
SPECS = [case.spec for case in CASES if case.features == 3 and "lookup=" not in case.spec and "/" not in case.spec]
each_method = pytest.mark.parametrize("spec", SPECS)


def gradient_through_unfolding(module, table_gradient):
    """What the memory's gradient is if a full table's gradient flows back through the composition."""
    ids = torch.arange(ROWS)
    vectors = module.group(ids[:, None])[:, 0]
    if module.padding_idx is not None:
        vectors = vectors * (ids != module.padding_idx)[:, None]
    parameters = list(module.parameters())
    return torch.autograd.grad((vectors * table_gradient).sum(), parameters, allow_unused=True)


def assert_equal_to_torch(module, torch_module, *arguments):
    theirs = torch_module(*arguments)
    ours = module(*arguments)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(theirs.shape, dtype=theirs.dtype, generator=torch.Generator().manual_seed(0))
    (theirs * weights).sum().backward()
    module.zero_grad()
    (ours * weights).sum().backward()
    expected = gradient_through_unfolding(module, torch_module.weight.grad)
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        actual = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(actual.to_dense() if actual.is_sparse else actual, gradient, rtol=1e-9, atol=1e-12)


@each_method
@settings(max_examples=5, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=3), padding=st.sampled_from([None, 0, 7, -1]), seed=st.integers(0, 99)
)
def test_embedding_equals_torchs(spec, shape, padding, seed):
    module = tablefold.Embedding(ROWS, DIM, padding_idx=padding, method=spec, seed=seed, dtype=torch.float64)
    theirs = nn.Embedding.from_pretrained(module.unfold(), freeze=False, padding_idx=padding)
    ids = torch.randint(0, ROWS, shape, generator=torch.Generator().manual_seed(seed))
    if ids.numel():
        ids.view(-1)[0] = 7
    assert_equal_to_torch(module, theirs, ids)


@st.composite
def bags(draw):
    sizes = draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    ids = draw(st.lists(st.one_of(st.integers(0, ROWS - 1), st.just(7)), min_size=sum(sizes), max_size=sum(sizes)))
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(np.cumsum([0, *sizes]), dtype=torch.int64)


@each_method
@settings(max_examples=8, deadline=None)
@given(
    bag=bags(),
    mode=st.sampled_from(["sum", "mean", "max", "weighted"]),
    last=st.booleans(),
    padding=st.sampled_from([None, 7]),
)
def test_embedding_bag_equals_torchs(spec, bag, mode, last, padding):
    ids, offsets = bag
    options = {"mode": "sum" if mode == "weighted" else mode, "include_last_offset": last, "padding_idx": padding}
    module = tablefold.EmbeddingBag(ROWS, DIM, method=spec, seed=1, dtype=torch.float64, **options)
    theirs = nn.EmbeddingBag.from_pretrained(module.unfold(), freeze=False, **options)
    arguments = [ids, offsets if last else offsets[:-1]]
    if mode == "weighted":
        arguments.append(torch.rand(len(ids), dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    assert_equal_to_torch(module, theirs, *arguments)


@each_method
def test_bags_of_one_length_are_a_matrix(spec):
    module = tablefold.EmbeddingBag(ROWS, DIM, method=spec, mode="sum", dtype=torch.float64)
    theirs = nn.EmbeddingBag.from_pretrained(module.unfold(), freeze=False, mode="sum")
    ids = torch.randint(0, ROWS, (5, 3), generator=torch.Generator().manual_seed(0))
    weights = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_equal_to_torch(module, theirs, ids, None, weights)


def test_gradients_reach_per_sample_weights():
    module = tablefold.EmbeddingBag(ROWS, DIM, method="qr:collisions=4", mode="sum", dtype=torch.float64)
    weights = torch.rand(3, dtype=torch.float64, requires_grad=True)
    module(torch.tensor([1, 2, 3]), torch.tensor([0, 2]), weights).sum().backward()
    torch.testing.assert_close(weights.grad, module.unfold()[[1, 2, 3]].sum(1))


def test_groups_pool_bags_per_table():
    tables = [TableSpec("user", 50, 4), TableSpec("item", 90, 4)]
    group = parse("qr:collisions=4").build(tables)
    values = [torch.tensor([1, 2, 3]), torch.tensor([80, 81, 82, 83, 84])]
    offsets = [torch.tensor([0, 1]), torch.tensor([0, 4])]
    pooled = group.pool(values, offsets, mode="mean")
    assert pooled.shape == (2, 2, 4)
    for column, name in enumerate(("user", "item")):
        theirs = nn.EmbeddingBag.from_pretrained(group.unfold(name), mode="mean")
        torch.testing.assert_close(pooled[:, column], theirs(values[column], offsets[column]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bag("sum")(torch.tensor([1, 2])), r"or \[ids\] with offsets; got \[2\] without offsets"),
        (lambda: bag("sum")(torch.tensor([[1]]), torch.tensor([0])), r"got \[1, 1\] with offsets"),
        (lambda: bag("sum")(torch.tensor([1, 2]), torch.tensor([1])), "offsets must begin with 0 and never fall"),
        (lambda: bag("sum")(torch.tensor([1, 2]), torch.tensor([0, 2, 1])), "offsets must begin with 0 and never fall"),
        (lambda: bag("sum")(torch.tensor([1, 2]), torch.tensor([0, 3])), "the last bag begins at 3"),
        (
            lambda: bag("mean")(torch.tensor([1]), torch.tensor([0]), torch.ones(1)),
            "for mode='sum' only",
        ),
        (
            lambda: bag("sum")(torch.tensor([1]), torch.tensor([0]), torch.ones(2)),
            r"weights \[2\] must be shaped",
        ),
        (lambda: bag("median"), "mode=median must be one of sum, mean, max"),
        (lambda: bag("sum")(torch.tensor([1000]), torch.tensor([0])), "id 1000 .* is outside 0 .. 999"),
        (
            lambda: bag("sum", include_last_offset=True)(torch.tensor([1]), torch.tensor([0])),
            "the number of ids, 1",
        ),
        (lambda: bag("sum", max_norm=1.0), "max_norm=1.0 changes single rows"),
        (lambda: bag("sum", padding_idx=1000), "padding_idx=1000 must be an id"),
        (lambda: tablefold.Embedding(ROWS, DIM, method="qr:combine=features"), "gives 2 vectors for one id"),
        (lambda: tablefold.Embedding(ROWS, DIM, method="robee"), "did you mean 'robe'"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def bag(mode, **options):
    return tablefold.EmbeddingBag(ROWS, DIM, mode=mode, method="qr:collisions=4", **options)
