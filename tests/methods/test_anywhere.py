"""A group, and its bags, behave like any module of torch's wherever torch takes them: one test per place."""

import copy
import io
import pickle
import threading

import onnxruntime
import pytest
import torch
from torch.export import Dim

from arrays import by_address, flat_gradient, flat_memory, into_arrays
from methods.cases import CASES, TABLES
from tablefold import backend, make_plan, parse
from tablefold.formats import FORMATS
from tablefold.ops import WildIdError

ROWS = [table.rows for table in TABLES]
FEW_BITS = ["bf16", "int8", "int4", "int2"]
ONE_EACH = list({case.method.name: case for case in reversed(CASES)}.values())
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
each_method = pytest.mark.parametrize("case", ONE_EACH, ids=lambda case: case.spec)
each_format = pytest.mark.parametrize("storage", FORMATS)
each_mode = pytest.mark.parametrize("mode", ["sum", "mean", "max"])
quiet = pytest.mark.filterwarnings("ignore")  # torch's compiler, tracer and exporters warn of their own insides


def build(case, storage="fp32", **options):
    return make_plan(case.method, TABLES, storage=storage).build(seed=3, **options)


def some_ids(batch=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, rows, (batch,), generator=generator) for rows in ROWS], dim=1)


class Bags(torch.nn.Module):
    """A group's bags as a module of its own."""

    def __init__(self, group, mode):
        super().__init__()
        self.group, self.mode = group, mode

    def forward(self, users, items, countries, first, second, third):
        return self.group.pool([users, items, countries], [first, second, third], mode=self.mode)


BAG_SIZES = ({0: Dim("users")}, {0: Dim("items")}, {0: Dim("countries")}, *[{0: Dim("bags")}] * 3)


def some_bags(times=1):
    values = [column.repeat(times) for column in some_ids(5).T]
    offsets = [torch.tensor([0, 2, 2, 5]), torch.tensor([0, 1, 1, 4]), torch.tensor([0, 0, 3, 5])]
    return *values, *(torch.cat([own, own[-1:] + 1]) if times > 1 else own for own in offsets)


@each_format
@each_case
def test_it_is_built_on_meta_and_filled_later(case, storage):
    state, ids = build(case, storage).state_dict(), some_ids()
    expected = build(case, storage)(ids)
    emptied = build(case, storage, device="meta").to_empty(device="cpu")
    emptied.load_state_dict(state)
    assert torch.equal(emptied(ids), expected)
    assigned = build(case, storage, device="meta")
    assigned.load_state_dict(state, assign=True)
    assert torch.equal(assigned(ids), expected)
    with torch.device("meta"):
        within = build(case, storage)
    assert all(tensor.is_meta for tensor in [*within.parameters(), *within.buffers()])
    within.load_state_dict(state, assign=True)
    assert torch.equal(within(ids), expected)


@each_format
@each_case
def test_it_is_frozen_on_meta_and_filled_later(case, storage):
    group, ids = build(case, storage), some_ids()
    expected, state = group(ids), group.state_dict()
    for weights in (state, group.freeze().state_dict()):
        for assign in (False, True):
            other = build(case, storage, device="meta").freeze().eval()
            if not assign:
                other.to_empty(device="cpu")
            other.load_state_dict(weights, assign=assign)
            assert torch.equal(other(ids), expected)


@each_format
@each_case
def test_its_state_is_its_weights_lookup_arrays_and_edges(case, storage):
    group = build(case, storage)
    names = [f"memory.{array.name}" for array in group.address_map.arrays]
    assert [name for name, _ in group.named_parameters()][: len(names)] == names
    held = set(group.state_dict()) - {"_extra_state"}
    assert held == {name for name, _ in [*group.named_parameters(), *group.named_buffers()]}
    assert held - {name for name, _ in group.named_parameters()} <= {"lookup", "edges"}
    assert set(group.freeze().state_dict()) - {"_extra_state"} == held


