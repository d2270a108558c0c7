"""Every compiled gather equals the reference: vectors, gradients, refusals."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arrays import by_address, into_arrays, one_array, whole
from methods.cases import CASES, TABLES
from ops.test_reference import ROWS, address_maps
from oracle import vector
from tablefold import TableSpec, parse
from tablefold.formats import FORMATS
from tablefold.group import EmbeddingGroup, index_arrays
from tablefold.hashing import derive_key
from tablefold.ops import WildIdError, backend, cpu, look_up
from tablefold.ops.program import program_of
from tablefold.partitions import Partition, hashed, identity, intervals
from tablefold.starts import Start
from tablefold.terms import AddressMap, Projection, Region, Term

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)


def some_ids(batch, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, count, (batch,), generator=generator) for count in rows], dim=1)


class Reader:
    """Any address map over random memory: what a group is, without its refusals."""

    def __init__(self, address_map, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        self.address_map = address_map
        memory = torch.randn(address_map.floats, dtype=dtype, generator=generator)
        self.arrays = [array.requires_grad_() for array in into_arrays(address_map, memory)]
        indices = index_arrays(address_map).values()
        self.lookup, self.edges = (torch.from_numpy(array) if array.size else None for array in indices)
        self.program, self.sparse = program_of(address_map), False

    def gather(self, memory, lookup, ids, edges=None):
        return look_up(self.program, memory, lookup, ids, edges, sparse=by_row(self.sparse, len(memory)))

    def __call__(self, ids):
        return self.gather(self.arrays, self.lookup, ids, self.edges)


def by_row(sparse, arrays):
    """For each array whether its gradient is sparse: every second one's where that is `mixed`."""
    return [number % 2 == 0 if sparse == "mixed" else sparse for number in range(arrays)]


def both(group, ids, name="cpu"):
    """(vectors, gradient of memory) by the reference and by a backend, for the same gradient of the vectors."""
    results = []
    for each in ("reference", name):
        with backend(each):
            vectors = group.gather(group.arrays, group.lookup, ids, group.edges)
        weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1), dtype=vectors.dtype)
        loss = (vectors * weights.to(vectors.device)).sum()
        gradients = torch.autograd.grad(loss, group.arrays, allow_unused=True, materialize_grads=True)
        results.append((vectors, by_address(group.address_map, [*map(whole, gradients)])))
    return results


