"""Memory in few bits: levels and scales as documented, the same bits whoever reads, saved and loaded exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import flat_gradient, flat_memory
from methods.cases import CASES, TABLES
from tablefold import Embedding, EmbeddingBag, TableSpec, backend, make_plan, optim, parse
from tablefold.formats import BF16, FORMATS, FP32, INT2, INT4, INT8, find_format, in_format
from tablefold.formats.format import BLOCK

ROWS = [table.rows for table in TABLES]
CODES = [INT8, INT4, INT2]
each_format = pytest.mark.parametrize("kind", FORMATS.values(), ids=lambda kind: kind.name)
each_code = pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.name)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
each_storage = pytest.mark.parametrize("storage", FORMATS)


def some_ids(batch=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, rows, (batch,), generator=generator) for rows in ROWS], dim=1)


def build(spec, storage, seed=3):
    method = parse(spec) if isinstance(spec, str) else spec
    return make_plan(method, TABLES, storage=storage).build(seed=seed)


def values_of(rows, width, magnitude=0, seed=0):
    """Values of many magnitudes around a power of ten, zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    spread = 10 ** torch.linspace(magnitude - 2, magnitude, rows)[:, None]
    values = torch.randn(rows, width, generator=generator) * spread
    values[torch.rand(values.shape, generator=generator) < 0.1] = 0
    return values


def full_table(values, kind):
    """A group whose memory is `values`, each row that of an id."""
    rows, width = values.shape
    group = make_plan("full", [TableSpec("t", rows, width)], storage=kind.name).build()
    with torch.no_grad():
        group.arrays[0].copy_(values)
    return group


def same_bits(one, other):
    return one.dtype == other.dtype and torch.equal(
        torch.nan_to_num(one, nan=77.0).view(torch.int32), torch.nan_to_num(other, nan=77.0).view(torch.int32)
    )


@each_format
@settings(max_examples=100, deadline=None)
@given(rows=st.integers(1, 100), width=st.integers(1, 100))
def test_bytes_and_shapes_are_those_of_what_is_packed(kind, rows, width):
    packed, like = kind.encode(values_of(rows, width)), kind.packed_like(rows, width)
    assert (packed.shape, packed.dtype) == (like.shape, like.dtype)
    assert packed.nbytes == kind.num_bytes(rows * width)


@pytest.mark.parametrize("floats", [1, 31, 32, 33, 3200])
def test_bytes_by_hand(floats):
    blocks = math.ceil(floats / 32)
    assert FP32.num_bytes(floats) == 4 * floats
    assert BF16.num_bytes(floats) == 2 * floats
    assert [kind.num_bytes(floats) for kind in CODES] == [33 * blocks, 17 * blocks, 9 * blocks]


@each_format
@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 100),
    width=st.integers(1, 100),
    magnitude=st.integers(-40, 38),
    seed=st.integers(0, 99),
    bad=st.lists(st.tuples(st.integers(0, 9999), st.sampled_from([math.nan, math.inf, -math.inf, 3e38])), max_size=2),
)
def test_all_who_read_give_the_same_bits(kind, rows, width, magnitude, seed, bad):
    values = values_of(rows, width, magnitude, seed)
    for place, value in bad:
        values.view(-1)[place % values.numel()] = value
    packed = kind.encode(values)
    decoded = kind.decode(packed, torch.arange(rows * width)).view(rows, width)
    found = [kind.read(values), kind.read(values.clone().requires_grad_()).detach()]
    for each in found:
        assert same_bits(each, decoded)
    if rows * width < 9:
        return  # a group would not keep a packed block for them, which is more bytes than the floats
    group, ids, found = full_table(values, kind), torch.arange(rows)[:, None], []
    for name in ("cpu", "reference"):
        with backend(name), torch.no_grad():
            found.append(group(ids)[:, 0])
    group.freeze()
    for name in ("cpu", "reference"):
        with backend(name), torch.no_grad():
            found.append(group(ids)[:, 0])
    for each in found:
        assert same_bits(each, decoded)


def scale_of(byte):
    """By the docstring of `codes`: 5 bits of exponent from 2^-24 on, 3 of the fraction."""
    return 2.0 ** ((byte >> 3) - 24) * (1 + (byte & 7) / 8)


