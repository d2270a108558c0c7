"""Triton's kernels: in Triton's interpreter, as machine code for two devices, and on a device where there is one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from methods.cases import CASES, TABLES
from ops.gpu_interpreted import RANGES, built, some_ids
from tablefold import backend, parse
from tablefold.formats import FORMATS

needs_triton = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
SPECS = [*sorted({case.spec for case in CASES}), RANGES]
FEW = [
    *("full", "qr:collisions=4,combine=mul", "qr:collisions=4,combine=concat", "hash_embeddings:k=2,floats=1001"),
    *("robe:block=32,wrap=true,floats=1001", "robe:block=3,sign=true,floats=1000"),
]
"""Rows of one width and of two, whole blocks and parts of them, wrapped, signed and with learned weights."""
CODED = [f"{spec}@{storage}" for spec in FEW for storage in FORMATS if storage != "fp32"]
CODED += [f"{RANGES}@int4", "low_rank:rank=2@int2"]
BACKENDS = ("reference", "triton")


def run_script(name, *arguments, **variables):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(here / name), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )


@needs_triton
@pytest.mark.parametrize("names", [SPECS, CODED], ids=["every method", "every format"])
def test_the_kernels_equal_the_reference_in_tritons_interpreter(names):
    result = run_script("gpu_interpreted.py", *names, TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("equal") == len(names)


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_to_machine_code(capability):
    result = run_script("gpu_compiled.py", str(capability))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("cubin") == 8


def computed(group, ids, name):
    """(vectors, dense gradients of the arrays) by a backend, for the same gradient of the vectors."""
    with backend(name):
        vectors = group.gather(group.arrays, group.lookup, ids, group.edges)
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)).cuda()
    gradients = torch.autograd.grad((vectors * weights).sum(), group.arrays)
    return vectors, [gradient.to_dense() for gradient in gradients]


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*SPECS, *CODED])
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_a_device_gives_the_same_vectors_and_gradients(name, form):
    group, ids = built(name).cuda(), some_ids(300).cuda()
    group.sparse = form == "rows"
    (vectors, gradients), (fast_vectors, fast_gradients) = (computed(group, ids, each) for each in BACKENDS)
    assert torch.equal(fast_vectors, vectors)
    torch.testing.assert_close(fast_gradients, gradients, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        frozen = group.freeze()
        assert torch.equal(frozen.gather(frozen.arrays, frozen.lookup, ids, frozen.edges), vectors)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_a_devices_gradients_are_the_same_bits_where_that_is_asked_for(form):
    group, ids = parse("robe:block=4,floats=1000").build(TABLES).cuda(), some_ids(4000).cuda()
    group.sparse = form == "rows"
    torch.use_deterministic_algorithms(True)
    try:
        (_, gradients), (_, again) = (computed(group, ids, "triton") for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*both) for both in zip(gradients, again, strict=True))


@pytest.mark.gpu
def test_a_device_refuses_wild_ids():
    group, ids = parse("full").build(TABLES).cuda(), some_ids(300).cuda()
    ids[200, 1] = 317
    with pytest.raises(ValueError, match=r"table 'item': id 317 \(example 200 of the batch\)"):
        group(ids)
