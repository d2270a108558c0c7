"""The contract of a method: one test per promise, run on every case."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import flat_gradient, flat_memory
from methods.cases import CASES, TABLES, Case
from oracle import vector
from tablefold import Full, Method, TableSpec, all_methods, full_bytes, make_plan, parse
from tablefold.formats import FORMATS
from tablefold.partitions import are_complementary

ROWS = [table.rows for table in TABLES]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)


def build(case: Case, seed: int = 3):
    return case.method.build(TABLES, seed=seed)


def some_ids(batch: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(0, rows, (batch,), generator=generator) for rows in ROWS], dim=1)


def test_every_method_has_a_case():
    assert {case.method.name for case in CASES} == set(all_methods()) - {"auto"}  # which a plan turns into others


@pytest.mark.parametrize("kind", all_methods().values(), ids=lambda kind: kind.name)
def test_every_method_teaches_itself(kind):
    assert ">>>" in kind.__doc__
    assert "When to use it:" in kind.__doc__
    assert kind.summary


@each_case
def test_vectors_have_the_promised_shape_and_type(case):
    group = build(case)
    vectors = group(some_ids(5))
    assert vectors.shape == (5, case.features, 8)
    assert vectors.dtype == torch.float32
    assert group.num_features == case.features
    assert torch.equal(vectors, group(some_ids(5).to(torch.int32)))


@each_case
def test_an_empty_batch_gives_no_vectors(case):
    group = build(case)
    vectors = group(torch.empty(0, 3, dtype=torch.int64))
    assert vectors.shape == (0, case.features, 8)
    vectors.sum().backward()
    assert not any(array.grad.any() for array in group.arrays)


@each_case
@pytest.mark.parametrize("wild", [-1, 317, 2**40])
def test_an_id_outside_its_table_is_refused_by_name(case, wild):
    ids = some_ids(5)
    ids[4, 1] = wild
    with pytest.raises(ValueError, match=rf"table 'item': id {wild} \(example 4 of the batch\) is outside 0 .. 316"):
        build(case)(ids)


@each_case
def test_what_are_no_ids_is_refused(case):
    group = build(case)
    with pytest.raises(ValueError, match=r"one column per table; got \[4, 2\]"):
        group(torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"int64 or int32; got torch.float32"):
        group(torch.zeros(4, 3))


@each_case
def test_parameters_are_as_promised_and_bytes_count_everything(case):
    group = build(case)
    assert case.method.num_parameters(TABLES) == case.parameters
    assert sum(parameter.numel() for parameter in group.parameters()) == case.parameters == group.num_parameters
    held = {name: value for name, value in group.state_dict().items() if not name.endswith("_extra_state")}
    assert group.num_bytes == sum(value.nbytes for value in held.values()) == case.method.num_bytes(TABLES)


@each_case
@pytest.mark.parametrize("storage", FORMATS)
def test_bytes_are_as_promised_in_every_format(case, storage):
    plan = make_plan(case.method, TABLES, storage=storage)
    group = plan.build(seed=3)
    promised, floats = group.num_bytes, group.num_parameters
    assert floats == case.parameters
    group.freeze()
    held = {name: value for name, value in group.state_dict().items() if not name.endswith("_extra_state")}
    assert promised == group.num_bytes == sum(value.nbytes for value in held.values()) == plan.num_bytes
    assert group.num_parameters == floats


@each_case
@pytest.mark.parametrize("storage", FORMATS)
def test_the_meta_device_allocates_nothing(case, storage):
    group = make_plan(case.method, TABLES, storage=storage).build(device="meta")
    assert all(array.is_meta for array in group.arrays)
    assert group.num_parameters == case.parameters
    assert all(array.is_meta for array in group.freeze().arrays)
    assert group.num_parameters == case.parameters


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", all_methods().values(), ids=lambda kind: kind.name)
def test_a_budget_is_never_exceeded_and_the_smallest_is_named(kind, data):
    tables = [
        TableSpec(f"t{number}", data.draw(st.integers(1, 10**6)), dim=8)
        for number in range(data.draw(st.integers(1, 4)))
    ]
    budget, storage = data.draw(st.integers(0, full_bytes(tables))), data.draw(st.sampled_from([None, *FORMATS]))
    try:
        plan = make_plan(kind(), tables, budget=budget, storage=storage)
    except ValueError as error:
        smallest = int(re.search(r"smallest possible for \w+ here, (\d+) bytes", str(error))[1])
        assert smallest > budget
        assert make_plan(kind(), tables, budget=smallest, storage=storage).num_bytes <= smallest
        with pytest.raises(ValueError, match="below the smallest possible"):
            make_plan(kind(), tables, budget=smallest - 1, storage=storage)
    else:
        assert plan.num_bytes <= budget
        assert parse(str(plan.method)) == plan.method
        assert plan.build(device="meta").num_bytes == plan.num_bytes


@each_case
def test_specs_survive_text_and_json(case):
    method = case.method
    assert str(method) == case.spec
    assert parse(str(method)) == method
    assert Method.from_json(method.to_json()) == method
    assert hash(parse(str(method))) == hash(method)


@each_case
def test_addresses_and_starts_depend_on_the_seed_alone(case):
    torch.manual_seed(1)
    one = build(case)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = build(case)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(flat_memory(one), flat_memory(other))
    assert one.address_map == other.address_map
    assert not torch.equal(flat_memory(one), flat_memory(build(case, seed=4)))


@each_case
def test_addresses_never_change(case):
    codes = build(case).address_map.codes("item", [5])[0]
    assert tuple(codes.tolist()) == case.first_codes


@each_case
def test_the_gather_equals_the_formula(case):
    group, ids = build(case).double(), some_ids(16)
    memory = flat_memory(group).numpy()
    rows = [[vector(group.address_map, memory, column, x) for column, x in enumerate(row)] for row in ids.tolist()]
    actual = group.gather(group.arrays, group.lookup, ids, group.edges).detach().flatten(1).numpy()
    np.testing.assert_allclose(actual, np.array([np.concatenate(row) for row in rows]), rtol=1e-12)


@each_case
def test_all_that_some_id_reads_gets_gradient_and_nothing_else(case):
    group = build(case)
    for column, table in enumerate(TABLES):
        ids = torch.zeros(table.rows, 3, dtype=torch.int64)
        ids[:, column] = torch.arange(table.rows)
        weights = torch.rand(group(ids).shape, generator=torch.Generator().manual_seed(column)) + 0.5
        (group(ids) * weights).sum().backward()
    read = np.zeros(group.address_map.floats, dtype=bool)
    for table, terms in zip(TABLES, group.address_map.terms, strict=True):
        codes = [column[column >= 0] for column in group.address_map.codes(table.name, np.arange(table.rows)).T]
        for term, starts in zip(terms, codes, strict=False):
            place = starts[:, None] - term.base + np.arange(term.width)
            read[term.base + (place % term.wrap if term.wrap else place)] = True
            if term.projection is not None:
                read[term.projection.base :][: term.width * term.out] = True
        for weights in codes[len(terms) :]:  # the addresses of weights come last
            read[weights] = True
    np.testing.assert_array_equal(flat_gradient(group).numpy() != 0, read)
    for name, parameter in group.named_parameters():
        assert name.startswith("memory.") or (parameter.grad != 0).flatten(1).any(1).all()  # one function a row


@each_case
def test_gradients_are_exact_in_float64(case):
    group, ids = build(case).double(), some_ids(4)

    def compose(*memory: torch.Tensor) -> torch.Tensor:
        return group.gather(memory, group.lookup, ids, group.edges)

    memory = tuple(array.detach().requires_grad_() for array in group.arrays)
    assert torch.autograd.gradcheck(compose, memory, fast_mode=True)


@each_case
@pytest.mark.parametrize("storage", FORMATS)
def test_state_survives_saving_and_is_refused_elsewhere(case, storage):
    plan = make_plan(case.method, TABLES, storage=storage)
    group = plan.build(seed=3)
    state = {name: value.clone() for name, value in group.state_dict().items()}
    twin = plan.build(seed=3)
    with torch.no_grad():
        for array in twin.arrays:
            array.zero_()
    twin.load_state_dict(state)
    assert torch.equal(twin(some_ids()), group(some_ids()))
    other = make_plan(case.method, [TABLES[1], TABLES[0], TABLES[2]], storage=storage).build(seed=3)
    before = flat_memory(other).clone()
    with pytest.raises(ValueError, match="other addresses: build it with the same method, tables and seed"):
        other.load_state_dict(state)
    assert torch.equal(before, flat_memory(other))
    state["_extra_state"][0] += 1
    with pytest.raises(ValueError, match="saved under hash version 2; this tablefold computes version 1"):
        twin.load_state_dict(state)


@each_case
@pytest.mark.parametrize(("storage", "frozen"), [("fp32", False), ("int2", False), *((name, True) for name in FORMATS)])
def test_unfold_is_every_row(case, storage, frozen):
    group = make_plan(case.method, TABLES, storage=storage).build(seed=3)
    if frozen:
        group.freeze()
    whole = group.unfold("item", chunk=100)
    ids = torch.zeros(317, 3, dtype=torch.int64)
    ids[:, 1] = torch.arange(317)
    per_table = case.features // 3
    rows = group(ids)[:, per_table : 2 * per_table]
    assert torch.equal(whole, rows.squeeze(1) if per_table == 1 else rows)
    with pytest.raises(ValueError, match=r"no table 'itme' in this group; its tables: user, item, country"):
        group.unfold("itme")
    with pytest.raises(ValueError, match="chunk=-1 must be at least 1 id"):
        group.unfold("item", chunk=-1)


@each_case
def test_exported_programs_compute_the_same(case):
    group, ids = build(case).double(), some_ids(7)
    program = torch.export.export(group, (ids,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(some_ids(11)), group(some_ids(11)), rtol=1e-12, atol=0)


@each_case
@pytest.mark.parametrize(("storage", "frozen"), [("int2", False), ("int4", True), ("bf16", True)])
def test_exported_programs_read_every_format(case, storage, frozen):
    group, ids = make_plan(case.method, TABLES, storage=storage).build(seed=3), some_ids(7)
    if frozen:
        group.freeze().eval()
    program = torch.export.export(group, (ids,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(some_ids(11)), group(some_ids(11)), rtol=1e-6, atol=1e-8)


@each_case
def test_composed_vectors_start_like_a_full_table(case):
    if case.method.to_json().get("init") == "paper":
        return  # reproduces another start on purpose: test_qr.py
    full = Full().build(case.large_tables).unfold("user").std()
    for table in case.large_tables:
        vectors = [case.method.build(case.large_tables, seed=seed).unfold(table.name) for seed in range(3)]
        assert all(abs(values.std() / full - 1) < 0.1 for values in vectors)
        assert abs(torch.stack(vectors).mean() / full) < 0.1


@each_case
def test_uniqueness_is_what_the_partitions_say(case):
    address_map = build(case).address_map
    for table, ranges in zip(TABLES, address_map.ranges, strict=True):
        distinct = 0
        for each in ranges:
            parts = [part for term in each.terms for part in term.partitions]
            ids = np.arange(each.stop - each.first)  # which is what partitions see of them
            found = len(np.unique(np.stack([part(ids) for part in parts], axis=-1), axis=0))
            assert (found == len(ids)) == bool(are_complementary(parts, len(ids)))
            distinct += found
        codes = address_map.codes(table.name, np.arange(table.rows))
        if all(term.neighbours == 1 for each in ranges for term in each.terms):  # else blocks may begin within others
            assert len(np.unique(codes, axis=0)) == distinct
