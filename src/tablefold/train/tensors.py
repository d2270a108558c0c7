"""Named tensors on disk, by safetensors, with errors as everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tablefold.quoting import one_line, quoted

LARGEST_HEADER = 16 << 20
"""Bytes that the names and shapes of a file's tensors, and its note, may take."""

_EXTRA_STATE = "_extra_state"  # torch's name for it


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


def read_tensors(path: Path, content: int) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Args:
        path: the file.
        content: the most bytes that its tensors may take.

    Raises:
        ValueError: when it is missing, damaged or too large.
    """
    check_file(path, content)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({one_line(str(error), 200)})") from error


def check_file(path: Path, content: int) -> None:
    """Refuse what is no file, or larger than tensors of `content` bytes can be.

    Raises:
        ValueError: names the file.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing or damaged (it is no file)")
    if path.stat().st_size > content + LARGEST_HEADER:
        raise ValueError(f"{path} is damaged: it has more than the {content:,} bytes of its tensors")


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not those expected, by name, type and shape.

    What a module keeps beside its tensors (torch's "extra state") it checks itself when it loads them.

    Raises:
        ValueError: names the first that differs.
    """
    for name, like in expected.items():
        if name not in found:
            raise ValueError(f"the tensor {name} is missing")
        if name.rpartition(".")[2] != _EXTRA_STATE and _describe(found[name]) != _describe(like):
            raise ValueError(f"the tensor {name} is {_describe(found[name])}; it must be {_describe(like)}")
    for name in found:
        if name not in expected:
            raise ValueError(f"there is no tensor {quoted(name)} in this model")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
