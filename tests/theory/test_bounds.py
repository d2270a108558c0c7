"""The bounds hold: over many seeds, the measured rate of violations never exceeds delta."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import one_array
from tablefold import TableSpec, parse
from tablefold.hashing import derive_key, hash_id_numpy
from tablefold.partitions import hashed
from tablefold.theory.bounds import (
    Blocks,
    dense_projection_size,
    first_refused,
    log_binomial_tail,
    logarithmic_size,
    one_read_size,
    read_back_error,
    signed_blocks_size,
    smallest_overlap,
)

SEEDS = 200


def reads(address_map, column, ids):
    """The weights that each id of a table reads (one beyond memory stands for none), and the sign of each read,
    `[ids, reads]`."""
    places, signs = [], []
    for term in address_map.terms[column]:
        place = term.address(ids)[:, None] - term.base + np.arange(term.width)
        place = term.base + (place % term.wrap if term.wrap else place)
        places.append(np.where(term.reads(ids)[:, None], place, address_map.floats))
        sign = (
            1 - 2 * (hash_id_numpy(ids // term.partition.div, term.partition.key) & 1) if term.signed else 1 + 0 * ids
        )
        signs.append(np.repeat(sign[:, None], term.width, axis=1))
    return np.concatenate(places, axis=1), np.concatenate(signs, axis=1)


def worst_overlap(address_map):
    """The largest share of one id's reads that another id of the group reads, or that it reads twice itself."""
    slots = [reads(address_map, column, np.arange(table.rows))[0] for column, table in enumerate(address_map.tables)]
    most = max(each.shape[1] for each in slots)
    read = np.concatenate(
        [np.pad(each, ((0, 0), (0, most - each.shape[1])), constant_values=address_map.floats) for each in slots]
    )
    count = (read < address_map.floats).sum(axis=1)
    touched = np.zeros((len(read), address_map.floats + 1), dtype=np.float32)
    touched[np.arange(len(read))[:, None], read] = 1
    touched[:, -1] = 0
    worst = (1 - touched.sum(axis=1) / count).max()  # of an id with itself
    shared = np.stack([row[read].sum(axis=1) / count for row in touched])
    np.fill_diagonal(shared, 0)
    return max(worst, shared.max())


def violations(spec, tables, eps, seeds=SEEDS):
    """The share of seeds under which some pair of ids overlaps by more than `eps`."""
    method = parse(spec)
    return np.mean([worst_overlap(method.address_map(tables, seed)) > eps + 1e-6 for seed in range(seeds)])


@pytest.mark.parametrize(
    ("dim", "block", "eps", "delta"), [(16, 1, 0.25, 0.1), (16, 1, 0.1, 0.2), (16, 2, 0.25, 0.1), (32, 8, 0.5, 0.05)]
)
def test_the_rate_of_overlaps_never_exceeds_delta(dim, block, eps, delta):
    scheme = Blocks(dim // block, block)
    floats = int(scheme.floats(40, eps, delta))
    tables = [TableSpec("user", 25, dim), TableSpec("item", 15, dim)]
    assert violations(f"robe:block={block},floats={floats}", tables, eps) <= delta
    # and the bound has content: a tenth of that memory does violate it
    assert violations(f"robe:block={block},floats={floats // 10}", tables, eps, seeds=30) > delta


def test_the_rate_of_coincidences_under_one_read_never_exceeds_delta():
    rows = one_read_size(20, delta=0.1)
    codes = [hashed(rows, derive_key(seed, 0))(np.arange(20)) for seed in range(2000)]
    rate = np.mean([len(np.unique(code)) < 20 for code in codes])
    assert 0.05 < rate <= 0.1


def test_signed_blocks_keep_every_inner_product():
    ids, eps, delta = 50, 0.5, 0.1
    reads, weights = signed_blocks_size(ids, eps, delta)
    places = weights // reads
    failures = 0
    for seed in range(SEEDS):
        products = np.zeros((ids, ids))
        for part in range(reads):
            word = hash_id_numpy(np.arange(ids), derive_key(seed, part))
            bucket, sign = hashed(places, derive_key(seed, part))(np.arange(ids)), 1 - 2 * (word & 1)
            products += (bucket[:, None] == bucket) * (sign[:, None] * sign) / reads
        failures += np.abs(products - np.eye(ids)).max() > eps
    assert failures / SEEDS <= delta


def test_a_dense_projection_keeps_every_inner_product():
    ids, eps, delta = 50, 0.5, 0.1
    weights = dense_projection_size(ids, eps, delta)
    rng = np.random.default_rng(0)

    def rate(size):
        views = rng.choice([-1.0, 1.0], size=(SEEDS, ids, size)) / math.sqrt(size)
        return np.mean(np.abs(views @ views.transpose(0, 2, 1) - np.eye(ids)).max(axis=(1, 2)) > eps)

    assert rate(weights) <= delta < rate(weights // 2)


def test_a_feature_hashed_pair_of_vectors_keeps_its_inner_product():
    """Chebyshev: the variance of a signed hash's inner product of two given unit vectors is at most 2 / m."""
    size, weights = 300, 64
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, size))
    v = 0.6 * u / np.linalg.norm(u) + 0.8 * v / np.linalg.norm(v)
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    errors = []
    for seed in range(2000):
        word = hash_id_numpy(np.arange(size), derive_key(seed, 0))
        bucket, sign = hashed(weights, derive_key(seed, 0))(np.arange(size)), 1 - 2 * (word & 1)
        views = [np.bincount(bucket, sign * vector, weights) for vector in (u, v)]
        errors.append(views[0] @ views[1] - u @ v)
    assert abs(np.mean(errors)) < 4 * math.sqrt(2 / weights / len(errors))
    assert np.var(errors) <= 2 / weights
    assert np.mean(np.abs(errors) > math.sqrt(2 / (weights * 0.1))) <= 0.1


