"""Bags pooled by the kernel equal vectors composed first and pooled by torch: sums, means, weights, gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import by_address, one_array, whole
from methods.cases import CASES, TABLES
from ops.test_reference import ROWS, address_maps
from tablefold import EmbeddingGroup, backend, make_plan, parse
from tablefold.formats import FORMATS
from tablefold.ops import bags

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)


def bags_of(sizes, rows, seed=0, dtype=torch.int64):
    """(values, offsets, weights) of bags whose sizes are given per table."""
    generator = torch.Generator().manual_seed(seed)
    values = [
        torch.randint(0, count, (sum(each),), generator=generator).to(dtype)
        for each, count in zip(sizes, rows, strict=True)
    ]
    offsets = [torch.tensor(np.cumsum([0, *each])[:-1]) for each in sizes]
    weights = [torch.randn(len(ids), generator=generator) for ids in values]
    return values, offsets, weights


def uneven(bags, most, seed=0):
    """Sizes of bags for each of `TABLES`, some of them 0, one table's larger than the others'."""
    random = np.random.default_rng(seed)
    return [random.integers(0, most * (1 + 5 * (number == 1)), bags).tolist() for number in range(len(TABLES))]


def pooled(group, name, bags, mode):
    """(pooled vectors, gradient of memory) by a backend, for the same gradient of the pooled vectors."""
    values, offsets, weights = bags
    dtype = group.arrays[0].dtype
    given_weights = [weight.to(dtype) for weight in weights] if mode == "weighted" else None
    with backend(name):
        vectors = group.pool(values, offsets, mode="sum" if mode == "weighted" else mode, weights=given_weights)
        factors = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        gradients = torch.autograd.grad(
            (vectors * factors).sum(), group.arrays, allow_unused=True, materialize_grads=True
        )
    return vectors, by_address(group.address_map, [*map(whole, gradients)])


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.integers(1, 70).flatmap(
        lambda bags: st.lists(
            st.lists(st.integers(0, 9), min_size=bags, max_size=bags), min_size=len(TABLES), max_size=len(TABLES)
        )
    ),
    mode=st.sampled_from(["sum", "mean", "weighted"]),
    form=st.sampled_from(["dense", "rows"]),
    threads=st.sampled_from([1, 2, 3]),
    dtype=st.sampled_from([torch.int64, torch.int32]),
)
@each_case
def test_bags_equal_composed_vectors_pooled(case, sizes, mode, form, threads, dtype):
    group = case.method.build(TABLES, seed=3).double()
    group.sparse = form == "rows"
    bags = bags_of(sizes, [table.rows for table in TABLES], dtype=dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        vectors, gradient = pooled(group, "cpu", bags, mode)
    finally:
        torch.set_num_threads(before)
    expected, expected_gradient = pooled(group, "reference", bags, mode)
    torch.testing.assert_close(vectors, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    address_map=address_maps(),
    seed=st.integers(0, 99),
    mode=st.sampled_from(["sum", "mean", "weighted"]),
    form=st.sampled_from(["dense", "rows"]),
)
def test_bags_of_any_terms_equal_composed_vectors_pooled(address_map, seed, mode, form):
    group = EmbeddingGroup(address_map).double()
    group.sparse = form == "rows"
    bags = bags_of(uneven(90, 5, seed)[: len(group.tables)], [ROWS] * len(group.tables))
    vectors, gradient = pooled(group, "cpu", bags, mode)
    expected, expected_gradient = pooled(group, "reference", bags, mode)
    torch.testing.assert_close(vectors, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["sum", "mean", "weighted"])
@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("spec", ["full", "qr:combine=mul", "qr:combine=features", "hash_embeddings:k=2,floats=1001"])
def test_many_bags_of_uneven_tables(spec, form, mode):
    group = parse(spec).build(TABLES, seed=3).double()
    group.sparse = form == "rows"
    bags = bags_of(uneven(300, 7), [table.rows for table in TABLES])
    vectors, gradient = pooled(group, "cpu", bags, mode)
    expected, expected_gradient = pooled(group, "reference", bags, mode)
    torch.testing.assert_close(vectors, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


def test_only_rows_that_a_bag_reads_are_in_its_gradient():
    group = parse("full").build(TABLES, seed=3)
    group.sparse = True
    values = [torch.tensor([5, 5]), torch.tensor([], dtype=torch.int64), torch.tensor([1, 2, 3])]
    offsets = [torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0, 0])]
    group.pool(values, offsets).sum().backward()
    first = sum(table.rows for table in TABLES[:2])
    gradient = one_array(group).grad
    assert gradient._indices()[0].tolist() == [5, first + 1, first + 2, first + 3]
    assert gradient._values()[:, 0].tolist() == [2, 1, 1, 1]


@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize("mode", ["sum", "mean", "weighted"])
@pytest.mark.parametrize(
    "spec", ["full", "qr:combine=mul", "robe:block=3,sign=true,floats=1000", "hash_embeddings:k=2,floats=1001"]
)
def test_bags_in_any_format_equal_composed_vectors_pooled(spec, mode, storage):
    group = make_plan(spec, TABLES, storage=storage).build(seed=3)
    bags = bags_of(uneven(100, 7), [table.rows for table in TABLES])
    vectors, gradient = pooled(group, "cpu", bags, mode)
    expected, expected_gradient = pooled(group, "reference", bags, mode)
    torch.testing.assert_close(vectors, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
    values, offsets, weights = bags
    options = {"mode": "sum", "weights": weights} if mode == "weighted" else {"mode": mode}
    assert torch.equal(group.freeze().eval().pool(values, offsets, **options), vectors)


@each_case
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_bags_are_the_same_bits_whatever_the_threads(case, form):
    group = case.method.build(TABLES, seed=3)
    group.sparse = form == "rows"
    bags = bags_of(uneven(200, 5), [table.rows for table in TABLES])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(pooled(group, "cpu", bags, "mean"))
    finally:
        torch.set_num_threads(before)
    for vectors, gradient in found[1:]:
        assert torch.equal(vectors, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_a_wild_id_of_a_bag_is_named_by_its_place_in_the_table():
    group = parse("robe:block=8,floats=1000").build(TABLES)
    values, offsets, _ = bags_of(uneven(100, 5), [table.rows for table in TABLES])
    values[1][[77, 90]] = TABLES[1].rows
    with pytest.raises(ValueError, match=rf"table '{TABLES[1].name}': id {TABLES[1].rows} \(example 77 "):
        group.pool(values, offsets)


@pytest.mark.parametrize(
    ("values", "offsets", "message"),
    [
        ([torch.tensor([1.0])] * 3, [torch.tensor([0])] * 3, r"1-D int64 or int32; got torch.float32 \[1\]"),
        (
            [torch.tensor([1])] * 3,
            [torch.tensor([0])] * 2 + [torch.tensor([0, 1])],
            r"equally many bags; got \[1, 1, 2",
        ),
        ([torch.tensor([1])] * 3, [torch.tensor([0.0])] * 3, "offsets must be 1-D int64 or int32"),
        ([torch.tensor([1])] * 3, [torch.tensor([0, 2, 1])] * 3, "never fall"),
        ([torch.tensor([1])] * 2, [torch.tensor([0])] * 3, "for each of the 3 tables"),
    ],
)
def test_lists_that_are_no_bags_are_refused(values, offsets, message):
    with pytest.raises(ValueError, match=message):
        parse("full").build(TABLES).pool(values, offsets)


def test_no_bags_give_no_vectors():
    nothing = [torch.tensor([], dtype=torch.int64)] * 3
    assert parse("full").build(TABLES).pool(nothing, nothing).shape == (0, 3, TABLES[0].dim)


def test_the_maximum_of_vectors_of_zero_has_the_whole_gradient():
    vectors = torch.tensor([[[0.0, 2.0]], [[-1.0, 0.0]]], requires_grad=True)
    pooled = bags.pool(vectors, torch.tensor([0, 1, 2]), "max")
    assert torch.equal(pooled, torch.tensor([[[0.0, 2.0]], [[-1.0, 0.0]], [[0.0, 0.0]]]))
    pooled.sum().backward()
    assert torch.equal(vectors.grad, torch.ones(2, 1, 2))
