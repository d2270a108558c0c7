"""One optimisation, and one translation into machine code, for a kernel and all that it calls.

Numba's own way with a function that others call: it is optimised, made machine code, optimised again within each
caller and again within the callers of these. Parts are types and instructions only; the whole is linked from them, and
what is left of a part that is called once or is small is copied into its caller by LLVM.
"""

# Numba's compiler has no types.
# mypy: ignore-errors
# ruff: noqa: A002, ANN001, ANN201, ANN202, ANN204, D102

from __future__ import annotations

import itertools

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, _LowerResult
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import NativeLowering

_numbers = itertools.count()


class _PartLibrary(JITCodeLibrary):
    """Instructions that are optimised with the whole they become part of."""

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout

    def finalize(self):
        self._finalized = True


class _WholeLibrary(JITCodeLibrary):
    """All parts of a kernel."""

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout

    def finalize(self):
        self._linking_libraries = list(_needed(self, {}))
        super().finalize()

    def _optimize_final_module(self):
        for function in self._final_module.functions:
            if not function.is_declaration and not function.name.startswith("cfunc."):
                function.linkage = "internal"  # nobody else calls it: what is copied into all callers goes
        manager, builder = self._codegen._module_pass_manager()
        manager.run(self._final_module, builder)


def _needed(library, found):
    """All libraries that one needs. Who calls comes first: the linker leaves out what nobody has called so far."""
    for each in library._linking_libraries:
        if each not in found:
            found[each] = None
            _needed(each, found)
    return found


@register_pass(mutates_CFG=False, analysis_only=True)
class _Offer(AnalysisPass):
    """Offers a part to its callers, under a name that is never called: a part has no machine code of its own."""

    _name = "offer"

    def __init__(self):
        AnalysisPass.__init__(self)

    def run_pass(self, state):
        lowered = state["cr"]
        name = [].append  # Numba asks for a builtin function, another one for each part
        state.targetctx.insert_user_function(name, lowered.fndesc, [state.library])
        state["cr"] = _LowerResult(lowered.fndesc, lowered.call_helper, cfunc=name, env=lowered.env)
        return False


class PartCompiler(CompilerBase):
    """Compiles a part."""

    def __init__(self, typing_context, target_context, _library, args, return_type, flags, locals):
        flags.no_compile = True
        library = _PartLibrary(target_context.codegen(), f"part {next(_numbers)}")
        super().__init__(typing_context, target_context, library, args, return_type, flags, locals)

    def define_pipelines(self):
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_Offer, NativeLowering)
        passes.finalize()
        return [passes]


class WholeCompiler(CompilerBase):
    """Compiles a kernel from its parts."""

    def __init__(self, typing_context, target_context, _library, args, return_type, flags, locals):
        library = _WholeLibrary(target_context.codegen(), f"whole {next(_numbers)}")
        library.enable_object_caching()
        super().__init__(typing_context, target_context, library, args, return_type, flags, locals)

    def define_pipelines(self):
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]
