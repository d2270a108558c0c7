"""`tablefold warmup`: afterwards nothing is compiled, wherever the package then runs."""

import os

import pytest

from boxes import HOMELESS, copy_sources, read_only, run, sealed_box

SHORT = """
import sys
from tablefold import ahead, cli
ahead.KERNELS = (("gradients", "sort"),)
ahead._prepare = lambda folder: iter(())
sys.exit(cli.main(["warmup", "--dtype", "float32", "--dtype", "float64"]))
"""


def test_each_kernel_is_told_with_its_seconds_and_its_file(tmp_path):
    package, cache = copy_sources(tmp_path / "package"), tmp_path / "cache"  # whose own cache is empty
    first, second = (run("-c", SHORT, sources=package, TABLEFOLD_CACHE=str(cache)) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    (file,) = cache.iterdir()
    assert first.stdout.split()[:2] == ["ops.kernels.gradients.sort_reads_int64", "compiled"]
    assert second.stdout.split()[:2] == ["ops.kernels.gradients.sort_reads_int64", "read"]
    assert first.stdout.split()[3:] == ["s", str(file)]


def test_a_type_that_no_kernel_computes_is_refused():
    done = run("-m", "tablefold", "warmup", "--dtype", "float16")
    assert done.returncode == 2
    assert "float16" in done.stderr


@pytest.mark.slow
@sealed_box
@pytest.mark.parametrize("ahead", [False, True], ids=["cold", "after warmup"])
def test_the_demo_runs_with_a_read_only_package_and_no_home(tmp_path, ahead):
    package, out, temporary = copy_sources(tmp_path / "package"), tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    box = {"sources": package, **HOMELESS, "TMPDIR": str(temporary), "OMP_WAIT_POLICY": "PASSIVE"}
    if ahead:
        warm = run("-m", "tablefold", "warmup", **box)
        assert warm.returncode == 0, warm.stderr
        assert len(warm.stdout.splitlines()) > 20
        assert all(line.split()[1] == "compiled" for line in warm.stdout.splitlines())
    kept = sorted(package.rglob("*.code"))
    assert bool(kept) == ahead
    demo = ("-m", "tablefold", "demo", "--rows", "3000", "--workers", "2", "--out", str(out))
    done = run(*demo, within=read_only(package), **box)
    assert done.returncode == 0, done.stderr
    assert (out / "report.html").exists()
    assert sorted(package.rglob("*.code")) == kept
    made = [name for _, _, names in os.walk(temporary) for name in names if name.endswith(".code")]
    assert bool(made) != ahead, made
    assert ("compiling kernels" in done.stderr) != ahead
