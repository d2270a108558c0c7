"""Tables of text in columns."""

from __future__ import annotations

from collections.abc import Sequence

from tablefold.quoting import one_line

_WIDEST = 80
"""Characters of a cell: a name from a user's data may be longer, or hold what a terminal obeys."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in columns: what looks like a number to the right, words to the left; long cells are cut.

    >>> print(text_table(["method", "bytes"], [["full", "640"], ["qr", "80"]]))
    method  bytes
    full      640
    qr         80
    """
    rows = [[one_line(cell, _WIDEST) for cell in row] for row in rows]
    lines = [list(header), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [any(_numeric(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] == ">"
