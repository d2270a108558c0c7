"""Formats: in how many bits memory is kept, and what is read of it. One file per format.

A format maps the float32 *master*, which an optimiser moves, to what is read in its place. While training there is the
master alone: a read of a block encodes and decodes that block on the way, and the gradient goes straight
through to the master (Courbariaux, Bengio and David, NeurIPS 2015; Bengio, Leonard and Courville, 2013). `freeze()`
keeps the codes and drops the master. Both ways read the same bits.
"""

from tablefold.formats.bf16 import BF16 as BF16
from tablefold.formats.codes import Codes
from tablefold.formats.format import Format as Format
from tablefold.formats.fp32 import FP32 as FP32
from tablefold.formats.int2 import INT2 as INT2
from tablefold.formats.int4 import INT4 as INT4
from tablefold.formats.int8 import INT8 as INT8
from tablefold.registry import Registry


def _is_format(value: object) -> bool:
    """Kernels know these two and codes of 2, 4 and 8 bits; a format of another package is one of the last."""
    return value in (FP32, BF16) or (isinstance(value, Codes) and value.bits in (2, 4, 8))


FORMATS: Registry[Format] = Registry("tablefold.formats", "format", _is_format)
"""Every format by name: those of this package, and `Codes` of other packages (see `tablefold.registry`)."""


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        ValueError: names the formats.

    >>> find_format("int2").num_bytes(3200)
    900
    """
    if name not in FORMATS:
        known = sorted(FORMATS.values(), key=lambda each: -each.bits)
        raise ValueError(f"format {name!r} must be one of {', '.join(each.name for each in known)}")
    return FORMATS[name]


def in_format(method: str, name: str) -> str:
    """A method's name in tables and plots: with the format of its memory, where that is not float32.

    >>> in_format("robe:block=4", "int8")
    'robe:block=4 in int8'
    """
    return method if name == FP32.name else f"{method} in {name}"