def read_by_hand(block, kind):
    """What is read of a block, and the byte of its scale, in Python's floats."""
    magnitudes = [abs(value) for value in block]
    if kind.statistic == "mean":
        padded = magnitudes + [0.0] * (BLOCK - len(block))
        while len(padded) > 1:
            halves = len(padded) // 2
            pairs = zip(padded[:halves], padded[halves:], strict=True)
            padded = [torch.tensor(left).add(torch.tensor(right)).item() for left, right in pairs]
        found = (torch.tensor(padded[0]) / len(block)).item()
    else:
        found = max(magnitudes)
    exact = (torch.tensor(found) * torch.tensor(kind.factor)).item()
    distances = [(abs(scale_of(byte) - exact), -byte) for byte in range(255)]
    byte = -min(distances)[1]  # of two that are as near the larger
    scale, levels = scale_of(byte), 1 << kind.bits
    read = []
    for value in block:
        step = math.floor((torch.tensor(value) / torch.tensor(scale) + levels // 2).item())
        read.append((min(max(step, 0), levels - 1) - (levels - 1) / 2) * scale)
    return read, byte


@each_code
@pytest.mark.parametrize("magnitude", [-9, -3, 0, 2])
@pytest.mark.parametrize("floats", [1, 5, 32, 45])
def test_levels_and_scales_are_those_of_the_formula(kind, floats, magnitude):
    for seed in range(5):
        values = values_of(1, floats, magnitude, seed)
        read, packed = kind.read(values)[0], kind.encode(values)
        for number in range(math.ceil(floats / BLOCK)):
            block = values[0, number * BLOCK : (number + 1) * BLOCK].tolist()
            expected, byte = read_by_hand(block, kind)
            assert packed[number, 0] == byte
            assert read[number * BLOCK : (number + 1) * BLOCK].tolist() == pytest.approx(expected, rel=2**-23)


def test_two_bits_by_hand():
    block = torch.tensor([[1.0, -1.0, 0.6, -0.2, 3.0, -3.0] + [1.0, -1.0] * 13]) / 1.0875
    scale = 1.0  # the mean magnitude is 0.9934: 1 is nearer than 0.9375
    assert torch.equal(INT2.read(block).unique(), torch.tensor([-1.5, -0.5, 0.5, 1.5]) * scale)
    assert INT2.read(block)[0, :6].tolist() == [0.5, -0.5, 0.5, -0.5, 1.5, -1.5]
    packed = INT2.encode(block)[0]
    assert packed[0] == 24 << 3  # of 2^0
    assert packed[1] == 2 | 1 << 2 | 2 << 4 | 1 << 6  # the first code in the lowest bits
    assert packed[2] & 15 == 3 | 0 << 2


@pytest.mark.parametrize(("kind", "most"), [(INT8, 1 / 127), (INT4, 0.2), (INT2, 1.0)], ids=str)
def test_what_is_read_is_near(kind, most):
    values = values_of(300, 32)
    largest = values.abs().amax(1, keepdim=True)
    assert ((kind.read(values) - values).abs() <= most * largest).all()
    if kind is INT8:
        assert ((kind.read(values) - values).abs() <= largest * 1.0625**2 / 255).all()  # half a step: none is clipped


def test_bf16_rounds_to_the_nearest_and_ties_to_even():
    values = torch.tensor([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, -0.0, math.inf]])
    expected = torch.tensor([[1.0, 1.0, 1 + 2**-6, 1 + 2**-7, math.inf, -0.0, math.inf]])
    assert same_bits(BF16.read(values), expected)


@each_code
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("width", [32, 8, 5])
def test_what_is_no_number_makes_exactly_its_block_none(kind, value, width):
    values = values_of(120, width)
    values[61, 3] = value
    flat = torch.arange(values.numel()) // BLOCK == (61 * width + 3) // BLOCK
    expected = flat.view_as(values)
    assert torch.equal(kind.read(values).isnan(), expected)
    group, ids = full_table(values, kind), torch.arange(120)[:, None]
    for _ in range(2):
        assert torch.equal(group(ids)[:, 0].isnan(), expected)
        group.freeze()


def test_a_float_of_fp32_and_bf16_stands_for_itself_alone():
    values = values_of(4, 32)
    values[2, 5] = math.nan
    for kind in (FP32, BF16):
        assert kind.read(values).isnan().sum() == 1


@each_case
@each_storage
def test_the_gradient_is_exactly_the_masters(case, storage):
    """Straight through: what a group of what is read would have as the gradient of its memory."""
    group, exact, ids = build(case.method, storage), build(case.method, "fp32"), some_ids()
    with torch.no_grad():
        for array, own, other in zip(group.address_map.arrays, group.arrays, exact.arrays, strict=True):
            other.copy_(array.format.read(own))
    for sparse in (False, True):
        for name in ("cpu", "reference"):
            for each in (group, exact):
                each.sparse = sparse
                each.zero_grad()
                with backend(name):
                    (each(ids) * torch.linspace(-1, 2, 8)).square().sum().backward()
            assert torch.equal(flat_gradient(group), flat_gradient(exact))
    assert flat_gradient(group).any()


@each_case
@each_storage
def test_freezing_changes_no_bit_and_drops_the_masters(case, storage):
    group, ids = build(case.method, storage), some_ids()
    with torch.no_grad():
        expected = group(ids)
        sizes = {array.name: array.floats for array in group.address_map.arrays if array.format != FP32}
        assert not group.is_frozen
        assert group.freeze() is group
        assert group.is_frozen
        for name in ("cpu", "reference"):
            with backend(name):
                assert torch.equal(group(ids), expected)
                assert torch.equal(group.eval()(ids), expected)
    for array in group.address_map.arrays:
        if array.format != FP32:
            packed = group.memory[array.name]
            assert packed.dtype == (torch.bfloat16 if storage == "bf16" else torch.uint8)
            assert packed.untyped_storage().nbytes() == packed.nbytes == array.num_bytes
    held = [tensor for tensor in [*group.parameters(), *group.buffers()] if tensor.dtype == torch.float32]
    assert not {tensor.numel() for tensor in held} & set(sizes.values()) or storage == "fp32"
    assert torch.equal(group.freeze()(ids), expected)  # once more is the same


@each_case
@each_storage
def test_states_go_from_frozen_and_masters_to_both(case, storage):
    ids = some_ids()
    master, frozen = build(case.method, storage), build(case.method, storage).freeze()
    with torch.no_grad():
        expected = master(ids)
        for state in (master.state_dict(), frozen.state_dict()):
            for other in (build(case.method, storage, seed=3), build(case.method, storage, seed=3).freeze()):
                for parameter in other.parameters():
                    parameter.zero_()
                kinds = [array.dtype for array in other.arrays]
                other.load_state_dict(state)
                assert [array.dtype for array in other.arrays] == kinds
                if other.is_frozen or state["memory." + next(iter(other.memory))].dtype == torch.float32:
                    assert torch.equal(other(ids), expected)
    learning = build(case.method, storage)
    learning.load_state_dict(frozen.state_dict())
    assert torch.equal(learning(ids), expected)  # masters are packed to what was packed
    learning(ids).square().sum().backward()
    assert flat_gradient(learning).any()


@each_storage
@pytest.mark.parametrize("spec", ["qr:combine=mul", "hash_embeddings:floats=1001", "path:collisions=4,hidden=16"])
def test_frozen_memory_refuses_to_learn_in_one_line(spec, storage):
    group, ids = build(spec, storage).freeze(), some_ids()
    values, offsets = [column.contiguous() for column in ids.T], [torch.tensor([0, 3])] * 3
    for compute in (lambda: group(ids), lambda: group.pool(values, offsets)):
        with pytest.raises(ValueError, match=r"memory is frozen and cannot learn: train before freeze\(\)") as caught:
            compute().sum().backward()
        assert "\n" not in str(caught.value)
    group.eval()
    head = torch.nn.Linear(8, 1)
    head(group(ids)).sum().backward()
    assert head.weight.grad.any()


def test_a_group_whose_memory_is_told_not_to_learn_is_not_frozen():
    group, head = build("full", "int8").requires_grad_(False), torch.nn.Linear(8, 1)
    head(group(some_ids())).sum().backward()
    assert not group.is_frozen
    assert group.requires_grad_().arrays[0].requires_grad


def test_packed_memory_that_is_told_to_learn_is_refused():
    group = build("hash_embeddings:floats=1001", "int8").freeze()
    group.memory["weights_1"].requires_grad_()
    for sparse in (False, True):
        group.sparse = sparse
        with pytest.raises(ValueError, match=r"memory in int8 learns in float32 alone, and this one is torch\.uint8"):
            group(some_ids()).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("storage", ["bf16", "int8", "int4", "int2"])
def test_masters_of_other_types_are_refused_in_one_line(storage, dtype):
    with pytest.raises(ValueError, match=rf"memory in {storage} has float32 masters; this one is {dtype}") as caught:
        make_plan("full", TABLES, storage=storage).build(dtype=dtype)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fp16", "int3", "", "INT8"])
def test_an_unknown_format_is_refused_in_one_line(name):
    for make in (find_format, lambda name: make_plan("full", TABLES, storage=name)):
        with pytest.raises(ValueError, match=rf"format {name!r} must be one of fp32, bf16, int8, int4, int2$"):
            make(name)


def test_names_tell_the_format():
    assert in_format("full", "fp32") == "full"
    assert [array.name for array in build("hash_embeddings:floats=1001", "int2").address_map.arrays] == [
        *("rows_8_int2", "weights_1")
    ]


def state_0_1(group, storage):
    """What release 0.1 saved: one flat memory, in the order of addresses."""
    flat, width = flat_memory(group), 8
    own = {"_extra_state": torch.tensor([1, group.address_map.fingerprint_0_1])}
    own |= {name: value for name, value in group.named_buffers() if name in ("lookup", "edges")}
    own |= {name: value for name, value in group.state_dict().items() if name.startswith("transform.")}
    width = width if flat.numel() % width == 0 else 1
    if storage == "int8":
        codes, exponents = torch.empty(flat.numel(), dtype=torch.int8), []
        for number, block in enumerate(flat.split(32)):
            exponent = math.ceil(math.log2(max(float(block.abs().max()), 2.0**-100) / 127))
            exponents.append(exponent)
            codes[32 * number : 32 * number + len(block)] = torch.round(block / 2.0**exponent).to(torch.int8)
        own |= {"memory_codes": codes.view(-1, width), "memory_exponents": torch.tensor(exponents, dtype=torch.int8)}
        own["rounding.rounds"] = torch.tensor(5)
        scales = 2.0 ** torch.tensor(exponents, dtype=torch.float32).repeat_interleave(32)[: flat.numel()]
        return own, codes.float() * scales
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[storage]
    own["memory"] = flat.to(kind).view(-1, width)
    if storage != "fp32":
        own["rounding.rounds"] = torch.tensor(5)
    return own, flat.to(kind).float()


@each_case
@pytest.mark.parametrize("saved", ["fp32", "bf16", "fp16", "int8"])
def test_what_release_0_1_saved_is_loaded(case, saved):
    state, expected = state_0_1(build(case.method, "fp32", seed=3), saved)
    for storage in ("fp32", "int4"):
        group = build(case.method, storage, seed=3)
        for parameter in group.parameters():
            parameter.data.zero_()
        group.load_state_dict(dict(state))
        assert torch.equal(flat_memory(group), expected)
    module = torch.nn.ModuleDict({"inner": build(case.method, "fp32", seed=3)})
    module.load_state_dict({f"inner.{name}": value for name, value in state.items()})
    assert torch.equal(flat_memory(module["inner"]), expected)
    frozen = build(case.method, "int4", seed=3).freeze()
    frozen.load_state_dict(dict(state))
    with torch.no_grad():
        assert torch.equal(frozen(some_ids()), group(some_ids()))


def test_damaged_states_of_0_1_are_refused():
    group = build("hash:collisions=4", "fp32")
    state, _ = state_0_1(group, "int8")
    with pytest.raises(ValueError, match="the file is damaged"):
        group.load_state_dict({**state, "memory_exponents": state["memory_exponents"][:-1]})
    state, _ = state_0_1(group, "fp32")
    with pytest.raises(ValueError, match=r"memory holds 2672 floats, this group reads 2680"):
        group.load_state_dict({**state, "memory": state["memory"][:-1]})


@pytest.mark.parametrize("spec", ["robe:block=1", "robe:block=16", "qr:combine=mul", "path:hidden=2", "full", "hash"])
@pytest.mark.parametrize("storage", ["bf16", "int8", "int4", "int2"])
def test_a_budget_is_met_in_stored_bytes(spec, storage):
    tables = [TableSpec("user", 1000, 16), TableSpec("item", 317, 16), TableSpec("day", 7, 16)]
    budget = None if spec == "full" else 16_000
    plain, stored = (make_plan(spec, tables, budget=budget, threshold=7, storage=each) for each in ("fp32", storage))
    if spec != "full":
        most = sum(table.rows for table in tables[:2]) * 16
        floats = stored.method.num_parameters(tables[:2])
        assert 14_500 < stored.num_bytes <= 16_000 or floats >= 0.9 * most
        assert floats > 1.2 * plain.method.num_parameters(tables[:2])
    group = stored.build()
    promised = group.num_bytes
    state = group.freeze().state_dict()
    saved = sum(tensor.nbytes for name, tensor in state.items() if name != "_extra_state")
    assert promised == group.num_bytes == stored.num_bytes == saved


@each_storage
@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("optimizer", [optim.Adagrad, optim.RowwiseAdagrad, torch.optim.SGD])
def test_a_saved_group_goes_on_with_the_same_bits(storage, optimizer, form):
    def trained(group, steps, first):
        made = optimizer(group.parameters(), lr=0.1)
        for step in range(first, first + steps):
            group.sparse = form == "rows"
            made.zero_grad()
            group(some_ids(20, step)).square().sum().backward()
            made.step()
        return group

    first = trained(build("robe:block=4,floats=3000", storage), 3, 0)
    again = build("robe:block=4,floats=3000", storage)
    again.load_state_dict(first.state_dict())
    assert torch.equal(flat_memory(trained(again, 3, 3)), flat_memory(trained(first, 3, 3)))


@each_storage
def test_the_drop_ins_keep_their_memory_in_few_bits(storage):
    bag = EmbeddingBag(1000, 16, mode="sum", method="qr:collisions=4", storage=storage)
    assert bag.num_bytes == FORMATS[storage].num_bytes(254 * 16)
    steps = torch.optim.SGD(bag.parameters(), lr=0.1)
    ids, offsets = torch.tensor([3, 5, 999]), torch.tensor([0, 2])
    before = bag(ids, offsets)
    before.square().sum().backward()
    steps.step()
    with torch.no_grad():
        after = bag(ids, offsets)
    if storage != "int2":  # a step may be too small for one of four levels
        assert not torch.equal(before, after)
    embedding = Embedding(1000, 16, method="qr:collisions=4", storage=storage)
    embedding.load_state_dict(bag.state_dict())
    bag.group.freeze()
    bag.eval()
    embedding.group.freeze()
    embedding.eval()
    assert torch.equal(bag(ids, offsets), after)
    assert torch.equal(embedding(ids[:2]).sum(0), after[0])


def test_float32_weights_are_loaded_by_name_alone():
    """Arrays of other formats have other names: nobody takes int8 for int4."""
    exact, small = build("qr:collisions=4", "fp32"), build("qr:collisions=4", "int8")
    with pytest.raises(RuntimeError, match="Missing key"):
        small.load_state_dict(exact.state_dict())


@pytest.mark.parametrize("name", ["bf16", "int8", "int4", "int2"])
@pytest.mark.parametrize(("rows", "width"), [(1000, 16), (37, 5), (1, 1), (3, 32)])
def test_a_master_of_packed_memory_is_packed_to_the_same(name, rows, width):
    kept, draw = FORMATS[name], torch.Generator().manual_seed(rows)
    memory = torch.randn(rows, width, generator=draw) * torch.rand(rows, 1, generator=draw) ** 4
    memory[rows // 2] = 0
    packed = kept.encode(memory)
    for _ in range(3):
        master = kept.master(packed, rows, width)
        assert torch.equal(kept.encode(master), packed)


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
def test_blocks_that_are_no_numbers_stay_so(name):
    kept, memory = FORMATS[name], torch.ones(4, 32)
    memory[1, 3] = torch.nan
    memory[2] = 0
    memory[3] = 1e-30
    packed = kept.encode(memory)
    assert torch.equal(kept.encode(kept.master(packed, 4, 32)), packed)
