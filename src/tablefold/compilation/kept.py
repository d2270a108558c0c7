"""Machine code of one function in files: one for each signature, processor and version of all that it was made of."""

# Numba's results have no types.
# mypy: disable-error-code="no-untyped-call, misc, import-untyped"

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps

from tablefold.compilation.folders import CACHE_VARIABLE, folders, make, temporary_folder

_log = logging.getLogger("tablefold")

_DIGEST_BYTES = 32
_SILENT_SECONDS = 1.0
_IMPORT = re.compile(r"^\s*(?:from|import) (tablefold[\w.]*)(?: import ([\w, ]+))?", re.MULTILINE)


@dataclass(frozen=True)
class Made:
    """A function that was compiled, or read.

    Args:
        name: of the function.
        seconds: that it took.
        compiled: False where it was read.
        file: where its machine code is kept; None where nowhere.
    """

    name: str
    seconds: float
    compiled: bool
    file: Path | None


_observers: list[list[Made]] = []


@contextmanager
def observed() -> Iterator[list[Made]]:
    """What is compiled and read in this context, in a list that grows."""
    made: list[Made] = []
    _observers.append(made)
    try:
        yield made
    finally:
        _observers.remove(made)


class KeptCode(_Cache):
    """Where Numba looks for the machine code of a function, and leaves it.

    Args:
        function: a function of a module of tablefold.
        module: whose sources, with all that they import from tablefold, the code is made of; by default the function's.
    """

    cache_path = None

    def __init__(self, function: Callable[..., object], module: str | None = None) -> None:
        self._name = f"{function.__module__.removeprefix('tablefold.')}.{function.__qualname__}"
        self._module = module or function.__module__
        self._began = 0.0
        self._timer: threading.Timer | None = None

    def enable(self) -> None:
        """Nothing to do: it is."""

    def disable(self) -> None:
        """It cannot be."""

    def flush(self) -> None:
        """Nothing is held back."""

    def load_overload(self, sig: object, target_context: Any) -> Any:
        """The compiled function; None where no folder has it. Numba calls it under its lock."""
        self._began = time.perf_counter()
        target_context.refresh()
        name = self._file_name(sig, target_context.codegen())
        for folder in folders():
            content = _read(folder / name)
            if content is not None:
                result = CompileResult._rebuild(target_context, *pickle.loads(content))
                self._tell_observers(False, folder / name)
                return result
        self._timer = _announce_soon()
        return None

    def save_overload(self, sig: object, data: Any) -> None:
        """Keep a function that was compiled, in the first folder that can be written."""
        payload = dumps(data._reduce())  # which ends the compilation of a kernel
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        kept = None
        if not data.library.has_dynamic_globals:  # addresses within this process
            kept = _write(self._file_name(sig, data.codegen), payload)
        self._tell_observers(True, kept)

    def _tell_observers(self, compiled: bool, file: Path | None) -> None:
        made = Made(self._name, time.perf_counter() - self._began, compiled, file)
        for observer in _observers:
            observer.append(made)

    def _file_name(self, sig: object, codegen: Any) -> str:
        versions = (numba.__version__, llvmlite.__version__, sys.version, sys.abiflags if os.name != "nt" else "")
        made_of = (str(sig), codegen.magic_tuple(), versions, sources_digest(self._module))
        digest = hashlib.sha256(repr(made_of).encode()).hexdigest()[:24]
        return f"{self._name.replace('<', '').replace('>', '')}-{digest}.code"


@cache
def sources_digest(module: str) -> str:
    """A digest of the sources of a module, and of all of tablefold's that it imports, directly or not."""
    found: dict[str, str] = {}
    wanted = [module]
    while wanted:
        name = wanted.pop()
        if name in found or name not in sys.modules:
            continue
        spec = sys.modules[name].__spec__
        source = spec.loader.get_source(name) if spec and hasattr(spec.loader, "get_source") else None  # type: ignore[union-attr]
        found[name] = source or ""
        for imported, names in _IMPORT.findall(found[name]):
            wanted += [imported, *(f"{imported}.{each.strip()}" for each in names.split(",") if each.strip())]
    found.pop("tablefold", None)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def _read(path: Path) -> bytes | None:
    """The content of a file; None where there is none, or not a whole one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return payload if hashlib.sha256(payload).digest() == digest else None


def _write(name: str, payload: bytes) -> Path | None:
    """Write a file to the first folder that takes it, whole or not at all; None, and a line that says why, where none
    does."""
    reasons = []
    content = hashlib.sha256(payload).digest() + payload
    for folder in folders():
        new = folder / f"{name}.{secrets.token_hex(8)}.new"
        try:
            make(folder)
            try:
                new.write_bytes(content)
                new.replace(folder / name)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
            continue
        if folder == temporary_folder():
            _tell(f"compiled kernels are kept in {folder} only ({'; '.join(reasons)}); {CACHE_VARIABLE} names another")
        elif reasons and os.environ.get(CACHE_VARIABLE):
            _tell(f"compiled kernels are kept in {folder} instead ({reasons[0]})")
        return folder / name
    _tell(
        f"compiled kernels cannot be kept ({'; '.join(reasons)}): each process compiles anew; {CACHE_VARIABLE}=FOLDER "
        "names a folder for them"
    )
    return None


def _announce_soon() -> threading.Timer:
    """Say in one line that something is being compiled, should that take more than a second."""
    timer = threading.Timer(_SILENT_SECONDS, _announce)
    timer.daemon = True
    timer.start()
    return timer


def _announce() -> None:
    lock = global_compiler_lock._lock
    if lock.acquire(blocking=False):  # nobody compiles: it ended in an error
        lock.release()
    else:
        _tell("compiling kernels for this machine, once: some seconds (`tablefold warmup` does it ahead)")


@cache
def _tell(line: str) -> None:
    """Log a line, once in a process."""
    _log.warning(line)
