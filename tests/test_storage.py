"""Memory in few bits: on its grid after every step, of the promised bytes, saved and loaded exactly."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tablefold import Embedding, EmbeddingBag, Placement, TableSpec, backend, optim, parse
from tablefold.ops.rounding import BLOCK, blocks_of, chances, round_at_random, round_memory
from tablefold.storage import most_floats, pack, stored_bytes, unpack

TABLES = [TableSpec("user", 1000, 16), TableSpec("item", 317, 16), TableSpec("day", 7, 16)]
FORMATS = ["bf16", "fp16", "int8"]


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def rounded_by(values, storage, key=0):
    return round_at_random(values, storage, chances(torch.arange(values.numel()).view_as(values), key))


def spread(seed=0, blocks=200):
    """Values of many magnitudes, zeros among them."""
    values = torch.randn(blocks, BLOCK, generator=draws(seed)) * 10 ** torch.linspace(-6, 2, blocks)[:, None]
    values[3] = 0
    values[:, 5] = 0
    return values


def saved_bytes(group):
    state = group.state_dict()
    return sum(tensor.nbytes for name, tensor in state.items() if name not in ("_extra_state", "rounding.rounds"))


@given(st.integers(0, 10**12), st.sampled_from(["fp32", *FORMATS]))
def test_most_floats_is_the_inverse_of_stored_bytes(num_bytes, storage):
    floats = most_floats(num_bytes, storage)
    assert stored_bytes(floats, storage) <= num_bytes < stored_bytes(floats + 1, storage)


@pytest.mark.parametrize("storage", FORMATS)
def test_values_on_the_grid_stay_and_others_go_to_a_neighbour(storage):
    values = spread()
    rounded = rounded_by(values, storage)
    assert torch.equal(rounded_by(rounded, storage, 1), rounded)
    largest = values.abs().amax(dim=1, keepdim=True) if storage == "int8" else values.abs()
    share = {"int8": 2**-6, "bf16": 2**-7, "fp16": 2**-10}[storage]
    smallest = 2.0**-24 if storage == "fp16" else 0
    assert ((rounded - values).abs() <= torch.clamp(largest * share, min=smallest)).all()


@pytest.mark.parametrize(("storage", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_half_precisions_hold_what_their_grids_allow(storage, dtype):
    rounded = rounded_by(spread() * 1e3, storage)
    assert torch.equal(rounded.to(dtype).float(), rounded)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(1, 70),
    st.integers(1, 600),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-44, 38),
    st.sampled_from([1, 3]),
    st.data(),
)
def test_the_kernel_rounds_as_plain_torch_does(storage, width, count, key, magnitude, threads, data):
    generator = draws(key % 1000)
    values = torch.randn(count, width, generator=generator) * 10 ** torch.linspace(magnitude - 3, magnitude, width)
    values[torch.rand(values.shape, generator=generator) < 0.1] = 0
    drawn = data.draw(st.none() | st.sets(st.integers(0, count - 1), min_size=1))
    rows = None if drawn is None else torch.tensor(sorted(drawn))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fast, plain = values.clone(), values.clone()
        version = fast._version
        changed = round_memory(fast, rows, storage, key)
        with backend("reference"):
            assert round_memory(plain, rows, storage, key) == changed == (fast._version != version)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(fast, plain)
    if rows is not None:
        there = torch.zeros(-(-values.numel() // BLOCK), BLOCK, dtype=torch.bool)
        there[blocks_of(rows, width)] = True
        there = there.view(-1)[: values.numel()].view_as(values)
        assert torch.equal(fast[~there], values[~there])
        assert not round_memory(fast, rows, storage, key + 1 if key < 0 else key - 1)


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("storage", FORMATS)
def test_what_is_not_a_number_is_not_rounded_into_one(storage, name):
    memory = torch.ones(4, BLOCK)
    memory[2, 5] = torch.nan
    with backend(name):
        round_memory(memory, None, storage, 3)
    assert memory[2, 5].isnan()
    assert torch.equal(memory[[0, 1, 3]], torch.ones(3, BLOCK))


@pytest.mark.parametrize("storage", FORMATS)
def test_rounding_is_right_on_average(storage):
    values = torch.full((20_000, BLOCK), 0.70009)
    values[:, 1] = 1.0  # sets the scale of an int8 block
    mean = rounded_by(values, storage).double().mean(dim=0)[2:].mean()
    step = {"int8": 2**-6, "bf16": 2**-8, "fp16": 2**-11}[storage]
    assert abs(mean - 0.70009) < 4 * step / 2 / (20_000 * (BLOCK - 2)) ** 0.5 + step / 2**13


@pytest.mark.parametrize("shape", [(10, 16), (7, 5), (40, 1), (3, 64)])
@pytest.mark.parametrize("storage", FORMATS)
def test_what_is_packed_is_unpacked_exactly(storage, shape):
    group = Placement(parse("full"), storage=storage).build([TableSpec("a", shape[0], shape[1])], seed=3)
    packed = pack(group.memory.detach(), storage)
    assert torch.equal(unpack(packed), group.memory)
    assert sum(tensor.nbytes for tensor in packed.values()) == stored_bytes(group.memory.numel(), storage)


@pytest.mark.parametrize("spec", ["robe:block=1", "robe:block=16", "qr:combine=mul", "path:hidden=2", "full", "hash"])
@pytest.mark.parametrize("storage", FORMATS)
def test_a_budget_is_met_in_stored_bytes(spec, storage):
    plain = Placement(parse(spec), threshold=7)
    stored = Placement(parse(spec), threshold=7, storage=storage)
    if spec != "full":
        stored = stored.for_budget(TABLES, 16_000)
        plain = plain.for_budget(TABLES, 16_000)
        assert 14_500 < stored.num_bytes(TABLES) <= 16_000
        assert stored.method.num_parameters(TABLES) > 1.2 * plain.method.num_parameters(TABLES)
    group = stored.build(TABLES)
    assert group.num_bytes == stored.num_bytes(TABLES) == saved_bytes(group)


@pytest.mark.parametrize(
    ("optimizer", "form"),
    [
        *((optim.Adagrad, "dense"), (optim.Adagrad, "rows"), (optim.SGD, "rows")),
        *((torch.optim.Adagrad, "dense"), (torch.optim.SGD, "rows")),
    ],
)
@pytest.mark.parametrize("spec", ["robe:block=4,floats=3002", "qr:collisions=4", "full"])
@pytest.mark.parametrize("storage", FORMATS)
def test_memory_is_on_the_grid_whenever_it_is_read(storage, spec, optimizer, form):
    group = Placement(parse(spec), storage=storage).build(TABLES, seed=1)
    group.sparse = form == "rows"
    steps = optimizer(group.parameters(), lr=0.01)
    before = group.memory.detach().clone()
    for step in range(3):
        ids = torch.randint(0, 7, (20, 3), generator=draws(step))
        steps.zero_grad()
        vectors = group(ids)
        blocks = torch.nn.functional.pad(group.memory.detach().view(-1), (0, -group.memory.numel() % BLOCK))
        blocks = blocks.view(-1, BLOCK)
        assert torch.equal(rounded_by(blocks, storage, 9), blocks)
        (vectors * torch.linspace(-1, 2, 16)).square().sum().backward()
        steps.step()
    assert not torch.equal(before, group.memory)


@pytest.mark.parametrize("storage", FORMATS)
def test_only_touched_blocks_are_rounded_after_sparse_steps_and_as_the_whole_would_be(storage):
    group = Placement(parse("full"), storage=storage).build(TABLES, seed=1)
    group.sparse = True
    steps = optim.SGD(group.parameters(), lr=0.3)
    group(torch.tensor([[3, 5, 2]])).square().sum().backward()
    steps.step()
    off_grid = group.memory.detach().clone()
    group(torch.tensor([[3, 5, 2]]))
    touched = [3, 1005, 1319]
    changed = (group.memory != off_grid).any(dim=1).nonzero().flatten().tolist()
    neighbours = {row ^ 1 for row in touched} if storage == "int8" else set()
    assert set(touched) - neighbours <= set(changed) <= set(touched) | neighbours


@pytest.mark.parametrize("storage", FORMATS)
def test_a_saved_group_goes_on_with_the_same_bits(storage):
    def trained(group, steps, first):
        optimizer = optim.SGD(group.parameters(), lr=0.1)
        for step in range(first, first + steps):
            optimizer.zero_grad()
            group(torch.randint(0, 7, (20, 3), generator=draws(step))).square().sum().backward()
            optimizer.step()
        return group

    placement = Placement(parse("robe:block=4,floats=3000"), storage=storage)
    whole = trained(placement.build(TABLES), 6, 0)
    first = trained(placement.build(TABLES), 3, 0)
    again = placement.build(TABLES)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    second = trained(again, 3, 3)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("storage", FORMATS)
def test_the_drop_ins_keep_their_memory_in_few_bits(storage):
    bag = EmbeddingBag(1000, 16, mode="sum", method="qr:collisions=4", storage=storage)
    floats = bag.group.memory.numel()
    assert bag.num_bytes == stored_bytes(floats, storage)
    steps = torch.optim.SGD(bag.parameters(), lr=0.1)
    ids, offsets = torch.tensor([3, 5, 999]), torch.tensor([0, 2])
    bag(ids, offsets).square().sum().backward()
    steps.step()
    bag(ids, offsets)
    packed = pack(bag.group.memory.detach(), storage)
    assert torch.equal(unpack(packed), bag.group.memory)
    embedding = Embedding(1000, 16, method="qr:collisions=4", storage=storage)
    embedding.load_state_dict(bag.state_dict())
    assert torch.equal(embedding(ids[:2]).sum(0), bag(ids, offsets)[0])


def test_float32_weights_may_be_loaded_into_few_bits_and_back():
    exact = Placement(parse("qr:collisions=4")).build(TABLES)
    small = Placement(parse("qr:collisions=4"), storage="int8").build(TABLES)
    small.load_state_dict(exact.state_dict(), strict=False)
    ids = torch.tensor([[3, 5, 2]])
    assert 0 < (small(ids) - exact(ids)).abs().max() < 2e-3
    exact.load_state_dict(small.state_dict(), strict=False)
    assert torch.equal(small(ids), exact(ids))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="storage='int4' must be one of fp32, bf16, fp16, int8"):
        Placement(parse("hash"), storage="int4")
    with pytest.raises(ValueError, match="300 bytes of int8 are 1160 of fp32, and a budget of 1160 bytes is below"):
        Placement(parse("qr"), storage="int8").for_budget(TABLES, 300)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("memory_exponents", lambda held: held[:-1]),
        ("memory_exponents", lambda held: held.to(torch.int64) * 0 + 10**6),
        ("memory_codes", lambda held: held.float()),
    ],
)
def test_a_damaged_state_is_refused(name, damage):
    group = Placement(parse("hash:collisions=4"), storage="int8").build(TABLES)
    state = group.state_dict()
    state[name] = damage(state[name])
    with pytest.raises(ValueError, match="the file is damaged"):
        group.load_state_dict(state)


def test_rows_that_lie_apart_are_rounded_too():
    memory = torch.randn(1000, 16, generator=draws())
    expected = memory.clone()
    rows = torch.arange(0, 1000, 3)
    round_memory(expected, rows, "int8", 5)
    round_memory(memory, torch.stack([rows, rows], dim=1)[:, 0], "int8", 5)
    assert torch.equal(memory, expected)
