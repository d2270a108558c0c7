"""Run in a process of its own: compile Triton's kernels for a device that need not be there."""

import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tablefold.ops import gpu
from tablefold.ops.kernels import cuda

ROUNDED_ONCE = re.compile(r"fma\.\w+\.f32|div\.(?:full|approx)\S*\.f32|rcp\.|(?<!cvt\.rmi)\.ftz\b")
"""What must not be in machine code: operations whose results differ from IEEE 754's. Of `floor` it makes no difference
to a code whether a number smaller than 2^-126 is taken for zero."""

POINTERS = {
    "gather_kernel": {"vectors": "*fp32", "wild": "*i64"},
    "scatter_kernel": {"vectors": "*fp32", "rows": "*i64"},
}
for name, own in POINTERS.items():
    kinds = [(each, False) for each in (gpu.AS_THEY_ARE, gpu.DECODED, gpu.ENCODED)]
    for reads, projects in [*kinds, (gpu.ENCODED, True)]:
        kernel = getattr(cuda, name)
        types = dict.fromkeys(("ids", "program", "sources", "lookup", "edges"), "*i64") | own
        signature = {each: types.get(each, "i32") for each in kernel.arg_names}
        constants = {"BLOCK": 64 if reads == gpu.ENCODED else 128, "LANES": 16, "LAYOUT": 0, "READS": reads}
        constants["PROJECTS"] = projects
        source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constants)
        target = GPUTarget("cuda", int(sys.argv[1]), 32)
        machine = triton.compile(source, target=target, options=gpu.EXACT)
        assert len(machine.asm["cubin"]) > 1000
        found = ROUNDED_ONCE.findall(machine.asm["ptx"])
        assert not found, sorted(set(found))
        assert ("div.rn.f32" in machine.asm["ptx"]) == (reads == gpu.ENCODED)
        print("cubin:", name, constants, len(machine.asm["cubin"]), "bytes")
