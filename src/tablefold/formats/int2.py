"""int2: four levels, at half and one and a half of the block's mean magnitude; 0.28 bytes a float."""

from tablefold.formats.codes import Codes

INT2 = Codes("int2", 2, "mean", 1.0)
