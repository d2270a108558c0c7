"""Run in a process of its own, with TRITON_INTERPRET=1: Triton's kernels on CPU tensors against the reference."""

import sys

import pytest
import torch

from methods.cases import TABLES
from tablefold import backend, parse
from tablefold.ops import WildIdError, gpu

rows = [table.rows for table in TABLES]
generator = torch.Generator().manual_seed(0)
ids = torch.stack([torch.randint(0, count, (70,), generator=generator) for count in rows], dim=1)
for spec in sys.argv[1:]:
    group = parse(spec).build(TABLES, seed=3)
    program = group.program
    with backend("reference"):
        vectors = group.gather(group.memory, group.lookup, ids)
    above = torch.randn(vectors.shape, generator=generator)
    (gradient,) = torch.autograd.grad((vectors * above).sum(), group.memory)
    memory = group.memory.detach()
    found = gpu.gather(memory, group.lookup, ids, program)
    torch.testing.assert_close(found, vectors.detach(), rtol=1e-6, atol=0)
    work = (above, memory, group.lookup, ids, program)
    torch.testing.assert_close(gpu.scatter(*work), gradient, rtol=1e-5, atol=1e-5)
    (rows,), values = gpu.scatter_rows(*work)
    assert bool((rows[1:] > rows[:-1]).all())
    torch.testing.assert_close(torch.zeros_like(memory).index_copy(0, rows, values), gradient, rtol=1e-5, atol=1e-5)
    torch.use_deterministic_algorithms(True)
    torch.testing.assert_close(gpu.scatter(*work), gradient, rtol=1e-5, atol=1e-5)
    torch.use_deterministic_algorithms(False)
    print("equal:", spec)
ids[33, 2] = 20
with pytest.raises(WildIdError, match=r"id 20 \(example 33\) is outside table 2"):
    gpu.gather(memory, group.lookup, ids, program)
