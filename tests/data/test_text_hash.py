"""Texts hashed side by side get the keys that `hashlib` gives one by one."""

import hashlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tablefold.data.lines import MISSING
from tablefold.data.text_hash import hash_texts


def reference(text):
    if not text:
        return MISSING
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
    return 0 if key == MISSING else key


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=200), max_size=150))
def test_keys_are_those_of_hashlib(texts):
    expected = [reference(text) for text in texts]
    assert hash_texts(texts).tolist() == expected
    assert hash_texts(pl.Series(texts, dtype=pl.String)).tolist() == expected
    assert hash_texts(pl.Series(texts, dtype=pl.String)[1:5]).tolist() == expected[1:5]


def test_every_length_around_a_block():
    texts = ["é" * count for count in range(70)] + ["x" * count for count in range(300)]
    assert hash_texts(texts).tolist() == [reference(text) for text in texts]


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ValueError, match="surrogates"):
        hash_texts(["\ud800"])