@contextmanager
def threads_of(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@settings(max_examples=200, deadline=None)
@given(address_maps(), st.integers(1, 200), st.sampled_from([1, 2, 3]), st.sampled_from([False, True, "mixed"]))
def test_any_terms_give_the_same_vectors_and_gradients(address_map, batch, threads, sparse):
    group = Reader(address_map, torch.float64)
    group.sparse = sparse
    ids = some_ids(batch, [ROWS] * len(address_map.tables))
    with threads_of(threads):
        (vectors, gradient), (fast_vectors, fast_gradient) = both(group, ids)
    torch.testing.assert_close(fast_vectors, vectors, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fast_gradient, gradient, rtol=1e-9, atol=1e-9)


any_format = st.sampled_from([1, 4, 16]).flatmap(lambda scale: address_maps(scale, tuple(FORMATS.values())))


@settings(max_examples=300, deadline=None)
@given(any_format, st.integers(1, 200), st.sampled_from([1, 3]), st.sampled_from([False, True, "mixed"]))
def test_any_formats_give_the_same_bits_frozen_or_not(address_map, batch, threads, sparse):
    group = Reader(address_map)
    group.sparse = sparse
    ids = some_ids(batch, [ROWS] * len(address_map.tables))
    with threads_of(threads), torch.no_grad():
        frozen = [array.format.encode(own) for array, own in zip(address_map.arrays, group.arrays, strict=True)]
        found = []
        for memory in (group.arrays, frozen):
            for name in ("reference", "cpu"):
                with backend(name):
                    found.append(group.gather(memory, group.lookup, ids, group.edges))
    assert all(torch.equal(vectors, found[0]) for vectors in found)
    (_, gradient), (_, fast_gradient) = both(group, ids)
    torch.testing.assert_close(fast_gradient, gradient, rtol=1e-4, atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(any_format, st.integers(1, 200), st.sampled_from([1, 3]))
def test_vectors_written_past_the_caches_are_the_same(address_map, batch, threads):
    group = Reader(address_map)
    ids = some_ids(batch, [ROWS] * len(address_map.tables))
    with threads_of(threads), torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        plain = group(ids)
        patch.setattr(cpu, "STREAMED_FLOATS", 0)
        assert torch.equal(group(ids), plain)


@each_case
@pytest.mark.parametrize("form", ["dense", "rows"])
@pytest.mark.parametrize("batch", [0, 1, 65, 300])
def test_every_method_gives_the_same_vectors_and_gradients(case, batch, form):
    group = case.method.build(TABLES, seed=3)
    group.sparse = form == "rows"
    ids = some_ids(batch, [table.rows for table in TABLES])
    (vectors, gradient), (fast_vectors, fast_gradient) = both(group, ids)
    assert torch.equal(fast_vectors, vectors)
    torch.testing.assert_close(fast_gradient, gradient, rtol=1e-5, atol=1e-5)  # sums of some hundred float32


@pytest.mark.parametrize("dim", [1, 3, 16, 20, 48])
def test_every_width_is_read_whole(dim):
    tables = [TableSpec("a", 100, dim), TableSpec("b", 50, dim)]
    for spec in ("full", "qr:combine=mul", f"robe:block={dim},floats={20 * dim},sign=true"):
        group = parse(spec).build(tables)
        (vectors, gradient), (fast_vectors, fast_gradient) = both(group, some_ids(130, [100, 50]))
        assert torch.equal(fast_vectors, vectors)
        torch.testing.assert_close(fast_gradient, gradient, rtol=1e-5, atol=1e-5)


def reader_of_one(rows, partition, floats=1 << 16):
    """A group of one table and one term of width 1, that reads at its bucket."""
    table = TableSpec("wide", rows, 1)
    term = Term(partition, 0, stride=1, width=1)
    return Reader(AddressMap((table,), ((term,),), (Region(floats, 1, Start(std=1.0)),)))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2**62), st.data())
def test_quotients_and_remainders_are_exact_for_ids_of_any_size(rows, data):
    buckets = data.draw(st.integers(1, 1 << 16))
    smallest = -(-rows // (1 << 16)) if data.draw(st.booleans()) else 1
    div = data.draw(st.integers(smallest, rows))
    edges = st.integers(0, rows // div).map(lambda quotient: min(quotient * div, rows - 1))
    values = data.draw(st.lists(edges | edges.map(lambda x: max(x - 1, 0)) | st.integers(0, rows - 1), min_size=1))
    group = reader_of_one(rows, Partition(buckets, div=div))
    expected = one_array(group).flatten()[[x // div % buckets for x in values]]
    with backend("cpu"):
        assert torch.equal(group(torch.tensor(values)[:, None]).flatten(), expected)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(1, 1 << 16))
def test_open_vocabularies_take_any_id(values, buckets):
    for div in (1, 7):
        group = reader_of_one(None, Partition(buckets, div=div, key=derive_key(1)))
        ids = torch.tensor(values)[:, None]
        with backend("reference"):
            expected = group(ids)
        assert torch.equal(group(ids), expected)


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 120), min_size=1))
def test_negative_ids_of_an_open_vocabulary_are_in_its_last_range(values):
    table = TableSpec("wide", None, 1)
    hot = [Term(identity(40), 0, 1, 1, stop=40), Term(intervals([3, 1 << 40]), 40, 1, 1, first=40, stop=100)]
    rest = Term(hashed(900, derive_key(1), neighbours=3), 100, 1, 1, first=100, neighbours=3)
    group = Reader(AddressMap((table,), ((*hot, rest),), (Region(1002, 1, Start(std=1.0)),)), torch.float64)
    (vectors, gradient), (fast_vectors, fast_gradient) = both(group, torch.tensor(values)[:, None])
    flat = one_array(group).detach().flatten().numpy()
    assert vectors.flatten().tolist() == [vector(group.address_map, flat, 0, x)[0] for x in values]
    assert torch.equal(fast_vectors, vectors)
    assert torch.equal(fast_gradient, gradient)


