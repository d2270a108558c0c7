"""What Numba compiles, and where its machine code is kept (`tablefold.compilation.folders` says where).

Loops on arrays are `compiled`, each for itself. Kernels are `machine_code` of one function and of the `part`s it calls:
what these come to is optimised once, as a whole. Numba by itself optimises each function and makes machine code of it,
then once more inside each function that calls it, at every level of calls.

Nothing is compiled, and no folder is looked at, before the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar, cast

import numba
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock

from tablefold.compilation.kept import KeptCode, Made, observed
from tablefold.compilation.whole import PartCompiler, WholeCompiler

__all__ = ["Made", "compiled", "machine_code", "observed", "part"]

Function = TypeVar("Function", bound=Callable[..., object])

_OPTIONS = {"error_model": "numpy", "boundscheck": False}
_codes: dict[str, Any] = {}  # machine code is freed with the object that holds it: it stays as long as the process


def compiled(function: Function) -> Function:
    """Compile a loop for the types it is called with; its signature stays what it says.

    Such loops are serial and release the GIL: parallelism is by shard.
    """
    dispatcher: Any = numba.njit(nogil=True)(function)
    dispatcher._cache = KeptCode(function)
    return cast(Function, dispatcher)


def part(function: Function) -> Function:
    """A function that kernels call, and nothing else: no bounds are checked, nothing raises."""
    options: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    dispatcher: Any = numba.njit(pipeline_class=PartCompiler, **options)(function)
    fold, plain = dispatcher._compiler.fold_argument_types, cast(Any, numba.types.unliteral)

    def fold_to_plain(args: Any, keywords: Any) -> Any:  # Numba compiles a function again for each constant it is given
        names, args = fold(args, keywords)
        return names, tuple(plain(each) for each in args)

    dispatcher._compiler.fold_argument_types = fold_to_plain
    return cast(Function, dispatcher)


def machine_code(function: FunctionType, signature: Any, module: str) -> int:
    """The address of the machine code of a function of one signature; compiled, or read from where it is kept.

    Args:
        function: the kernel; its qualified name is its alone.
        signature: of machine types.
        module: that the function's parts are from.
    """
    with global_compiler_lock:
        code: Any = _codes.get(function.__qualname__)
        if code is None:
            types = (signature.args, signature.return_type)
            compiler: Any = WholeCompiler
            code = CFunc(function, types, {}, {**_OPTIONS, "_nrt": False}, pipeline_class=compiler)
            code._cache = KeptCode(function, module)
            code.compile()
            _codes[function.__qualname__] = code
    return int(code.address)
