"""Where a dataset is made: a work folder beside the output that outlives a killed job, and nothing else.

`.OUT.partial` holds `job.json` (what is made from what), `work/` (the results of finished steps) and `out/` (the
dataset so far). The same job finds it and goes on; another job starts anew; at the end `out/` is renamed to OUT.
"""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tablefold.data.schema import SCHEMA_FILE, Schema
from tablefold.files import check_free, new_file, parents_of, publish

_RECORD = "job.json"
_WRONG_INPUT = (ValueError, PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors that the same job would meet again, so that there is nothing to go on with."""


def is_finished(out: Path, description: dict[str, Any]) -> bool:
    """Whether `out` is what this job makes, so that nothing is left to do but to clear up after a killed one."""
    if not (_partial(out) / _RECORD).exists() or not (out / SCHEMA_FILE).exists():
        return False
    if Schema.load(out).source != json.loads(json.dumps(description)):
        return False
    shutil.rmtree(_partial(out))
    return True


@contextmanager
def open_workplace(out: Path, job: dict[str, Any]) -> Iterator[tuple[Path, Path]]:
    """The folders `out/` and `work/` of the job that makes `out`; when the block ends, `out` appears.

    An error in the input removes them; an interruption or a full disk leaves them for the next try.

    Args:
        out: the folder to make.
        job: everything that its content depends on; the same job goes on with what it has left there before.

    Raises:
        ValueError: if `out` is taken, if another process makes it just now, or if the disk is full.
    """
    check_free(out)
    partial = _partial(out)
    with parents_of(partial):
        partial.mkdir(exist_ok=True)
        with _locked(partial, out):
            try:
                _adopt(partial, job)
                yield partial / "out", partial / "work"
                _clear_unfinished(partial / "out")
                publish(partial / "out", out)
            except _WRONG_INPUT:
                shutil.rmtree(partial)
                raise
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise ValueError(
                    f"the disk is full; free some space where {out} is to be, and run the same again: it goes on "
                    f"from what is done (in {partial})"
                ) from error
            shutil.rmtree(partial)


@contextmanager
def _locked(partial: Path, out: Path) -> Iterator[None]:
    """While the block runs, no other process works in `partial`."""
    with (partial / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{out} is being prepared by another process just now") from error
        yield


def _clear_unfinished(folder: Path) -> None:
    """Remove what killed processes were writing: files that were never renamed (see `new_file`)."""
    for file in folder.rglob(".*"):
        file.unlink(missing_ok=True)


def _partial(out: Path) -> Path:
    return out.absolute().parent / f".{out.name}.partial"


def _adopt(partial: Path, job: dict[str, Any]) -> None:
    """Keep what the same job has finished; clear what another one left."""
    record = partial / _RECORD
    text = json.dumps(job, indent=1)
    if not record.exists() or record.read_bytes() != text.encode():
        for name in ("out", "work"):
            shutil.rmtree(partial / name, ignore_errors=True)
        with new_file(record) as file:
            file.write_text(text, encoding="utf-8")
    for name in ("out", "work"):
        (partial / name).mkdir(exist_ok=True)