def test_a_table_of_more_ranges_than_a_tile_has_ids():
    rows, dim = 300, 4
    terms = tuple(Term(identity(1), dim * x, dim, dim, first=x, stop=x + 1) for x in range(rows))
    group = Reader(AddressMap((TableSpec("a", rows, dim),), (terms,), (Region(rows * dim, dim, Start(std=1.0)),)))
    (vectors, gradient), (fast_vectors, fast_gradient) = both(group, some_ids(200, [rows]))
    assert torch.equal(fast_vectors, vectors)
    assert torch.equal(fast_gradient, gradient)


@pytest.mark.parametrize(("inner", "dim"), [(1, 16), (3, 5), (4, 16), (70, 130), (128, 128), (200, 8)])
@pytest.mark.parametrize("storage", FORMATS)
def test_projections_of_any_width_give_the_same_bits(inner, dim, storage):
    """Longer than what is staged at a time, wider, and no multiple of anything."""
    tables = (TableSpec("a", 1000, dim), TableSpec("b", 1000, dim))
    regions = (Region(100, inner, Start(std=1.0)), Region(inner, dim, Start(std=1.0), "projections"))
    term = Term(Partition(100), 0, inner, inner, projection=Projection(100 * inner, dim))
    group = Reader(
        AddressMap(tables, ((term,), (replace(term, first=7), replace(term, stop=7))), regions).in_format(
            FORMATS[storage]
        )
    )
    ids = some_ids(130, [1000, 12])
    (vectors, gradient), (fast_vectors, fast_gradient) = both(group, ids)
    assert torch.equal(fast_vectors, vectors)
    torch.testing.assert_close(fast_gradient, gradient, rtol=1e-4, atol=1e-3)
    for threads in (1, 3):
        with threads_of(threads):
            assert torch.equal(both(group, ids)[1][1], fast_gradient)


@pytest.mark.parametrize("wild", [-1, 2000, -(2**63), 2**63 - 1])
def test_the_first_wild_id_is_named_and_nothing_is_read_there(wild):
    group = parse("full").build(TABLES)
    ids = some_ids(300, [table.rows for table in TABLES])
    ids[290, 1] = ids[131, 2] = ids[131, 0] = wild
    with pytest.raises(ValueError, match=r"table 'user': .*\(example 131 of the batch\)"):
        group(ids)
    with pytest.raises(WildIdError, match=r"\(example 131\) is outside table 0"):
        group.gather(group.arrays, None, ids)


def test_ids_of_any_layout_are_read_in_place():
    group = parse("qr:combine=mul").build(TABLES)
    ids = some_ids(200, [table.rows for table in TABLES])
    expected = group(ids)
    assert torch.equal(group(ids.t().contiguous().t()), expected)
    assert torch.equal(group(ids.to(torch.int32)), expected)
    assert torch.equal(group(ids.repeat(2, 2)[::2, :3]), expected[::2].repeat(2, 1, 1))


