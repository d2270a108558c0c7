"""Tables of text in columns, no wider than they may be."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tablefold.quoting import one_line

_WIDEST = 80
"""Characters of a cell: a name from a user's data may be longer, or hold what a terminal obeys."""

_SHORTEST = 16
"""Characters to which words are shortened before a table becomes a list of its rows."""

_LEAST = 24
"""Characters of the narrowest line that anything is fitted into."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """A table in columns: what looks like a number to the right, words to the left; long cells are cut.

    Args:
        header: of the columns.
        rows: their cells.
        width: characters that a line may have: where the table needs more, its longest words are shortened; where
            that is not enough, each row is shown cell by cell. None sets no bound.

    >>> print(text_table(["method", "bytes"], [["full", "640"], ["qr", "80"]]))
    method  bytes
    full      640
    qr         80
    >>> print(text_table(["table", "rows", "method"], [["a" * 40, "1,000", "qr"]], width=30))
    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    aaaaaaaaaa
      rows    1,000
      method  qr
    """
    cells = [[one_line(cell, _WIDEST) for cell in row] for row in rows]
    right = [any(_numeric(row[column]) for row in cells) for column in range(len(header))]
    if width is not None:
        width = max(width, _LEAST)
        cells = _squeezed(header, cells, right, width)
        if _needed(header, cells) > width:
            return "\n".join(line for row in cells for line in _card(header, row, width))
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [header, *cells]
    )


def shortened(text: str, width: int) -> str:
    """The text in at most `width` letters; what is left out of its middle is shown as dots.

    >>> shortened("hash embeddings k 2", 12), shortened("full", 12)
    ('hash e...k 2', 'full')
    """
    if len(text) <= width:
        return text
    end = max(0, width - 3) // 3
    return f"{text[: width - 3 - end]}...{text[len(text) - end :]}"


def _squeezed(header: Sequence[str], rows: list[list[str]], right: Sequence[bool], width: int) -> list[list[str]]:
    """The rows with their longest words shortened, as far as that makes the table fit; as they are where it cannot."""
    words = [column for column, flush in enumerate(right) if not flush and rows]
    squeezed = rows
    while words and _needed(header, squeezed) > width:
        longest, column = max((max(len(row[column]) for row in squeezed), column) for column in words)
        if longest <= max(_SHORTEST, len(header[column])):
            return rows
        squeezed = [
            [shortened(cell, longest - 1) if at == column else cell for at, cell in enumerate(row)] for row in squeezed
        ]
    return squeezed


def _needed(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in zip(header, *rows, strict=True)) + 2 * (len(header) - 1)


def _card(header: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    """A row by itself: its first cell, and below it the others, each after its column's name."""
    names = min(max(map(len, header[1:]), default=0), width // 2)
    lines = textwrap.wrap(row[0], width) or [""]
    for name, cell in zip(header[1:], row[1:], strict=True):
        first = f"  {shortened(name, names):<{names}}  "
        lines += textwrap.wrap(cell, width, initial_indent=first, subsequent_indent=" " * len(first)) or [first]
    return [line.rstrip() for line in lines]


def _numeric(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] == ">"
