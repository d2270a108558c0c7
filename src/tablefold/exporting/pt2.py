"""pt2: what `torch.export.load` reads, or compiled by AOTInductor for machines like this one."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import torch
from torch import Tensor

from tablefold.exporting.exporter import Captured, Exporter, Runner
from tablefold.quoting import one_line

LARGE = 1 << 16
"""Bytes from which on an array stays as it is."""

ALIGNMENT = 64
"""Of the first byte of such an array."""

_HEADER = 30 + 20 + 4  # bytes before it, without names and padding: the entry's, its 64-bit sizes, the padding's own


@dataclass(frozen=True)
class Pt2(Exporter):
    """torch's own file. Option `compile`: machine code for this processor, which takes a C++ compiler and some time."""

    def write(self, captured: Captured, path: Path, **options: Any) -> None:
        """By `torch.export.save`, or AOTInductor."""
        if not options.get("compile"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of torch
                torch.export.save(captured.program, path)
            _deflate(path)
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


def _deflate(path: Path) -> None:
    """Pack what is small in a file of torch's, a zip archive: the JSON of the graph, which can outweigh the memory, and
    constants. What is large stays as it is, its bytes where a processor likes them."""
    packed = path.with_name(f"{path.name}.packed")
    with ZipFile(path) as given, ZipFile(packed, "w") as into:
        for each in given.infolist():
            own = ZipInfo(each.filename)
            is_small = each.file_size < LARGE or each.filename.endswith(".json")
            own.compress_type = ZIP_DEFLATED if is_small else ZIP_STORED
            if not is_small:
                assert into.fp is not None
                begins = into.fp.tell() + _HEADER + len(own.filename.encode())
                own.extra = b"FB" + (-begins % ALIGNMENT).to_bytes(2, "little") + bytes(-begins % ALIGNMENT)
            with given.open(each) as source, into.open(own, "w", force_zip64=not is_small) as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
    os.replace(packed, path)


PT2 = Pt2("pt2", ".pt2", ("compile",))
