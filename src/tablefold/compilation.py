"""What Numba compiles, and where its machine code is kept.

Machine code is kept beside the sources, or in the user's cache folder where these are read-only, or in a folder of the
user's own under the temporary folder: only the first call ever on a machine waits for the compiler. The environment
variable `TABLEFOLD_CACHE` names another folder. Where nothing can be written, each process compiles for itself.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numba

CACHE_VARIABLE = "TABLEFOLD_CACHE"
"""The environment variable that names the folder for machine code."""

Function = TypeVar("Function", bound=Callable[..., object])
Kept = TypeVar("Kept")

_log = logging.getLogger("tablefold")
_lock = threading.RLock()  # Numba's configuration is the process's


def compiled(function: Function) -> Function:
    """Compile a loop for the types it is called with; its signature stays what it says.

    Such loops are serial and release the GIL: parallelism is by shard.
    """
    return cast(Function, _kept(lambda keeps: numba.njit(nogil=True, cache=keeps)(function)))


def machine_code(function: FunctionType, signature: Any) -> int:
    """The address of the machine code of a function of one signature; compiled, or read from where it is kept."""
    with _announced():
        code = _kept(lambda keeps: numba.cfunc(signature, cache=keeps)(function))
    _alive(code)
    address = code.address
    assert address is not None  # it is compiled
    return address


@cache
def _alive(code: Any) -> Any:
    """Machine code is freed with the object that holds it: it stays for as long as the process."""
    return code


def _kept(decorate: Callable[[bool], Kept]) -> Kept:
    """What `decorate` gives with Numba told to keep machine code in the first folder that can be written."""
    named = os.environ.get(CACHE_VARIABLE)
    for folder in (named, None, _temporary_folder):
        try:
            with _numba_keeps_in(folder() if callable(folder) else folder):
                return decorate(True)
        except (RuntimeError, OSError):  # Numba's "no locator available"; a folder that is not ours alone
            if folder is named and named:
                _tell(f"{CACHE_VARIABLE}={named} cannot be written: kernels are kept elsewhere, or compiled anew")
    _tell(
        f"no folder can be written to keep compiled kernels in: each process compiles anew; name one: {CACHE_VARIABLE}"
    )
    return decorate(False)


@contextmanager
def _numba_keeps_in(folder: str | Path | None) -> Iterator[None]:
    """Have Numba keep what is decorated in this context in `folder`; None leaves the choice to it."""
    if folder is None:
        yield
        return
    with _lock:
        config: Any = numba.config
        before = config.CACHE_DIR
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
        config.CACHE_DIR = str(folder)
        try:
            yield
        finally:
            config.CACHE_DIR = before


def _temporary_folder() -> Path:
    """The user's own folder under the temporary one. Code is run from it: nobody else may be able to write there."""
    folder = Path(tempfile.gettempdir()) / f"tablefold-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder


@contextmanager
def _announced() -> Iterator[None]:
    """Say in one line that kernels are being compiled, should that take more than a second."""
    line = "compiling kernels for this machine, which takes some seconds at their first use (`tablefold warmup`: ahead)"
    timer = threading.Timer(1.0, _tell, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@cache
def _tell(line: str) -> None:
    """Log a line, once in a process."""
    _log.warning(line)
