"""The operators as torch sees them: registered whole, differentiable, compiled into one graph, absent from exports."""

import pytest
import torch

from arrays import flat_gradient
from methods.cases import CASES, TABLES
from ops.test_gather import by_row, some_ids
from tablefold import backend, make_plan, parse
from tablefold.formats import FORMATS

ROWS = [table.rows for table in TABLES]
OPERATORS = torch.ops.tablefold
SPECS = ["full", "qr:collisions=4,combine=mul", "robe:block=3,sign=true,floats=1000", "hash_embeddings:k=2,floats=1001"]
each_spec = pytest.mark.parametrize("spec", SPECS)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)


def arguments(spec, batch=70, storage="fp32"):
    group = make_plan(spec, TABLES, storage=storage).build(seed=3)
    return group, list(group.arrays), group.lookup, some_ids(batch, ROWS), group.program.key


@pytest.mark.parametrize("storage", FORMATS)
@each_spec
def test_the_operators_are_registered_as_torch_wants_them(spec, storage):
    group, memory, lookup, ids, program = arguments(spec, storage=storage)
    vectors = torch.randn(len(ids), group.num_features, group.dim)
    for sparse in ([], by_row(True, len(memory)), by_row("mixed", len(memory))):
        torch.library.opcheck(
            OPERATORS.scatter.default, (vectors, group_values(group), lookup, None, ids, program, sparse)
        )
    torch.library.opcheck(OPERATORS.gather.default, (memory, lookup, None, ids, program, []))
    torch.library.opcheck(OPERATORS.gather.default, (list(group.freeze().arrays), lookup, None, ids, program, []))


def group_values(group):
    return [array.detach() for array in group.arrays]


@each_spec
def test_gradients_are_exact_in_float64(spec):
    _group, memory, lookup, ids, program = arguments(spec, batch=6)
    assert torch.autograd.gradcheck(
        lambda *values: OPERATORS.gather(list(values), lookup, None, ids, program, []),
        tuple(array.detach().double().requires_grad_() for array in memory),
        fast_mode=True,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's compiler has its own
@pytest.mark.parametrize("storage", ["fp32", "int2"])
@pytest.mark.parametrize("sparse", [False, True, "mixed"])
@each_spec
def test_a_group_compiles_into_one_graph(spec, sparse, storage, monkeypatch):
    group, *_, ids, _ = arguments(spec, storage=storage)
    monkeypatch.setattr(group, "_sparse_arrays", lambda arrays: by_row(sparse, len(arrays)))
    torch._dynamo.reset()
    compiled = torch.compile(group, fullgraph=True, backend="aot_eager")
    vectors = compiled(ids)
    assert torch.equal(vectors, group(ids))
    vectors.square().sum().backward()
    assert [array.grad.is_sparse for array in group.arrays] == by_row(sparse, len(group.arrays))
    gradient = flat_gradient(group)
    group.zero_grad()
    group(ids).square().sum().backward()
    torch.testing.assert_close(gradient, flat_gradient(group), rtol=1e-6, atol=1e-7)
    ids[3, 1] = 9999
    with pytest.raises(ValueError, match=r"id 9999 \(example 3\) is outside table 1"):
        compiled(ids)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@each_spec
def test_a_frozen_group_compiles_into_one_graph(spec):
    group, *_, ids, _ = arguments(spec, storage="int4")
    torch._dynamo.reset()
    compiled = torch.compile(group.freeze().eval(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(ids), group(ids))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("storage", ["fp32", "int4"])
@each_case
def test_exported_programs_hold_no_operator_of_ours(case, storage, frozen):
    group = make_plan(case.method, TABLES, storage=storage).build(seed=3)
    if frozen:
        group.freeze().eval()
    program = torch.export.export(group, (some_ids(7, ROWS),))
    assert not [node for node in program.graph.nodes if "tablefold" in str(node.target)]


def test_fake_and_meta_tensors_have_shapes():
    for storage in FORMATS:
        group = make_plan("qr:combine=mul", TABLES, storage=storage).build(device="meta")
        assert group(torch.zeros(5, 3, dtype=torch.int64, device="meta")).shape == (5, 3, 8)
        assert group.freeze().eval()(torch.zeros(5, 3, dtype=torch.int64, device="meta")).shape == (5, 3, 8)
    mode = torch._subclasses.FakeTensorMode()
    _group, memory, _, ids, program = arguments("qr:combine=mul", batch=5)
    *memory, ids = (mode.from_tensor(tensor.detach()) for tensor in (*memory, ids))
    with mode:
        assert OPERATORS.gather(memory, None, None, ids, program, []).shape == (5, 3, 8)


def test_a_backend_lasts_as_long_as_its_context():
    group, ids = parse("full").build(TABLES), some_ids(5, ROWS)
    with torch.profiler.profile() as profile, backend("reference"):
        group(ids)
    assert not [event for event in profile.events() if "tablefold" in event.name]
    with torch.profiler.profile() as profile:
        group(ids)
    assert [event for event in profile.events() if "tablefold" in event.name]
