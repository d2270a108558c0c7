"""int8: 256 levels, the outermost just beyond the largest magnitude of the block; 1.03 bytes a float."""

from tablefold.formats.codes import Codes

INT8 = Codes("int8", 8, "max", 1.0625 / 127.5)  # rounded to 3 bits, a scale loses up to 1/17: nothing is clipped
