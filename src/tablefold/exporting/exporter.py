"""What an exporter is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

Runner = Callable[[Sequence[Tensor]], list[Tensor]]
"""Computes a file's outputs, given its inputs in their order."""


@dataclass(frozen=True)
class Captured:
    """A model as torch records it: its graph of plain torch operations, its weights, and the names of both ends.

    Args:
        program: on the CPU, with whatever depends on no input computed beforehand.
        inputs: the names.
        outputs: the names.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Exporter(ABC):
    """Writes models in one kind of file.

    Args:
        name: the word for it, on the command line.
        suffix: of its files' names.
        options: the names of what it can be told.
    """

    name: str
    suffix: str
    options: tuple[str, ...]

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse, before any work, what cannot be.

        Raises:
            ValueError: for an option that it does not have or a value that it does not take, or a missing package.
        """
        for option in options:
            if option not in self.options:
                known = f"it has: {', '.join(self.options)}" if self.options else "it has none"
                raise ValueError(f"the {self.name} exporter has no option {option!r}; {known}")

    @abstractmethod
    def write(self, captured: Captured, path: Path, **options: Any) -> None:
        """Write the file, and any that belong to it beside it.

        Raises:
            ValueError: where the model does what such a file cannot say.
        """

    @abstractmethod
    def runner(self, path: Path, **options: Any) -> Runner:
        """Runs a file, by what its users will run it with."""
