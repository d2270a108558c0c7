"""Clusters: nearest, weighted, seeded, the same bits from pieces and on any number of threads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tablefold import clustering
from tablefold.clustering import cluster


def points(count, dim, seed=0):
    random = torch.Generator().manual_seed(seed)
    middles = torch.randn(40, dim, generator=random)
    return middles[torch.randint(0, 40, (count,), generator=random)] + 0.2 * torch.randn(count, dim, generator=random)


def error_of(vectors, found, weights):
    distances = (vectors.double() - found.centroids.double()[torch.from_numpy(found.of).long()]).square().sum(dim=1)
    return float(np.average(distances.numpy(), weights=weights))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 200),
    dim=st.integers(1, 9),
    share=st.floats(0, 1),
    weighted=st.booleans(),
    flat=st.sampled_from([4, 1024]),
)
def test_every_cluster_is_the_mean_of_its_vectors(count, dim, share, weighted, flat):
    vectors, clusters = points(count, dim), max(1, int(share * count))
    weights = np.random.default_rng(count).integers(1, 50, count).astype(float) if weighted else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering, "FLAT", flat)
        found = cluster(vectors, clusters, weights=weights)
    assert found.of.dtype == np.int32
    assert found.centroids.shape == (clusters, dim)
    for number in np.unique(found.of):
        own = found.of == number
        mean = np.average(vectors[own].double().numpy(), axis=0, weights=None if weights is None else weights[own])
        np.testing.assert_allclose(found.centroids[number].numpy(), mean, rtol=1e-5, atol=1e-5)
    assert found.error == pytest.approx(error_of(vectors, found, weights), rel=1e-4, abs=1e-6)


def test_what_is_asked_of_it_is_a_local_best_and_the_heavy_count():
    vectors = points(5000, 8)
    found = cluster(vectors, 40, iterations=20)
    assert found.error < 1.6 * 8 * 0.2**2  # what the mixture was drawn with, and a few middles that share a cluster
    of, _ = clustering.nearest(vectors, found.centroids)
    assert np.mean(of != found.of) < 0.01
    assert len(np.unique(found.of)) == 40
    weights = np.where(np.arange(5000) < 50, 1e6, 1.0)
    heavy = cluster(vectors, 50, weights=weights, iterations=20)
    distances = (vectors - heavy.centroids[torch.from_numpy(heavy.of).long()]).square().sum(dim=1)
    assert distances[:50].mean() < 0.05 * distances[50:].mean()


def test_cells_lose_little_where_clusters_are_many(monkeypatch):
    vectors = points(60_000, 16)
    monkeypatch.setattr(clustering, "SAMPLE", 30)
    flat = cluster(vectors, 1024)
    monkeypatch.setattr(clustering, "FLAT", 1023)
    cells = cluster(vectors, 1024)
    assert len(np.unique(cells.of)) == 1024
    assert cells.error < 1.1 * flat.error


def test_the_same_bits_in_pieces_under_any_threads_and_others_under_another_seed(monkeypatch):
    vectors = points(20_000, 8)
    monkeypatch.setattr(clustering, "SAMPLE", 100)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(cluster(lambda begin, end: vectors[begin:end], 64, count=20_000, seed=3))
    torch.set_num_threads(before)
    assert torch.equal(found[0].centroids, found[1].centroids)
    assert np.array_equal(found[0].of, found[1].of)
    assert not torch.equal(found[0].centroids, cluster(vectors, 64, seed=4).centroids)


def test_equal_vectors_share_a_cluster_and_leave_the_others_empty():
    found = cluster(torch.ones(10, 3), 4)
    assert found.error == 0
    assert len(np.unique(found.of)) == 1


@pytest.mark.parametrize(
    ("vectors", "clusters", "weights", "message"),
    [
        (torch.zeros(3, 2), 4, None, "4 clusters of 3 vectors: ask for 1 .. 3"),
        (torch.zeros(3, 2), 0, None, "0 clusters of 3 vectors: ask for 1 .. 3"),
        (torch.zeros(3, 2), 1, np.ones(2), "weights must be 3 finite numbers of 0 or more, one for each vector"),
        (torch.zeros(3, 2), 1, np.array([1, -1, 1.0]), "weights must be 3 finite numbers of 0 or more"),
        (torch.zeros(3, 2), 1, np.array([1, np.nan, 1.0]), "weights must be 3 finite numbers of 0 or more"),
        (torch.zeros(3, 2), 1, np.zeros(3), "weights must be 3 finite numbers of 0 or more, one for each vector, not"),
        (torch.tensor([[0.0], [np.nan]]), 1, None, "vector 1 is not finite: its training has diverged"),
    ],
)
def test_what_cannot_be_clustered_is_refused(vectors, clusters, weights, message):
    with pytest.raises(ValueError, match=message):
        cluster(vectors, clusters, weights=weights)


@pytest.mark.slow
def test_ten_million_vectors_in_ten_minutes_and_bounded_memory():
    """K = 65,536 on two cores; vectors are made a piece at a time, as unfolding does."""
    import resource
    import time

    middles = torch.randn(5000, 16, generator=torch.Generator().manual_seed(0))

    def read(begin, end):
        random = torch.Generator().manual_seed(begin)
        chosen = torch.randint(0, 5000, (end - begin,), generator=random)
        return middles[chosen] + 0.5 * torch.randn(end - begin, 16, generator=random)

    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    found = cluster(read, 65_536, count=10_000_000)
    assert time.monotonic() - begin < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3_000_000  # kB
    assert len(np.unique(found.of)) == 65_536
