"""What a study has shown, in a line, and what to run next."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tablefold.cli.columns import painted, takes_colour, window_width

if TYPE_CHECKING:
    from tablefold.study.results import Summary

_BOLD, _GREEN, _YELLOW = 1, 32, 33


def print_answer(summaries: Sequence[Summary], data: str, more: Iterable[tuple[str, str]] = ()) -> None:
    """Print what to take for every setting, what a reader must know first, and the commands to run next.

    Args:
        summaries: of a study.
        data: where its dataset lies.
        more: further commands, each after what it does.
    """
    from tablefold.study.findings import headline, warnings
    from tablefold.study.next_commands import next_commands
    from tablefold.study.results import slices

    groups = slices([one for one in summaries if one.done])
    for title, group in groups:
        for answer in headline(group)[:1]:
            _say(f"{title}: {answer}" if title else answer, _BOLD, _GREEN)
        for warning in warnings(group):
            _say(warning, _YELLOW)
    commands = next(filter(None, (next_commands(group, data) for _, group in groups)), [])
    for what, command in [*commands, *more]:
        _say(f"{what}:")
        print(_continued(command.replace("tablefold", program(), 1), window_width()))


def program() -> str:
    """What to type for this command: its name, or where that is on no path, how it was called."""
    called = Path(sys.argv[0])
    if shutil.which("tablefold") or called.name != "tablefold" or not called.is_file():
        return "tablefold"
    return os.path.relpath(called)


def _say(text: str, *codes: int) -> None:
    for line in textwrap.wrap(text, window_width(), break_long_words=False, break_on_hyphens=False):
        print(painted(line, *codes) if codes and takes_colour(sys.stdout) else line)


def _continued(command: str, width: int) -> str:
    """A command in lines of this width, cut before its options, that a shell reads as one.

    >>> print(_continued("tablefold train data --method auto --compression 64 --out best", 44))
      tablefold train data --method auto \\
        --compression 64 --out best
    """
    words = command.replace(" --", "\0--").split("\0")
    lines = ["  " + words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)
