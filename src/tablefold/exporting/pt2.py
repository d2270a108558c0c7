"""pt2: what `torch.export.load` reads, or compiled by AOTInductor for machines like this one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tablefold.exporting.exporter import Captured, Exporter, Runner
from tablefold.quoting import one_line


@dataclass(frozen=True)
class Pt2(Exporter):
    """torch's own file. Option `compile`: machine code for this processor, which takes a C++ compiler and some time."""

    def write(self, captured: Captured, path: Path, **options: Any) -> None:
        """By `torch.export.save`, or AOTInductor."""
        if not options.get("compile"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of torch
                torch.export.save(captured.program, path)
            return
        from torch._inductor import aoti_compile_and_package

        try:
            aoti_compile_and_package(captured.program, package_path=str(path))
        except Exception as error:  # a compiler's, Inductor's or torch's own
            reason = one_line(" ".join(str(error).split()), 300)
            raise ValueError(f"AOTInductor cannot compile the model: {reason}") from error

    def runner(self, path: Path, **options: Any) -> Runner:
        """By torch."""
        if options.get("compile"):
            from torch._inductor import aoti_load_package

            run: Any = aoti_load_package(str(path))
        else:
            run = torch.export.load(path).module()

        def outputs(inputs: Sequence[Tensor]) -> list[Tensor]:
            with torch.inference_mode():
                found = run(*inputs)
            return [found] if isinstance(found, Tensor) else list(found)

        return outputs


PT2 = Pt2("pt2", ".pt2", ("compile",))
