"""What tells the run in a place from another one that takes its place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A folder, wherever links lead, and the numbers, times and sizes of the folder and of what is in it."""

    place: str
    states: tuple[tuple[str, int, int, int, int], ...]


def identify(run: Path) -> Identity | None:
    """The identity of the folder that is in a place now; None where there is none."""
    place = os.path.realpath(run)
    try:
        names = ["", *sorted(os.listdir(place))]
        states = [(name, os.stat(os.path.join(place, name))) for name in names]
    except OSError:
        return None
    return Identity(place, tuple((n, s.st_dev, s.st_ino, s.st_mtime_ns, s.st_size) for n, s in states))
