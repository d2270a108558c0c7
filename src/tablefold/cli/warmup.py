"""Compile all kernels ahead, as for an image: the first lookup then waits for nothing.

Machine code is for the processor it was compiled on, and is kept beside the package, or where TABLEFOLD_CACHE says. It
is found there later even if nobody may write.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tablefold.compilation import Made

DTYPES = ("float32", "float64")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--dtype",
        action="append",
        choices=DTYPES,
        help="of memory; may be given twice (default: float32, in which models train)",
    )


def run(args: Namespace) -> None:
    """Compile, and say where each function is kept."""
    from tablefold.ahead import warmup

    made = warmup(args.dtype or DTYPES[:1], _show)
    if any(each.file is None for each in made):
        raise ValueError("what is not kept is compiled anew in each process: name a folder with TABLEFOLD_CACHE")


def _show(made: Made) -> None:
    how = "compiled" if made.compiled else "read"
    print(f"{made.name:44s} {how:8s} {made.seconds:6.2f} s  {made.file or 'not kept'}", flush=True)
