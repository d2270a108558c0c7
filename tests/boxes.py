"""Processes of their own, in which folders can be read-only and the user has no home."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tablefold

SOURCES = Path(tablefold.__file__).parents[1]

HOMELESS = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "TABLEFOLD_CACHE": "", "NUMBA_CACHE_DIR": ""}
"""The environment of a user without a home, who has named no folder."""


def run(
    *arguments: str, sources: Path = SOURCES, within: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess:
    """Run Python with `arguments`, with tablefold from `sources`, in the box that the command `within` makes."""
    variables = {**os.environ, "PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1", **environment}
    command = [*within, sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=900)


def copy_sources(folder: Path) -> Path:
    """A copy of the package, without machine code."""
    shutil.copytree(SOURCES / "tablefold", folder / "tablefold", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def read_only(*folders: Path) -> tuple[str, ...]:
    """The command before a command that runs it where these folders are read-only."""
    mounts = " && ".join(f"mount --bind {each} {each} && mount -o remount,ro,bind {each}" for each in folders)
    return ("unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh")


def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*read_only(Path("/usr")), "true"], capture_output=True, check=False).returncode == 0


sealed_box = pytest.mark.skipif(not _can_mount(), reason="this user may not mount folders read-only (unshare -m)")