@pytest.mark.parametrize("block", [1, 4])
def test_reading_a_table_back_errs_as_proved(block):
    floats, delta = 500, 0.1
    tables = [TableSpec("user", 40, 8), TableSpec("item", 40, 8)]
    table = np.random.default_rng(0).normal(size=(80, 8))
    squares = []
    for seed in range(60):
        address_map = parse(f"robe:block={block},sign=true,floats={floats}").address_map(tables, seed)
        both = [reads(address_map, column, np.arange(40)) for column in range(2)]
        place, sign = (np.concatenate(parts) for parts in zip(*both, strict=True))
        memory = np.bincount(place.ravel(), (sign * table).ravel(), floats)  # S^T t
        squares.append((sign * memory[place] - table) ** 2)
    norm = np.sum(table**2)
    places = floats - block + 1
    assert np.mean(squares) <= 1.05 * norm / places
    assert np.mean(np.array(squares) > norm * read_back_error(places, delta) ** 2) <= delta


def test_a_step_for_one_id_moves_no_more_of_another_than_their_overlap():
    eps, delta, dim, ids = 0.25, 0.05, 16, 30
    floats = int(Blocks(dim).floats(ids, eps, delta))
    group = parse(f"robe:block=1,floats={floats}").build([TableSpec("user", 10**6, dim)], seed=0)
    everyone = torch.arange(ids)[:, None]
    with torch.no_grad():
        before = group(everyone).clone()
    group(everyone[:1]).sum().backward()
    with torch.no_grad():
        one_array(group).sub_(one_array(group).grad)
        moved = (group(everyone) - before).abs() > 0.5
    assert moved[0].all()
    assert moved[1:].float().mean(dim=(1, 2)).max() <= eps


@settings(deadline=None)  # a busy machine must not fail it
@given(trials=st.integers(1, 60), probability=st.floats(1e-9, 1 - 1e-9), at_least=st.integers(0, 61))
def test_the_binomial_tail_is_exact(trials, probability, at_least):
    exact = math.fsum(
        math.comb(trials, hits) * probability**hits * (1 - probability) ** (trials - hits)
        for hits in range(at_least, trials + 1)
    )
    tail = math.exp(log_binomial_tail(trials, probability, at_least))
    assert tail == pytest.approx(exact, rel=1e-9, abs=1e-300)


@settings(deadline=None)  # a busy machine must not fail it
@given(
    ids=st.integers(1, 10**12),
    eps=st.floats(0.01, 0.9),
    delta=st.floats(1e-6, 0.5),
    blocks=st.sampled_from([1, 2, 16, 128]),
    width=st.sampled_from([1, 4, 32]),
    aligned=st.booleans(),
)
def test_sizes_are_consistent_over_the_whole_range(ids, eps, delta, blocks, width, aligned):
    scheme = Blocks(blocks, width, aligned)
    floats = scheme.floats(ids, eps, delta)
    assert floats >= width
    assert scheme.floats(10 * ids, eps, delta) >= floats
    assert scheme.floats(ids, eps, delta / 2) >= floats
    if floats < 2**50:
        assert smallest_overlap(ids, scheme, int(floats), delta) <= first_refused(blocks, eps) / blocks
        assert smallest_overlap(ids, scheme, int(floats), delta) <= eps + 1e-9


@settings(deadline=None)  # a busy machine must not fail it
@given(ids=st.integers(1, 10**12), eps=st.floats(0.01, 0.9), delta=st.floats(1e-6, 0.5))
def test_the_closed_form_suffices_and_grows_with_the_logarithm(ids, eps, delta):
    reads, floats = logarithmic_size(ids, eps, delta)
    assert Blocks(reads).log_failure(ids, eps, floats) <= math.log(delta) + 1e-9
    more = logarithmic_size(1000 * ids, eps, delta)[1]
    growth = math.e**2 * 2 * math.log(1000) / eps**2
    assert more - floats <= growth + math.e**2 / eps + 2


def test_wrong_probabilities_are_refused():
    for eps, delta in itertools.product((0, 1, -0.1, 1.5), (0.1,)):
        with pytest.raises(ValueError, match=r"eps=.* must lie between 0 and 1"):
            Blocks(4).floats(10, eps, delta)
    with pytest.raises(ValueError, match="delta=1 must lie between 0 and 1"):
        Blocks(4).floats(10, 0.1, 1)
