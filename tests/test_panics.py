"""What a panic prints is dropped with it; all else that is written to stderr arrives."""

import os

import polars as pl
import pytest

from tablefold.data.records import reading_parquet
from tablefold.panics import without_panic_text


def panic():
    os.write(2, b"thread 'async-executor-0' panicked at bitmap/immutable.rs:329:9\n")
    raise pl.exceptions.PanicException("assertion failed")


def test_the_text_of_a_panic_is_not_printed(capfd):
    with pytest.raises(pl.exceptions.PanicException), without_panic_text():
        panic()
    message = r"log.parquet cannot be read as Parquet: assertion failed"
    with pytest.raises(ValueError, match=message), reading_parquet("log.parquet"):
        panic()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("error", [None, ValueError("another")])
def test_other_text_is(capfd, error):
    try:
        with without_panic_text(), without_panic_text():
            os.write(2, b"a warning\n" * 20_000)
            if error:
                raise error
    except ValueError:
        pass
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "a warning\n" * 20_000 + "later\n"


def test_a_closed_stderr_stays_closed():
    kept = os.dup(2)
    os.close(2)
    try:
        with without_panic_text():
            pass
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(2)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
