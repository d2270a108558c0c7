"""Metadata as partitions: read from files, told apart by rank, refused where they do not fit."""

import numpy as np
import polars as pl
import pytest
import torch

from tablefold import Custom, TableSpec
from tablefold.partitions import are_complementary

USER = TableSpec("user", 600, 12)


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    columns = {"gender": generator.integers(0, 2, 600), "age": generator.integers(0, 7, 600)}
    pl.DataFrame(columns).write_parquet(tmp_path / "user.parquet")
    return tmp_path


def test_ids_that_share_all_metadata_are_told_apart_by_rank(folder):
    parts = Custom(lookup=str(folder)).partitions(USER, 0, 0)
    assert [part.num_buckets for part in parts[:2]] == [2, 7]
    assert not are_complementary(parts[:2], 600)
    assert are_complementary(parts, 600)


def test_ids_that_share_all_metadata_are_refused_on_request(folder):
    frame = pl.read_parquet(folder / "user.parquet")
    with pytest.raises(
        ValueError, match=r"ids (\d+) and (\d+) share all their metadata; take ties=remainder"
    ) as caught:
        Custom(lookup=str(folder), ties="refuse").build([USER])
    one, other = (int(word) for word in str(caught.value).split() if word.isdigit())
    assert frame.row(one) == frame.row(other)
    frame.with_columns(number=pl.int_range(600)).write_parquet(folder / "user.parquet")
    assert len(Custom(lookup=str(folder), ties="refuse").partitions(USER, 0, 0)) == 3


def test_ids_of_equal_metadata_share_its_rows(folder):
    group = Custom(lookup=str(folder), combine="concat").build([USER])
    frame = pl.read_parquet(folder / "user.parquet")
    vectors = group(torch.arange(600)[:, None])[:, 0]
    width = vectors.shape[1] // len(group.address_map.terms[0])
    women = torch.tensor((frame["gender"] == 0).to_numpy())
    assert (vectors[women, :width] == vectors[women][0, :width]).all()
    assert (vectors[~women, :width] != vectors[women][0, :width]).all()
    assert group.num_bytes == 4 * group.num_parameters + group.lookup.nbytes


def test_saved_groups_carry_their_metadata(folder):
    group = Custom(lookup=str(folder)).build([USER])
    state = group.state_dict()
    frame = pl.read_parquet(folder / "user.parquet")
    frame.with_columns(gender=1 - pl.col("gender")).write_parquet(folder / "user.parquet")
    with pytest.raises(ValueError, match="other addresses"):
        Custom(lookup=str(folder)).build([USER]).load_state_dict(state)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"age": [0] * 599}, "has 599 rows; table 'user' needs one for each of its 600 ids"),
        ({"age": [0] * 599 + [-1]}, "metadata 'age' of table 'user': id 599 has bucket -1; buckets must be 0 or more"),
        ({"age": [0.5] * 600}, "metadata 'age' of table 'user': a lookup partition needs a 1-D int array"),
    ],
)
def test_files_that_hold_no_partition_are_refused(tmp_path, columns, message):
    pl.DataFrame(columns).write_parquet(tmp_path / "user.parquet")
    with pytest.raises(ValueError, match=message):
        Custom(lookup=str(tmp_path)).build([USER])


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        Custom(lookup=str(tmp_path / "nowhere")).build([USER])
