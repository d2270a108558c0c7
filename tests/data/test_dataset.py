import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tablefold.data import order
from tablefold.data.dataset import Part
from tablefold.data.schema import PartSchema
from tablefold.data.shards import Examples, ShardLayout, shard_name, write_shard


def write_part(folder, shards, dense=2, dtype=np.int32):
    """A part whose ids are (row, -row) and whose labels are row % 2, so that rows can be followed."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, rows in enumerate(shards):
        row = np.arange(first, first + rows)
        columns = np.repeat(row[:, None], dense, 1).astype(np.float32)
        ids = np.stack([row, -row], 1).astype(dtype)
        write_shard(folder / shard_name(number), Examples(columns, ids, (row % 2).astype(np.uint8)))
        first += rows
    layout = ShardLayout(dense, (None, None))
    return Part(folder, PartSchema(sum(shards), 0, tuple(shards)), layout)


def make_blocks_small(patch):
    patch.setattr(order, "BLOCK_ROWS", 8)
    patch.setattr(order, "WINDOW_BLOCKS", 4)
    patch.setattr("tablefold.data.dataset.BLOCK_ROWS", 8)


@pytest.fixture
def small_blocks(monkeypatch):
    make_blocks_small(monkeypatch)


def rows_of(batches):
    return [batch.ids[:, 0].tolist() for batch in batches]


def flat(batches):
    return [row for batch in rows_of(batches) for row in batch]


@settings(max_examples=40, deadline=None)
@given(
    shards=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any),
    batch_size=st.integers(1, 70),
    seed=st.sampled_from([None, 0, 7]),
    epoch=st.integers(0, 2),
    world=st.integers(1, 3),
    start=st.integers(0, 5),
)
def test_epochs(tmp_path_factory, shards, batch_size, seed, epoch, world, start):
    """Every row once; columns stay together; ranks deal the batches; resuming continues the same epoch."""
    part = write_part(tmp_path_factory.mktemp("part"), shards)
    with pytest.MonkeyPatch.context() as patch:
        make_blocks_small(patch)
        batches = list(part.batches(batch_size, seed, epoch))
        whole = rows_of(batches)
        assert [len(batch) for batch in whole[:-1]] == [batch_size] * (len(whole) - 1)
        assert sorted(row for batch in whole for row in batch) == list(range(part.rows))
        if seed is None:
            assert flat(batches) == list(range(part.rows))
        for batch in batches:
            assert batch.dense.dtype == batch.label.dtype == torch.float32
            assert batch.ids.dtype == torch.int64
            assert (batch.ids[:, 0] == -batch.ids[:, 1]).all()
            assert (batch.dense[:, 0] == batch.ids[:, 0]).all()
            assert (batch.label == batch.ids[:, 0] % 2).all()
        steps = part.num_batches(batch_size, world)
        assert rows_of(part.batches(batch_size, seed, epoch, start=start)) == whole[start:]
        for rank in range(world):
            mine = rows_of(part.batches(batch_size, seed, epoch, start=start, rank=rank, world=world))
            assert mine == whole[rank::world][:steps][start:]


def test_shuffling_mixes_and_depends_on_seed_and_epoch(tmp_path, small_blocks):
    part = write_part(tmp_path, [500, 300, 200])
    orders = {
        (seed, epoch): tuple(flat(part.batches(64, seed=seed, epoch=epoch))) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert orders[0, 0] == tuple(flat(part.batches(7, seed=0)))
    for rows in orders.values():
        assert abs(np.corrcoef(rows, range(1000))[0, 1]) < 0.3
        assert np.mean(np.diff(rows) == 1) < 0.1


def test_a_small_part_is_shuffled_row_by_row(tmp_path):
    rows = flat(write_part(tmp_path, [2000]).batches(100, seed=0))
    assert abs(np.corrcoef(rows, range(2000))[0, 1]) < 0.1
    assert np.mean(np.abs(np.diff(rows)) < 10) < 0.05


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_iterable_dataset(tmp_path, workers):
    part = write_part(tmp_path, [100, 57])
    dataset = part.iterable(10, seed=3)
    dataset.epoch = 2
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    assert rows_of(loader) == rows_of(part.batches(10, seed=3, epoch=2))
    assert len(dataset) == 16


def test_batches_are_writable_copies(tmp_path):
    part = write_part(tmp_path, [10])
    for batch in part.batches(10):
        batch.ids.zero_()
        batch.dense.zero_()
        batch.label.zero_()
    assert flat(part.batches(10)) == list(range(10))


def test_large_ids_and_no_dense_columns(tmp_path):
    part = write_part(tmp_path, [5], dense=0, dtype=np.int64)
    (batch,) = part.batches(10, seed=0)
    assert batch.dense.shape == (5, 0)
    assert sorted(batch.ids[:, 0].tolist()) == list(range(5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 and world=1 must be at least 1"),
        ({"batch_size": 1, "rank": 2, "world": 2}, "rank=2 must lie in 0 .. 1"),
        ({"batch_size": 1, "start": -1}, "start=-1"),
        ({"batch_size": 1, "seed": -1}, "must not be negative"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        next(write_part(tmp_path, [10]).batches(**arguments))
