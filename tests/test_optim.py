"""Optimisers on touched rows equal torch's where theory says so, compiled and plain, sparse and dense."""

import pytest
import torch

from arrays import flat_gradient, flat_memory, one_array
from tablefold import TableSpec, backend, make_plan, optim, parse

TABLES = [TableSpec("a", 300, 16), TableSpec("b", 70, 16)]
DENSE = {
    optim.SGD: (torch.optim.SGD, {}),
    optim.Adagrad: (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    optim.AMSGrad: (lambda params, lr: torch.optim.Adam(params, lr=lr, amsgrad=True), {}),
}
each_backend = pytest.mark.parametrize("name", ["reference", "cpu"])


def ids_of(step, batch=40, rows=(300, 70)):
    generator = torch.Generator().manual_seed(step)
    return torch.stack([torch.randint(0, count, (batch,), generator=generator) for count in rows], dim=1)


def train(group, optimizer, steps=8, ids=ids_of):
    """A few steps on a loss that has no flat direction."""
    for step in range(steps):
        optimizer.zero_grad()
        vectors = group(ids(step))
        target = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(step)).to(vectors.dtype)
        (vectors - target).square().sum().backward()
        optimizer.step()
    return flat_memory(group).clone()


def build(form, spec="full", dtype=torch.float32):
    group = parse(spec).build(TABLES, seed=1).to(dtype)
    group.sparse = form == "rows"
    return group


@each_backend
@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("spec", ["full", "qr:combine=mul", "robe:block=16,floats=1000"])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adagrad])
def test_steps_on_rows_equal_torchs_dense_steps(kind, spec, form, name):
    dense, options = DENSE[kind]
    expected_group = build("dense", spec, torch.float64)
    expected = train(expected_group, dense(expected_group.parameters(), lr=0.05, **options))
    group = build(form, spec, torch.float64)
    optimizer = kind(group.parameters(), lr=0.05, **options)
    vectors = group(ids_of(0))
    vectors.sum().backward()
    assert one_array(group).grad.is_sparse == (form == "rows")
    optimizer.zero_grad()
    torch.testing.assert_close(steps_with(name, group, optimizer), expected, rtol=1e-9, atol=1e-12)


def steps_with(name, group, optimizer, ids=ids_of):
    """Train with the compiled gather, and step with backend `name`."""
    step = optimizer.step

    def chosen():
        with backend(name):
            return step()

    optimizer.step = chosen
    return train(group, optimizer, ids=ids)


@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adagrad])
@pytest.mark.parametrize(("spec", "storage"), [("hash_embeddings:floats=2001", "fp32"), ("qr:combine=mul", "int2")])
def test_steps_move_every_array_and_the_masters_of_few_bits(spec, storage, kind, form):
    dense, options = DENSE[kind]
    moved = []
    for make in (dense, kind):
        group = make_plan(spec, TABLES, storage=storage).build(seed=1)
        group.sparse = form == "rows" and make is kind
        before = [array.detach().clone() for array in group.arrays]
        moved.append(train(group, make(group.parameters(), lr=0.05, **options)))
        assert not any(torch.equal(old, new) for old, new in zip(before, group.arrays, strict=True))
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-4, atol=1e-5)


@each_backend
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_amsgrad_equals_torchs_where_every_row_is_read(form, name):
    def every_row(step):
        return torch.stack([torch.arange(300), torch.arange(300) % 70], dim=1)

    expected_group = build("dense", dtype=torch.float64)
    expected = train(
        expected_group, torch.optim.Adam(expected_group.parameters(), lr=0.05, amsgrad=True), ids=every_row
    )
    group = build(form, dtype=torch.float64)
    found = steps_with(name, group, optim.AMSGrad(group.parameters(), lr=0.05), ids=every_row)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@each_backend
def test_lazy_amsgrad_leaves_unread_rows_alone(name):
    group = build("rows")
    optimizer = optim.AMSGrad(group.parameters(), lr=0.05)
    steps_with(name, group, optimizer)
    before = flat_memory(group).clone()
    read = train(group, optimizer, steps=1, ids=lambda step: torch.tensor([[3, 5]]))
    changed = (read != before).view(-1, 16).any(dim=1).nonzero().flatten()
    assert changed.tolist() == [3, 305]


@each_backend
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_rowwise_adagrad_is_its_formula(form, name):
    group = build(form, dtype=torch.float64)
    memory, sums = one_array(group).detach().clone(), torch.zeros(370, dtype=torch.float64)
    ids = ids_of(0)
    optimizer = optim.RowwiseAdagrad(group.parameters(), lr=0.1)
    for _ in range(3):
        leaf = memory.clone().requires_grad_()
        with backend("reference"):
            group.gather([leaf], None, ids).square().sum().backward()
        sums += leaf.grad.square().mean(dim=1)
        memory -= 0.1 * leaf.grad / (sums.sqrt() + 1e-10)[:, None]
        optimizer.zero_grad()
        group(ids).square().sum().backward()
        with backend(name):
            optimizer.step()
    torch.testing.assert_close(one_array(group).detach(), memory, rtol=1e-9, atol=1e-12)
    assert optimizer.state[one_array(group)]["sum"].shape == (370,)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adagrad, optim.RowwiseAdagrad, optim.AMSGrad])
def test_compiled_steps_equal_plain_ones_in_float32_for_any_shape(kind):
    shapes = [(5,), (3, 7), (4, 16), (2, 3, 20), (1,), (33,)]
    results = []
    for name in ("reference", "cpu"):
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimizer = kind(parameters, lr=0.1)
        for _ in range(4):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            with backend(name):
                optimizer.step()
        results.append(parameters)
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # raised within torch's own Adagrad
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam])
def test_torchs_own_optimisers_take_the_sparse_gradients(kind):
    group = build("rows")
    before = flat_memory(group).clone()
    after = train(group, kind(group.parameters(), lr=0.05))
    assert not torch.equal(before, after)


def test_gradients_are_accumulated_and_state_survives_saving():
    group = build("rows", dtype=torch.float64)
    optimizer = optim.Adagrad(group.parameters(), lr=0.1)
    for step in range(2):  # two batches, one step
        group(ids_of(step)).square().sum().backward()
    twin = build("dense", dtype=torch.float64)
    group_gradient = flat_gradient(group)
    for step in range(2):
        twin(ids_of(step)).square().sum().backward()
    torch.testing.assert_close(group_gradient, flat_gradient(twin))
    optimizer.step()
    other = optim.Adagrad(twin.parameters(), lr=0.1)
    other.step()
    torch.testing.assert_close(flat_memory(group), flat_memory(twin))
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(other.state[one_array(twin)]["sum"], optimizer.state[one_array(group)]["sum"])


def test_wrong_options_are_refused():
    memory = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(ValueError, match="lr=-1 must be 0 or more"):
        optim.SGD(memory, lr=-1)
    with pytest.raises(ValueError, match=r"betas=\(0.9, 1.0\) must lie in"):
        optim.AMSGrad(memory, betas=(0.9, 1.0))


def test_a_step_is_seen_by_autograd():
    group = build("rows")
    vectors = group(ids_of(0)).square().sum()
    memory = one_array(group)
    loss = (memory * memory).sum()
    memory.grad = torch.ones_like(memory)
    optim.SGD([memory], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    del vectors
