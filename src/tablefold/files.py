"""Files and folders that appear whole or not at all.

Everything is written under a temporary name beside its final place, on the same file system, and renamed at
the end: a reader never meets half a result, and a failed job leaves nothing behind.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def check_free(path: str | Path) -> Path:
    """`path`, if a new folder can take that name: nothing is there, or an empty folder.

    Raises:
        ValueError: if `path` is a file, a link or a folder that holds something, or its parent is not a folder.
    """
    path = Path(path)
    parent = path.absolute().parent
    if parent.exists() and not parent.is_dir():
        raise ValueError(f"{path}: {parent} is a file, not a folder")
    if path.is_symlink():  # a folder cannot be renamed to it
        raise ValueError(f"{path} is a link to {os.readlink(path)}; name the folder itself")
    if path.is_dir():
        if any(path.iterdir()):
            raise ValueError(f"{path} already holds something; name a new folder or remove it first")
    elif path.exists():
        raise ValueError(f"{path} is a file; name a new folder")
    return path


def check_unused(path: str | Path) -> Path:
    """`path`, if nothing has that name, for what must not replace a file.

    Raises:
        ValueError: if a file, a folder or a link is there.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} is there already; name a new file or remove it first")
    return path


@contextmanager
def parents_of(path: Path) -> Iterator[Path]:
    """The folder that `path` is in; where it is missing it is made, and removed again if the block raises."""
    parent = path.absolute().parent
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    try:
        yield parent
    except BaseException:
        with suppress(OSError):  # somebody else has put something there in the meantime
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder to fill; it is named `path` when the block ends, and vanishes if the block raises.

    Raises:
        ValueError: before the block runs, if `path` is taken (see `check_free`).

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "run"
    >>> with new_folder(out) as folder:
    ...     _ = (folder / "result.json").write_text("{}")
    >>> [file.name for file in out.iterdir()]
    ['result.json']
    """
    path = check_free(path)
    with parents_of(path) as parent:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            publish(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, path: Path) -> None:
    """Give the finished folder `temporary` its final name; `path` may be an empty folder, not a full one."""
    check_free(path)
    # rename(2) replaces an empty folder atomically and refuses one that somebody filled in the meantime.
    temporary.rename(path)


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A temporary file to write; it replaces `path` when the block ends, and vanishes if the block raises.

    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "report.html"
    >>> with new_file(out) as file:
    ...     _ = file.write_text("<p>")
    >>> out.read_text()
    '<p>'
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is no file, but a pipe or a device; name a file")
    path = Path(os.path.realpath(path))  # of a link, what it leads to is replaced
    with parents_of(path) as parent:
        temporary = parent / f".{path.name}.{os.getpid()}"
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def clear_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what `new_file` and `new_folder` of processes that were killed have left in a folder.

    Args:
        folder: in which nobody else is writing folders; it need not exist.
        name: of the files and folders that were to be written.
    """
    for path in folder.glob(f".{name}.*"):
        ending = path.name.rpartition(".")[2]
        if path.is_dir() and not path.is_symlink():
            if re.fullmatch("[a-z0-9_]{8}", ending):  # as `mkdtemp` ends them
                shutil.rmtree(path, ignore_errors=True)
        elif re.fullmatch("[1-9][0-9]{0,9}", ending) and not _is_another(int(ending)):
            path.unlink(missing_ok=True)


def _is_another(process: int) -> bool:
    """Whether a process runs that is not this one: this one has not begun to write."""
    try:
        os.kill(process, 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return process != os.getpid()


def _umask() -> int:
    """The process's umask: `mkdtemp` makes private folders; a published one should be as `mkdir` makes it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
