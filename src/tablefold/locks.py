"""One writer at a time for a folder or file that is still to be."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from tablefold.quoting import one_line


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Keep every other process, and every other thread of this one, from writing `path` while the block runs.

    The lock is the system's lock on the file `.NAME.lock` beside `path`. It ends with the process that holds it,
    however that ends; a file that a killed process left is taken over.

    Args:
        path: the folder or file that is to be written; it need not exist, and is not touched.

    Raises:
        ValueError: before the block runs, where another process holds the lock; it names that process.
        OSError: where the lock's file cannot be written.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "run"
    >>> with locked(out):
    ...     [file.name for file in out.parent.iterdir()]
    ['.run.lock']
    >>> list(out.parent.iterdir())
    []
    """
    path = Path(path)
    place = path.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(f".{place.name}.lock")
    file = _take(lock, path)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):  # somebody cleared the folder
            lock.unlink()
        file.close()  # which gives the lock back; the file's name is gone by then, so nobody can have opened it


def _take(lock: Path, path: Path) -> TextIO:
    """The open file that holds the lock, our process's number in it."""
    while True:
        file = lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(lock, file):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            raise ValueError(f"{path} is being written by {holder}: wait until it ends, or name another one") from None
        except BaseException:
            file.close()
            raise
        file.close()  # its holder ended and removed it while we opened it


def _is_still(lock: Path, file: TextIO) -> bool:
    """Whether the open file is the one that has the lock's name."""
    try:
        return os.path.samestat(lock.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _holder(file: TextIO) -> str:
    file.seek(0)
    number = one_line(file.read(40))
    return f"process {number}" if number.isdecimal() else "another process"
