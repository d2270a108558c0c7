"""int4: 16 levels, the outermost just below the largest magnitude of the block; 0.53 bytes a float."""

from tablefold.formats.codes import Codes

INT4 = Codes("int4", 4, "max", 0.95 / 7.5)
