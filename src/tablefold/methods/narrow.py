"""What methods of narrow rows share: rows of fewer floats than the vectors, times a projection for each table."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from tablefold.method import Method
from tablefold.partitions import identity
from tablefold.starts import FULL_START, Start
from tablefold.tables import TableSpec
from tablefold.terms import AddressMap, MapBuilder, Projection, Term


class Narrow(Method):
    """A method that gives every id of a table a row of its own, `width` floats of it, and the table a projection:

        e(x) = row[x] @ P,    P: [width, dim]

    A table stays full where that is no larger. Rows begin as a full table's do, and projections with a mean square of
    1 / width: the product then has a full table's deviation, whatever its width.
    """

    @abstractmethod
    def width(self, table: TableSpec) -> int:
        """Floats of a table's rows, 1 or more; as many as its dim, or more, leave it full."""

    def address_map(self, tables: Sequence[TableSpec], seed: int = 0) -> AddressMap:
        """One term per table: the identity, projected."""
        builder = MapBuilder(tables)
        for column, table in enumerate(tables):
            rows, width, projection = table.vocabulary, self.width(table), None
            if width * (rows + table.dim) >= rows * table.dim:
                width = table.dim
            base = builder.add_region(rows, width, FULL_START)
            if width < table.dim:
                start = Start(std=1 / math.sqrt(width))
                projection = Projection(builder.add_region(width, table.dim, start, "projections"), table.dim)
            builder.add_term(column, Term(identity(rows), base, stride=width, width=width, projection=projection))
        return builder.finish()
