"""Running a compiled kernel on torch's own threads.

Torch keeps a pool of OpenMP threads. A second pool beside it (Numba's) would fight over the cores, and each of Numba's
has a trap of its own: `omp` aborts in forked children, `workqueue` aborts when two threads call at once. So a kernel
here is plain machine code with one argument, the address of its arguments, and every thread of torch's pool runs it;
the kernel takes tasks from a counter in the arguments until none is left. One thread alone does all of them: that is
the serial variant, used for tiny batches, in forked children (as in the workers of a data loader), wherever
`torch.get_num_threads()` is 1, and where torch was built without GNU's OpenMP entry point.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

Entry = Callable[[ctypes.Array[ctypes.c_int64]], None]
"""A kernel that is called with its arguments. The GIL is released while it runs."""

_PROCESS = os.getpid()


class Kernel:
    """Machine code at `address`: `void kernel(int64_t *arguments)`."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._serial: Entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)

    def __call__(self, arguments: ctypes.Array[ctypes.c_int64], tasks: int) -> None:
        """Run with `arguments`, on as many threads as there are tasks for."""
        threads = min(tasks, torch.get_num_threads())
        parallel = _parallel_entry() if threads > 1 and os.getpid() == _PROCESS else None
        if parallel is None:
            self._serial(arguments)
        else:
            parallel(self._address, arguments, threads, 0)


@cache
def _parallel_entry() -> Callable[..., None] | None:
    """`GOMP_parallel` of the OpenMP library that torch has loaded; None where there is none."""
    for path in sorted(Path(torch.__file__).parent.glob("lib/lib*omp*")):
        try:
            entry = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        entry.restype = None
        return entry
    return None