@each_case
@pytest.mark.parametrize("storage", ["fp32", "int4"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_default_device_of_torch_moves_no_temporary(case, device, storage):
    group, ids, bags = build(case, storage), some_ids(), some_bags()
    vectors, pooled = group(ids), group.pool(bags[:3], bags[3:])
    for sparse in (False, True):
        group.sparse = sparse
        with torch.device(device):
            assert torch.equal(group(ids), vectors)
            sums = group.pool(bags[:3], bags[3:])
            assert torch.equal(sums, pooled)
            sums.square().sum().backward()
            group(ids).square().sum().backward()
            group.zero_grad()
    group.freeze().eval()
    with torch.device(device), torch.no_grad():
        assert torch.equal(group(ids), vectors)
        assert torch.equal(group.pool(bags[:3], bags[3:]), pooled)


@each_case
def test_the_default_type_of_torch_is_its_type(case):
    torch.set_default_dtype(torch.float64)
    try:
        group = build(case)
        vectors = group(some_ids())
        vectors.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {vectors.dtype, *(array.grad.dtype for array in group.arrays)} == {torch.float64}
    torch.testing.assert_close(vectors.float(), build(case)(some_ids()))


@each_case
def test_half_precision_is_read_by_the_reference_and_refused_by_kernels(case):
    ids = some_ids()
    for dtype in (torch.bfloat16, torch.float16):
        group = build(case, dtype=dtype)
        assert group(ids).dtype == dtype
        torch.testing.assert_close(group(ids).float(), build(case)(ids), rtol=0.05, atol=0.002)
        with backend("cpu"), pytest.raises(ValueError, match=rf"'cpu' reads .* this one is {str(dtype)[6:]}: "):
            group(ids)


@each_case
def test_autocast_changes_nothing_but_the_precision_of_products(case):
    group, ids = build(case), some_ids()
    with torch.autocast("cpu", torch.bfloat16):
        vectors = group(ids)
        vectors.square().sum().backward()
    assert {vectors.dtype, *(array.grad.dtype for array in group.arrays)} == {torch.float32}
    torch.testing.assert_close(vectors, group(ids), rtol=0.05, atol=0.002)


@each_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_bytes_are_those_of_the_type_it_is_in(case, dtype):
    group = build(case, dtype=dtype)
    assert group.num_bytes == sum(tensor.nbytes for tensor in [*group.parameters(), *group.buffers()])


@pytest.mark.parametrize("storage", FEW_BITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
@each_method
def test_memory_in_few_bits_works_in_float32_alone(case, dtype, storage):
    kept = build(case, storage).address_map.arrays[0].format.name  # rows that ids share are in int4 at least
    message = rf"memory in {kept} has float32 masters; this one is {dtype}: leave the group in float32"
    with pytest.raises(ValueError, match=message) as caught:
        build(case, storage, dtype=dtype)
    assert "\n" not in str(caught.value)
    group = build(case, storage).to(dtype)
    with pytest.raises(ValueError, match=message):
        group(some_ids())
    with pytest.raises(ValueError, match=message):
        group.pool(some_bags()[:3], some_bags()[3:])


@each_format
@each_method
def test_it_is_built_and_read_under_inference_mode_in_any_format(case, storage):
    ids = some_ids()
    expected = build(case, storage)(ids)
    with torch.inference_mode():
        group = build(case, storage)
        assert torch.equal(group(ids), expected)
        assert torch.equal(group.freeze()(ids), expected)


@each_case
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("storage", ["fp32", "int2"])
def test_copies_stand_alone(case, storage, frozen):
    group, ids = build(case, storage), some_ids()
    if frozen:
        group.freeze().eval()
    expected = group(ids)
    copies = [copy.deepcopy(group), pickle.loads(pickle.dumps(group))]
    buffer = io.BytesIO()
    torch.save(group, buffer)
    copies.append(torch.load(io.BytesIO(buffer.getvalue()), weights_only=False))
    with torch.no_grad():
        for array in group.arrays:
            array.zero_()
    for each in copies:
        assert torch.equal(each(ids), expected)
        assert each.is_frozen == frozen
        assert not {array.data_ptr() for array in each.arrays} & {array.data_ptr() for array in group.arrays}


@each_format
@each_case
def test_edits_of_memory_are_seen(case, storage):
    group, other, ids = build(case, storage), build(case, storage), some_ids()
    before = group(ids)
    for own, its in zip(group.arrays, other.arrays, strict=True):
        with torch.no_grad():
            own.mul_(2)
        its.data *= 2
    assert torch.equal(group(ids), other(ids))
    assert not torch.equal(group(ids), before)
    for own, its in zip(group.arrays, other.arrays, strict=True):
        its.data = torch.full_like(its, 0.01)
        with torch.no_grad():
            own.copy_(its)
    assert torch.equal(group(ids), other(ids))


@each_case
@pytest.mark.parametrize("storage", ["fp32", "int8"])
def test_a_call_with_other_weights_leaves_its_own(case, storage):
    group, ids = build(case, storage), some_ids()
    before = flat_memory(group).clone()
    doubled = {name: value.detach() * 2 for name, value in group.named_parameters()}
    other = build(case, storage)
    other.load_state_dict({**group.state_dict(), **doubled})
    assert torch.equal(torch.func.functional_call(group, doubled, (ids,)), other(ids))
    assert torch.equal(flat_memory(group), before)


@each_case
def test_it_is_built_and_called_under_inference_mode(case):
    with torch.inference_mode():
        vectors = build(case)(some_ids())
    group = build(case)
    with torch.inference_mode():
        assert torch.equal(group(some_ids()), vectors)
    group(some_ids()).sum().backward()


@each_case
def test_gradients_of_gradients_are_right(case):
    group, ids, bags = build(case).double(), some_ids(), some_bags()

    def of_ids(flat):
        return group.gather(into_arrays(group.address_map, flat), group.lookup, ids, group.edges).pow(3).sum()

    def of_bags(flat):
        names = [f"group.memory.{name}" for name in group.memory]
        weights = dict(zip(names, into_arrays(group.address_map, flat), strict=True))
        return torch.func.functional_call(Bags(group, "sum"), weights, bags).pow(3).sum()

    memory = flat_memory(group).requires_grad_()
    direction = torch.randn(memory.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for function in (of_ids, of_bags):
        results = []
        for name in ("cpu", "reference"):
            with backend(name):
                (gradient,) = torch.autograd.grad(function(memory), memory, create_graph=True)
                (second,) = torch.autograd.grad((gradient * direction).sum(), memory)
                results.append((gradient, second))
        assert results[0][1].any()
        torch.testing.assert_close(results[0], results[1])


@each_case
@pytest.mark.parametrize("storage", ["fp32", "int8"])
def test_a_gradient_penalty_is_the_references(case, storage):
    ids = some_ids()
    penalties = []
    for name in ("cpu", "reference"):
        group = build(case, storage).to(torch.float64 if storage == "fp32" else torch.float32)
        with backend(name):
            vectors = group(ids)
            (gradient,) = torch.autograd.grad(vectors.square().sum(), vectors, create_graph=True)
            gradient.square().sum().backward()
        penalties.append(flat_gradient(group))
    assert penalties[0].any()
    torch.testing.assert_close(*penalties)


@quiet
@each_case
def test_functional_transforms_take_it(case):
    group, ids = build(case).double(), some_ids()
    weights = dict(group.named_parameters())

    def loss(weights, ids):
        return torch.func.functional_call(group, weights, (ids,)).square().sum()

    gradients = torch.func.grad(loss)(weights, ids)
    loss(weights, ids).backward()
    torch.testing.assert_close(gradients, {name: value.grad for name, value in weights.items()})
    per_row = torch.vmap(torch.func.grad(loss), (None, 0))(weights, ids[:, None])
    torch.testing.assert_close({name: value.sum(0) for name, value in per_row.items()}, gradients)
    names = [f"memory.{name}" for name in group.memory]
    _, tangent = torch.func.jvp(
        lambda *memory: loss({**weights, **dict(zip(names, memory, strict=True))}, ids),
        group.arrays,
        tuple(gradients[name] for name in names),
    )
    torch.testing.assert_close(tangent, sum(gradients[name].square().sum() for name in names))


@each_method
def test_an_edit_of_ids_before_backward_is_refused(case):
    group, ids, bags = build(case), some_ids(), some_bags()
    vectors, pooled = group(ids), group.pool(bags[:3], bags[3:])
    ids[0] = 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        vectors.sum().backward()
    if case.method.name == "path":
        return  # its bags compose copies of the ids first, which nobody can edit
    bags[0].fill_(7)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        pooled.sum().backward()


@quiet
@each_case
@pytest.mark.parametrize("storage", ["fp32", "int2"])
def test_it_compiles_into_one_graph_for_any_batch(case, storage):
    group = build(case, storage)
    torch._dynamo.reset()
    compiled = torch.compile(group, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (7, 3, 5):
        torch.testing.assert_close(compiled(some_ids(batch)), group(some_ids(batch)))
    compiled(some_ids()).square().sum().backward()
    gradient = flat_gradient(group)
    group.zero_grad()
    group(some_ids()).square().sum().backward()
    torch.testing.assert_close(gradient, flat_gradient(group))


@quiet
@each_mode
@pytest.mark.parametrize("storage", ["fp32", "int4"])
@each_method
def test_bags_compile_into_one_graph_for_any_size(case, storage, mode):
    bags = Bags(build(case, storage), mode)
    torch._dynamo.reset()
    compiled = torch.compile(bags, fullgraph=True, dynamic=True, backend="aot_eager")
    for times in (1, 2, 3):
        torch.testing.assert_close(compiled(*some_bags(times)), bags(*some_bags(times)))
    compiled(*some_bags()).sum().backward()


@quiet
@each_mode
@each_method
def test_bags_export_for_any_size(case, mode):
    bags = Bags(build(case).double(), mode)
    program = torch.export.export(bags, some_bags(), dynamic_shapes=BAG_SIZES)
    for times in (1, 2):
        torch.testing.assert_close(program.module()(*some_bags(times)), bags(*some_bags(times)))


def run_onnx(program, *inputs):
    buffer = io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue())
    assert not [node for node in program.model.graph if node.op_type in ("Loop", "If")]
    names = [each.name for each in session.get_inputs()]
    (output,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    return torch.from_numpy(output)


@quiet
@each_method
@pytest.mark.parametrize(
    ("storage", "frozen"), [("fp32", False), ("int2", False), *((each, True) for each in FEW_BITS)]
)
def test_onnx_computes_the_same_for_any_batch(case, storage, frozen):
    group = build(case, storage)
    if frozen:
        group.freeze().eval()
    program = torch.onnx.export(group, (some_ids(),), dynamo=True, dynamic_shapes=({0: Dim("batch")},), verbose=False)
    torch.testing.assert_close(run_onnx(program, some_ids(11)), group(some_ids(11)))
    wild = some_ids(4)
    wild[1, 1], wild[3, 0] = 7_050_001, -5
    answered = run_onnx(program, wild).isnan().flatten(1).any(1)
    assert answered.tolist() == [False, True, False, True]


@quiet
@pytest.mark.parametrize(
    ("spec", "mode"),
    [("qr:collisions=4,combine=mul", "sum"), ("robe:block=4,floats=1000", "mean"), ("full", "max")],
)
def test_bags_in_onnx_compute_the_same_without_a_loop(spec, mode):
    bags = Bags(parse(spec).build(TABLES, seed=3), mode)
    program = torch.onnx.export(bags, some_bags(), dynamo=True, dynamic_shapes=BAG_SIZES, verbose=False)
    torch.testing.assert_close(run_onnx(program, *some_bags(2)), bags(*some_bags(2)))


def masks(program):
    """How many choices a recorded program makes."""
    return sum("masked_fill" in str(node.target) for node in program.graph.nodes)


@quiet
@each_method
def test_recorded_programs_answer_ids_outside_as_asked(case):
    wild = some_ids()
    wild[2, 1] = 317
    tame = [0, 1, 3, 4, 5, 6]
    for outside, answer in (("nan", torch.nan), ("zero", 0.0)):
        group = build(case)
        group.outside = outside
        expected = group(some_ids())
        exported = torch.export.export(group, (some_ids(),)).module()
        for program in (exported, torch.jit.trace(group, (some_ids(),), check_trace=False)):
            vectors = program(wild)
            torch.testing.assert_close(vectors[tame], expected[tame])
            per_table = case.features // 3
            item = vectors[2, per_table : 2 * per_table]
            torch.testing.assert_close(item, torch.full_like(item, answer), equal_nan=True)
    group.outside = "unchecked"
    plain = torch.export.export(group, (some_ids(),))
    assert masks(plain) < masks(exported)  # terms that some ids of a table do not read have masks of their own


@quiet
@each_case
@pytest.mark.parametrize(("storage", "frozen"), [("fp32", False), ("int4", False), ("int2", True)])
def test_a_trace_serves_any_batch(case, storage, frozen):
    group = build(case, storage)
    if frozen:
        group.freeze().eval()
    traced = torch.jit.trace(group, (some_ids(),), check_trace=False)
    torch.testing.assert_close(traced(some_ids(13)), group(some_ids(13)))


@each_method
@pytest.mark.parametrize("storage", ["fp32", "int2"])
@pytest.mark.parametrize("sparse", [False, True])
def test_two_threads_compute_at_once(case, sparse, storage):
    group, results = build(case, storage), {}
    group.sparse = sparse
    batches = [some_ids(500, seed) for seed in range(2)]

    def work(number):
        for _ in range(20):
            vectors = group(batches[number])
            gradients = torch.autograd.grad(vectors.square().sum(), group.arrays)
            results.setdefault(number, []).append((vectors.detach(), by_address(group.address_map, gradients)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, found in results.items():
        vectors = group(batches[number])
        gradient = by_address(group.address_map, torch.autograd.grad(vectors.square().sum(), group.arrays))
        assert len(found) == 20
        for each in found:
            assert torch.equal(each[0], vectors)
            assert torch.equal(each[1], gradient)


@each_format
@each_case
def test_what_it_is_printed_as_says_method_size_and_format(case, storage):
    group = build(case, storage)
    text = str(group)
    assert (f"in {storage}" in text) == (storage != "fp32")
    assert case.spec in text
    assert "x smaller than full" in text
    assert "Gather" not in text


@each_case
def test_damaged_lookup_arrays_are_refused_and_never_read_beyond_memory(case):
    group = build(case)
    if group.lookup is None:
        return
    state = group.state_dict()
    wild = torch.iinfo(state["lookup"].dtype).max  # no pointer is so large
    for damaged in (state["lookup"].clone().fill_(wild), state["lookup"][:-1], state["lookup"].to(torch.int64)):
        with pytest.raises(ValueError, match="lookup of these weights is not the array that the group's terms read"):
            build(case).load_state_dict({**state, "lookup": damaged})
    group.lookup.fill_(200)  # by hand: whatever it holds, no read leaves memory
    assert bool(group(some_ids()).isfinite().all())
    entries = len(group.lookup)
    group.lookup = group.lookup[:3].clone()
    with pytest.raises(ValueError, match=f"lookup arrays must have {entries} entries; got 3"):
        group(some_ids())


@each_case
def test_weights_that_are_no_floats_or_of_unknown_addresses_are_refused(case):
    state = build(case).state_dict()
    for name in [each for each in state if each.startswith("memory.")]:
        with pytest.raises(ValueError, match=rf"{name} is torch.int32 in these weights, it must be floats"):
            build(case).load_state_dict({**state, name: state[name].view(torch.int32)})
    without = {name: value for name, value in state.items() if name != "_extra_state"}
    with pytest.raises(ValueError, match="_extra_state, which says what addresses they are for"):
        build(case).load_state_dict(without, strict=False)


def test_the_error_of_the_kernels_is_for_users():
    assert issubclass(WildIdError, ValueError)
