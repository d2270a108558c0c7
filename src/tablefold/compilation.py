"""What Numba compiles, and where its machine code is kept: loops over bytes and keys that numpy cannot express.

Compiled code is cached beside the module (or in the user's cache folder where that is read-only), so only the first
call ever on a machine waits for the compiler. The loops are serial and release the GIL: parallelism is by shard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile `function` for the types it is called with; its signature stays what it says."""
    return cast(Function, numba.njit(nogil=True, cache=True)(function))