@each_case
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_gradients_are_the_same_bits_whatever_the_threads(case, form):
    group = case.method.build(TABLES, seed=3)
    group.sparse = form == "rows"
    ids = some_ids(500, [table.rows for table in TABLES])
    found = []
    for threads in (1, 2, 3, 7, 1):
        with threads_of(threads):
            found.append(both(group, ids)[1])
    for vectors, gradient in found[1:]:
        assert torch.equal(vectors, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_many_threads_may_call_at_once():
    group = parse("robe:block=8,floats=1000").build(TABLES)
    ids = some_ids(2000, [table.rows for table in TABLES])
    expected = group(ids)
    same = []

    def work():
        same.extend(torch.equal(group(ids), expected) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 160


FORK = """
import os, torch, tablefold
torch.set_num_threads(2)
group = tablefold.parse("qr:combine=mul").build([tablefold.TableSpec("a", 1000, 16)])
ids = torch.arange(1000)[:, None]
expected = group(ids)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(group(ids), expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.equal(group(ids), expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_reads_too():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)


def test_backends_are_chosen_by_name_and_say_why_not():
    with pytest.raises(ValueError, match="no backend 'cuda'; backends: reference, cpu, triton"), backend("cuda"):
        pass
    if not torch.cuda.is_available():
        with (
            pytest.raises(ValueError, match="'triton' is not available: torch finds no CUDA device"),
            backend("triton"),
        ):
            pass
    ids = some_ids(5, [table.rows for table in TABLES])
    far = parse("full").build(TABLES, device="meta")
    with backend("cpu"), pytest.raises(ValueError, match="'cpu' reads memory on cpu; this memory is on meta"):
        far(ids.to("meta"))


def test_a_hashed_partition_of_one_bucket_is_that_bucket():
    group = reader_of_one(None, hashed(1, derive_key(2)))
    assert torch.equal(group(torch.tensor([[-5], [7]])).flatten(), one_array(group)[[0, 0]].flatten())


def test_large_arrays_of_wide_rows_have_sparse_gradients():
    def chosen(spec, rows=1_000_000):
        group = parse(spec).build([TableSpec("a", rows, 16)], device="meta")
        group.sparse = "auto"
        return [*group._sparse_arrays(group.address_map.arrays)]

    assert chosen("hash:max_rows=200000") == [False]
    assert chosen("full") == [True]
    assert chosen("robe:block=16,floats=5000000") == [False]  # rows of 1 float
    assert chosen("robe:block=16,aligned=true,floats=5000000") == [True]
    assert chosen("hash_embeddings:k=2,floats=7000000") == [True, True]
    assert chosen("low_rank:rank=2") == [False, False]
    assert chosen("low_rank:rank=2", rows=3_000_000) == [True, False]  # narrow, but read one at a time
    # An id reads one of these arrays: they count together.
    parts = "graded:stops=60000x200000x800000,widths=16x8x4x1"
    assert chosen(parts, rows=3_000_000) == [False, False, True, False, True, True]
    assert chosen("graded:stops=60000x200000x400000,widths=16x8x4x1") == [False] * 6


@each_case
def test_the_gradients_of_some_arrays_may_be_sparse(case, monkeypatch):
    group = case.method.build(TABLES, seed=3)
    ids = some_ids(200, [table.rows for table in TABLES])
    (_, gradient), _ = both(group, ids)
    monkeypatch.setattr(EmbeddingGroup, "_sparse_arrays", lambda self, arrays: by_row("mixed", len(arrays)))
    _, (_, fast_gradient) = both(group, ids)
    torch.testing.assert_close(fast_gradient, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 200_000])
def test_memory_begins_with_a_cache_line(rows):
    for array in parse("hash_embeddings:floats=10007").build([TableSpec("a", 200_000, 16)]).arrays:
        assert array.data_ptr() % 64 == 0
    assert one_array(parse("full").build([TableSpec("a", rows, 16)])).data_ptr() % 64 == 0


@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize("cut", [8, 24, 40])
def test_parts_of_rows_that_begin_anywhere_in_a_block_are_read_whole(storage, cut):
    """A second term cuts the first into parts; one of a line's width may cross the end of a block of codes."""
    regions = (Region(320, 8, Start(std=1.0)), Region(10, 16, Start(std=1.0)))
    wide, over = Term(Partition(40), 0, 64, 64), Term(Partition(10), 40 * 64, 16, 16, slot=cut)
    tables = (TableSpec("a", 1000, 64),)
    group = Reader(AddressMap(tables, ((wide, over),), regions).in_format(FORMATS[storage]))
    ids = some_ids(130, [1000])
    (vectors, gradient), (fast_vectors, fast_gradient) = both(group, ids)
    assert torch.equal(fast_vectors, vectors)
    torch.testing.assert_close(fast_gradient, gradient, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        frozen = [array.format.encode(own) for array, own in zip(group.address_map.arrays, group.arrays, strict=True)]
        assert torch.equal(group.gather(frozen, None, ids), vectors)
