"""The operators as torch sees them: registered whole, differentiable, compiled into one graph, absent from exports."""

import pytest
import torch

from methods.cases import CASES, TABLES
from ops.test_gather import some_ids
from tablefold import backend, parse

ROWS = [table.rows for table in TABLES]
OPERATORS = torch.ops.tablefold
SPECS = ["full", "qr:collisions=4,combine=mul", "robe:block=3,sign=true,floats=1000", "hash_embeddings:k=2,floats=1001"]
each_spec = pytest.mark.parametrize("spec", SPECS)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)


def arguments(spec, batch=70):
    group = parse(spec).build(TABLES, seed=3)
    return group, group.memory, group.lookup, some_ids(batch, ROWS), group.program.fingerprint


@each_spec
def test_the_operators_are_registered_as_torch_wants_them(spec):
    group, memory, lookup, ids, program = arguments(spec)
    torch.library.opcheck(OPERATORS.gather.default, (memory, lookup, ids, program, False))
    vectors = torch.randn(len(ids), group.num_features, group.dim)
    for operator in (OPERATORS.scatter.default, OPERATORS.scatter_rows.default):
        torch.library.opcheck(operator, (vectors, memory.detach(), lookup, ids, program))


@each_spec
def test_gradients_are_exact_in_float64(spec):
    _group, memory, lookup, ids, program = arguments(spec, batch=6)
    assert torch.autograd.gradcheck(
        lambda values: OPERATORS.gather(values, lookup, ids, program, False),
        (memory.detach().double().requires_grad_(),),
        fast_mode=True,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's compiler has its own
@pytest.mark.parametrize("form", ["dense", "rows"])
@each_spec
def test_a_group_compiles_into_one_graph(spec, form):
    group, ids = parse(spec).build(TABLES, seed=3), some_ids(70, ROWS)
    group.sparse = form == "rows"
    compiled = torch.compile(group, fullgraph=True, backend="aot_eager")
    vectors = compiled(ids)
    assert torch.equal(vectors, group(ids))
    vectors.square().sum().backward()
    assert group.memory.grad.is_sparse == (form == "rows")
    gradient = group.memory.grad.to_dense()
    group.memory.grad = None
    group(ids).square().sum().backward()
    torch.testing.assert_close(gradient, group.memory.grad.to_dense(), rtol=1e-6, atol=1e-7)
    ids[3, 1] = 9999
    with pytest.raises(ValueError, match=r"id 9999 \(example 3\) is outside table 1"):
        compiled(ids)


@each_case
def test_exported_programs_hold_no_operator_of_ours(case):
    group = case.method.build(TABLES, seed=3)
    program = torch.export.export(group, (some_ids(7, ROWS),))
    assert not [node for node in program.graph.nodes if "tablefold" in str(node.target)]


def test_fake_and_meta_tensors_have_shapes():
    group = parse("qr:combine=mul").build(TABLES, device="meta")
    assert group(torch.zeros(5, 3, dtype=torch.int64, device="meta")).shape == (5, 3, 8)
    mode = torch._subclasses.FakeTensorMode()
    _group, memory, _, ids, program = arguments("qr:combine=mul", batch=5)
    memory, ids = (mode.from_tensor(tensor) for tensor in (memory.detach(), ids))
    with mode:
        assert OPERATORS.gather(memory, None, ids, program, False).shape == (5, 3, 8)


def test_a_backend_lasts_as_long_as_its_context():
    group, ids = parse("full").build(TABLES), some_ids(5, ROWS)
    with torch.profiler.profile() as profile, backend("reference"):
        group(ids)
    assert not [event for event in profile.events() if "tablefold" in event.name]
    with torch.profiler.profile() as profile:
        group(ids)
    assert [event for event in profile.events() if "tablefold" in event.name]
