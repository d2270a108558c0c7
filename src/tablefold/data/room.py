"""What a job would take, against what the machine has: asked before anything is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_CGROUP_LIMIT, _CGROUP_USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_MEMINFO = Path("/proc/meminfo")


def free_disk(path: Path) -> int:
    """Bytes free where `path` is, or is to be."""
    path = path.absolute()
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def free_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, and of its container if it is in one."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    words = _MEMINFO.read_text(encoding="utf-8").split() if _MEMINFO.is_file() else []
    if "MemAvailable:" in words:
        bounds.append(1024 * int(words[words.index("MemAvailable:") + 1]))
    if _CGROUP_LIMIT.is_file() and (limit := _CGROUP_LIMIT.read_text(encoding="utf-8").strip()).isdigit():
        bounds.append(max(0, int(limit) - int(_CGROUP_USED.read_text(encoding="utf-8"))))
    return min(bounds)
