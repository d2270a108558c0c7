"""Named tensors on disk, by safetensors, with errors as everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], note: dict[str, str]) -> None:
    """Write tensors and one entry of text.

    Args:
        path: the file; it gets the permissions that the user's umask gives (safetensors would keep others out).
        tensors: by name; on any device.
        note: one entry: of several, safetensors writes the order at random, and equal runs would give unequal files.

    Raises:
        OSError: when it cannot be written, the disk being full for instance.
    """
    assert len(note) <= 1, "see above"
    path.touch()
    mode = path.stat().st_mode
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(held, path, metadata=note)
    except SafetensorError as error:
        raise OSError(None, str(error).removeprefix("Error while serializing: "), str(path)) from error
    path.chmod(mode)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Raises:
        ValueError: when it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({error})") from error
