"""The folders in which machine code is kept, the first one first.

`TABLEFOLD_CACHE`, `NUMBA_CACHE_DIR`, beside the sources, the user's cache folder, a folder of the user's own under the
temporary one. Code is read from the first that has it, whether or not anybody may write there: what was compiled ahead
for an image is found in a container that writes nowhere. It is written to the first that can be written.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
from numba.misc.appdirs import user_cache_dir

CACHE_VARIABLE = "TABLEFOLD_CACHE"
"""The environment variable that names the folder for machine code."""


def folders() -> Iterator[Path]:
    """All of them, whether or not they exist or can be written; but none of which code of somebody else may be run."""
    config: object = numba.config
    cache_of: Any = user_cache_dir
    named = (os.environ.get(CACHE_VARIABLE), getattr(config, "CACHE_DIR", None))
    yield from (Path(folder) for folder in named if folder)
    yield Path(__file__).parents[1] / "__pycache__"
    yield Path(cache_of("tablefold", appauthor=False))
    temporary = temporary_folder()
    if temporary is not None and is_own(temporary):
        yield temporary


def temporary_folder() -> Path | None:
    """The user's own folder under the temporary one; None where there is none that can be written."""
    user = os.getuid() if hasattr(os, "getuid") else "cache"  # elsewhere, each user has a temporary folder
    try:
        return Path(tempfile.gettempdir()) / f"tablefold-{user}"
    except FileNotFoundError:
        return None


def is_own(folder: Path) -> bool:
    """Whether a folder can be made, or is one that nobody else writes: code is run from it."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        return False
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


def make(folder: Path) -> None:
    """Make a folder that nobody else writes.

    Raises:
        OSError: where that cannot be done, or somebody else was faster.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder == temporary_folder() and not is_own(folder):
        raise PermissionError(f"{folder} can be written by others")
