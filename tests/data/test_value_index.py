"""From keys to ids: every key that is there is found, none that is not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tablefold.data.dictionary import scramble
from tablefold.data.lines import MISSING
from tablefold.data.value_index import RepeatedKeyError, ValueIndex, index_bytes

WORD = (1 << 64) - 1
MULTIPLIER = 0x9E3779B97F4A7C15
INT64 = st.integers(-(2**63), 2**63 - 1)


def unscramble(word):
    """The key that is scrambled to a word, as int64."""
    word ^= word >> 29 ^ word >> 58
    word = word * pow(MULTIPLIER, -1, 1 << 64) & WORD
    word ^= word >> 32
    word = word * pow(MULTIPLIER, -1, 1 << 64) & WORD
    return word - (1 << 64) if word >> 63 else word


def test_the_inverse_is_one():
    for word in (0, 1, WORD, 0xA129CA6149BE45E5):
        assert int(scramble(unscramble(word))) & WORD == word


@settings(max_examples=60, deadline=None)
@given(st.lists(INT64, unique=True, max_size=300), st.lists(INT64, max_size=50), st.integers(0, 2))
def test_it_answers_as_a_dict_does(keys, others, first):
    keys = [key for key in keys if key != MISSING]
    pieces = [np.array(keys[start : start + 7], dtype=np.int64) for start in range(0, len(keys), 7)]
    index = ValueIndex.build(pieces, len(keys), first)
    asked = [*others, *keys, MISSING]
    known = {key: first + place for place, key in enumerate(keys)}
    expected = [known.get(key, 77) if key != MISSING else 5 for key in asked]
    assert index.look_up(np.array(asked, dtype=np.int64), unseen=77, missing=5).tolist() == expected


def test_a_missing_value_may_be_a_key():
    index = ValueIndex.build([np.array([4, MISSING])], 2, first=0)
    assert index.look_up(np.array([MISSING, 4, 3]), unseen=-1).tolist() == [1, 0, -1]


def test_keys_that_differ_in_few_bits_of_one_bucket_are_told_apart():
    words = [0xAB << 56 | high << 32 | 0x1234 for high in range(200)]  # one bucket, the same last 32 bits
    keys = np.array([unscramble(word) for word in words])
    index = ValueIndex.build([keys[:100]], 100, first=2)
    assert index.look_up(keys, unseen=1).tolist() == [*range(2, 102), *[1] * 100]


def test_a_key_that_comes_twice_is_refused():
    with pytest.raises(RepeatedKeyError) as error:
        ValueIndex.build([np.array([5, 6]), np.array([7, 5])], 4, first=2)
    assert error.value.places == (0, 3)


@pytest.mark.parametrize("size", [0, 1, 5, 4000])
def test_it_is_read_back_from_its_file(tmp_path, size):
    keys = np.random.default_rng(0).permutation(10 * size + 1)[:size]
    index = ValueIndex.build([keys], size, first=2)
    index.save(tmp_path / "index")
    again = ValueIndex.open(tmp_path / "index", size)
    assert (tmp_path / "index").stat().st_size == index.num_bytes == again.num_bytes == index_bytes(size)
    asked = np.arange(10 * size + 1)
    assert np.array_equal(index.look_up(asked, 1), again.look_up(asked, 1))
    for wrong in (size + 1, 10**6):
        with pytest.raises(ValueError, match="index is damaged"):
            ValueIndex.open(tmp_path / "index", wrong)


def test_ids_go_into_a_column_of_a_matrix():
    index = ValueIndex.build([np.arange(10, 110)], 100, first=2)
    ids = np.zeros((200, 3), dtype=np.int32)
    index.look_up_into(ids[:, 1], np.arange(200), 1)
    assert ids[:, 1].tolist() == [key - 8 if 10 <= key < 110 else 1 for key in range(200)]
    assert not ids[:, [0, 2]].any()


@pytest.mark.slow
def test_ten_million_values_take_twelve_bytes_each_and_are_all_found():
    size = 10_131_227
    keys = np.arange(size) * 2654435761 & 0xFFFF_FFFF  # distinct: the factor is odd
    index = ValueIndex.build([keys], size, first=2)
    assert index.num_bytes <= 12 * size
    assert np.array_equal(index.look_up(keys, 1), np.arange(2, size + 2))
    others = (np.arange(size, size + 1_000_000) * 2654435761 & 0xFFFF_FFFF) | 1 << 40
    assert (index.look_up(others, 1) == 1).all()
