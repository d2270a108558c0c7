"""Processes that we start end with us, however we end: a process that was killed cannot end its workers itself."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)
_SECONDS_BETWEEN_LOOKS = 0.5


def die_with(parent: int) -> None:
    """Have this process killed when the process `parent` ends; a worker calls it first of all.

    Linux kills it at once, whatever it is doing. Elsewhere a thread looks twice a second whether the parent is there.
    On Linux the parent's thread that started the worker counts as the parent: it must live as long as it needs it.

    Args:
        parent: the id of the process that started this one, which it was told: asked for here, it could be that of
            who adopted this process, its parent having died already.

    Example:
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=die_with, initargs=(os.getpid(),))
    """
    if not _ask_the_kernel():
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="tablefold-parent").start()
    elif os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the block is done, so that none parts what belongs together.

    A process that was started and not yet noted would be missed by whoever ends all noted ones. The started process
    itself gets its signals at once. Only the main thread is ever interrupted by one: elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    held = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in held}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for each in arrived:
            signal.raise_signal(each)


def _ask_the_kernel() -> bool:
    """Whether the kernel was asked to kill this process when its parent ends."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        failed: int = ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    except (OSError, AttributeError):  # a C library without it
        return False
    return failed == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGKILL)
