"""What a terminal shows: widths, colours, counts and shares."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from typing import TextIO


def window_width() -> int:
    """Columns of the terminal, or those that the variable COLUMNS names; 80 where there is neither."""
    return shutil.get_terminal_size((80, 24)).columns


def table_width() -> int | None:
    """Characters that a line of a table may have: the window's; None where nobody looks at it in a window, for who
    reads a file or a pipe wants all of it. COLUMNS sets it anywhere."""
    return window_width() if sys.stdout.isatty() or os.environ.get("COLUMNS") else None


def wrapped(text: str) -> str:
    """The text with no line longer than `table_width`; its tables fit already."""
    width = table_width()
    if width is None:
        return text
    lines = [textwrap.wrap(line, width, subsequent_indent="  ") or [""] for line in text.splitlines()]
    return "\n".join(part for line in lines for part in line)


def takes_colour(stream: TextIO) -> bool:
    """Whether to colour what is written there: a terminal that can, and no NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def painted(text: str, *codes: int) -> str:
    """The text with the SGR codes of a terminal: 1 is bold, 32 green."""
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"


def without_colour(text: str) -> str:
    """The text as it is seen.

    >>> without_colour(painted("full", 1))
    'full'
    """
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def show_count(count: float) -> str:
    """A whole number with separators, or three digits of a small one; short from a thousand billion on.

    >>> show_count(882774559), show_count(0.0123), show_count(3.93e25), show_count(0)
    ('882,774,559', '0.0123', '3.93e+25', '0')
    """
    if count >= 1e13:
        return f"{count:.3g}"
    return f"{round(count):,}" if count >= 100 or count == int(count) else f"{count:.3g}"


def show_share(share: float) -> str:
    """A share of one as a percentage; 100 % only where no more than one in ten billion is missing.

    >>> show_share(1), show_share(0.999999999), show_share(0.25), show_share(1e-6), show_share(1e-30)
    ('100 %', '>99.999 %', '25 %', '0.0001 %', '0 %')
    """
    if share > 1 - 1e-10 or share < 1e-14:
        return f"{share:.0%}".replace("%", " %")
    if share > 0.99999:
        return ">99.999 %"
    return f"{share * 100:.5g} %" if share > 0.01 else f"{share * 100:.3g} %"
