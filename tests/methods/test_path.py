"""Path-based embeddings: every vector through the function its bucket names, in blocks as one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import one_array
from tablefold import PathBased, TableSpec, make_plan
from tablefold.methods.path import BLOCK, BucketFunctions


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3 * BLOCK), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.sampled_from([None, 1, 4, 7]))
def test_blocks_equal_one_by_one_with_their_gradients(batch, num_buckets, hidden):
    generator = torch.Generator().manual_seed(batch)
    functions = BucketFunctions(num_buckets, 6, hidden, seed=1).double()
    vectors = torch.randn(batch, len(num_buckets), 6, dtype=torch.float64, generator=generator)
    function = torch.cat([torch.randint(0, n, (batch, 1), generator=generator) for n in num_buckets], 1) + torch.tensor(
        functions.first
    )
    results = []
    for compute in (functions.one_by_one, functions.in_blocks):
        flat = vectors.reshape(-1, 6).requires_grad_()
        values = compute(flat, function.flatten())
        results.append((values, *torch.autograd.grad(values.square().sum(), [flat, *functions.parameters()])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)


def test_a_vector_is_its_row_sent_through_one_function_per_digit():
    group = PathBased(collisions=8, hidden=6, k=3).build([TableSpec("t", 1000, 8)], seed=1).double()
    rows, (first, second) = one_array(group), group.transform.functions
    for x in (0, 7, 124, 125, 500, 999):
        vector, digits = rows[x % 125], (x // 125 % 3, x // 375 % 3)
        for functions, digit in zip((first, second), digits, strict=True):
            inner, outer = functions.weights
            hidden = torch.relu(vector @ inner[digit] + functions.biases[0][digit])
            vector = hidden @ outer[digit] + functions.biases[1][digit]
        torch.testing.assert_close(group(torch.tensor([[x]]))[0, 0], vector)


def test_full_tables_pass_by_the_functions():
    tables = [TableSpec("small", 10, 16), TableSpec("large", 5000, 16), TableSpec("open", 20, 16)]
    group = make_plan(PathBased(collisions=4), tables, threshold=20).build(seed=2)
    ids = torch.tensor([[3, 4000, 19]])
    vectors, gathered = group(ids), group.gather(group.arrays, None, ids)
    assert torch.equal(vectors[:, [0, 2]], gathered[:, [0, 2]])
    assert not torch.equal(vectors[:, 1], gathered[:, 1])
    alone = PathBased(collisions=4).build([tables[1]], seed=2)
    torch.testing.assert_close(vectors[:, 1], alone(ids[:, [1]])[:, 0])


@pytest.mark.parametrize("hidden", [16, 32, 64, 128])
@pytest.mark.parametrize("k", [2, 3])
def test_vectors_start_with_a_full_tables_deviation_at_any_depth(hidden, k):
    vectors = PathBased(collisions=8, hidden=hidden, k=k).build([TableSpec("t", 40_000, 16)]).unfold("t")
    assert abs(vectors.std() / 0.02 - 1) < 0.1
    assert abs(vectors.mean()) < 0.002


@pytest.mark.parametrize("hidden", [16, 64])
def test_parameters_are_those_of_the_formula(hidden):
    table = TableSpec("t", 100_001, 16)
    per_bucket = 16 * hidden + hidden + hidden * 16 + 16
    assert PathBased(collisions=4, hidden=hidden).num_parameters([table]) == 25_001 * 16 + 4 * per_bucket


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PathBased(hidden=0), "hidden=0 must be at least 1 unit; for none take function=linear"),
        (lambda: PathBased(k=1), "k=1 must be at least 2 and at most 64 digits"),
        (lambda: PathBased(function="relu"), "function=relu must be one of mlp, linear"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
