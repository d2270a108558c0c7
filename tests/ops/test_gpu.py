"""Triton's kernels: in Triton's interpreter, as machine code for two devices, and on a device where there is one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from methods.cases import CASES, TABLES
from ops.test_gather import both, some_ids
from tablefold import parse

needs_triton = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
ROWS = [table.rows for table in TABLES]
SPECS = sorted({case.spec for case in CASES})


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
def test_the_kernels_equal_the_reference_in_tritons_interpreter():
    result = run_script("gpu_interpreted.py", *SPECS, TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("equal") == len(SPECS)


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_to_machine_code(capability):
    result = run_script("gpu_compiled.py", str(capability))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("cubin") == 3


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.spec)
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_a_device_gives_the_same_vectors_and_gradients(case, form):
    group, ids = case.method.build(TABLES, seed=3).cuda(), some_ids(300, ROWS).cuda()
    group.sparse = form == "rows"
    (vectors, gradient), (fast_vectors, fast_gradient) = both(group, ids, "triton")
    torch.testing.assert_close(fast_vectors, vectors, rtol=1e-6, atol=0)
    torch.testing.assert_close(fast_gradient, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["dense", "rows"])
def test_a_devices_gradients_are_the_same_bits_where_that_is_asked_for(form):
    group, ids = parse("robe:block=4,floats=1000").build(TABLES).cuda(), some_ids(4000, ROWS).cuda()
    group.sparse = form == "rows"
    torch.use_deterministic_algorithms(True)
    try:
        (_, gradient), (_, again) = both(group, ids, "triton")[1], both(group, ids, "triton")[1]
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(gradient, again)


@pytest.mark.gpu
def test_a_device_refuses_wild_ids():
    group, ids = parse("full").build(TABLES).cuda(), some_ids(300, ROWS).cuda()
    ids[200, 1] = 317
    with pytest.raises(ValueError, match=r"table 'item': id 317 \(example 200 of the batch\)"):
        group(ids)
