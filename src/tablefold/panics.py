"""Panics of Rust libraries: what they print on stderr, whatever becomes of the exception, is nothing for a user."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_stderr = threading.RLock()


@contextmanager
def without_panic_text() -> Iterator[None]:
    """Keep what a panic prints off stderr if the block ends in one; anything else that was written is let through.

    Polars has no way to set the hook that prints, and no check of a file beforehand finds all that it panics at: the
    file descriptor is turned away for as long as the block runs. Where the system has no such file, nothing is done.
    """
    import polars as pl

    with _stderr:  # another thread would take our place for the real stderr
        try:
            kept, caught = os.dup(2), os.memfd_create("stderr")
        except (AttributeError, OSError):  # not on Linux, or stderr is closed
            yield
            return
        os.dup2(caught, 2)
        panicked = False
        try:
            yield
        except pl.exceptions.PanicException:
            panicked = True
            raise
        finally:
            os.dup2(kept, 2)
            with os.fdopen(kept, "wb") as real, os.fdopen(caught, "rb") as text:
                text.seek(0)
                real.write(b"" if panicked else text.read())
