"""Metadata as partitions: read from files, told apart by rank, refused where they do not fit."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from hostile_names import NAMES
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


def test_a_list_names_the_file_of_each_table(folder):
    expected = Custom(lookup=str(folder)).partitions(USER, 0, 0)
    (folder / "user.parquet").rename(folder / "000007.parquet")
    (folder / "tables.json").write_text('{"user": "000007.parquet"}', encoding="utf-8")
    assert Custom(lookup=str(folder)).partitions(USER, 0, 0) == expected
    assert len(Custom(lookup=str(folder)).partitions(TableSpec("item", 600, 12), 0, 0)) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_table_is_no_path(folder, name):
    pl.read_parquet(folder / "user.parquet").write_parquet(folder.parent / "outside.parquet")
    for table in (name, "../outside", str(folder.parent / "outside")):
        assert len(Custom(lookup=str(folder)).partitions(TableSpec(table, 600, 12), 0, 0)) == 2  # as without metadata
    for file in ("../outside.parquet", str(folder.parent / "outside.parquet"), "..", "a\0b", ""):
        (folder / "tables.json").write_text(json.dumps({name: file}), encoding="utf-8")
        with pytest.raises(ValueError, match="it must be the name of a file in this folder"):
            Custom(lookup=str(folder)).partitions(TableSpec(name, 600, 12), 0, 0)


@pytest.mark.parametrize("damage", [lambda content: content[:200], lambda content: b"PAR1" + content[4:900] + b"x"])
def test_a_damaged_file_is_refused_in_one_line(folder, damage):
    path = folder / "user.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"user.parquet is missing or damaged \(") as caught:
        Custom(lookup=str(folder)).build([USER])
    assert "\n" not in str(caught.value)
