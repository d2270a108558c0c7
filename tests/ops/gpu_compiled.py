"""Run in a process of its own: compile Triton's kernels for a device that need not be there."""

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tablefold.ops.kernels import cuda

POINTERS = {
    "gather_kernel": {"memory": "*fp32", "lookup": "*i64", "vectors": "*fp32", "wild": "*i64"},
    "scatter_kernel": {"vectors": "*fp32", "memory": "*fp32", "lookup": "*i64", "gradient": "*fp32", "rows": "*i64"},
}
CASES = [("gather_kernel", {}), ("scatter_kernel", {"BY_ROW": False}), ("scatter_kernel", {"BY_ROW": True})]
for name, options in CASES:
    kernel, pointers = getattr(cuda, name), POINTERS[name]
    types = {"ids": "*i64", "program": "*i64", **pointers}
    signature = {each: types.get(each, "i32") for each in kernel.arg_names}
    constants = {"BLOCK": 128, "LANES": 16, "LAYOUT": 0, **options}
    source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constants)
    machine = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32))
    assert len(machine.asm["cubin"]) > 1000
    print("cubin:", name, options, len(machine.asm["cubin"]), "bytes")
