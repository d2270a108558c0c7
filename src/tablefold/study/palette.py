"""The colours of figures and of the page, on light and on dark ground, each far enough from what it stands on."""

from __future__ import annotations

import re
from collections.abc import Mapping

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7b4ea3", "#8c6d1f", "#b8336a")
"""Okabe and Ito's and three more, told apart by colour-blind readers."""
INK, GREY, FAINT = "#1f2430", "#8a8f98", "#d9dce1"

LIGHT: Mapping[str, str] = {
    "ground": "#ffffff",
    "ink": INK,
    "soft": "#5b6270",
    "line": "#e3e6ea",
    "faint": FAINT,
    "accent": "#0067a3",
    "warn": "#8a3b00",
    "answer": "#eff6fb",
}
DARK: Mapping[str, str] = {
    "ground": "#14171c",
    "ink": "#e6e8ec",
    "soft": "#a3aab6",
    "line": "#2b3038",
    "faint": "#3a404a",
    "accent": "#58b4ee",
    "warn": "#f0a35e",
    "answer": "#1a232c",
}
SEEN, READ = 3.0, 4.5
"""The least contrasts of lines and of text (WCAG 2.1, level AA)."""


def contrast(one: str, other: str) -> float:
    """The contrast of two colours: 1 of equal ones, 21 of black on white.

    >>> contrast("#000000", "#ffffff"), contrast("#777777", "#777777")
    (21.0, 1.0)
    """
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def set_off(color: str, ground: str, least: float) -> str:
    """The colour nearest to this one that has at least this contrast to the ground: darker on light, lighter on dark.

    >>> set_off("#e69f00", "#ffffff", 4.5), set_off("#0072b2", "#ffffff", 4.5)
    ('#9c6c00', '#0072b2')
    """
    end = 0 if _luminance(ground) > 0.18 else 255
    for percent in range(101):
        mixed = [round(channel + (end - channel) * percent / 100) for channel in _channels(color)]
        found = "#" + "".join(f"{channel:02x}" for channel in mixed)
        if contrast(found, ground) >= least:
            return found
    raise AssertionError((color, ground, least))


def as_text(color: str) -> str:
    """A series' colour as that of its name in a figure on white."""
    return set_off(color, LIGHT["ground"], READ)


def as_variables(svg: str) -> str:
    """A figure for the page: its colours are the page's, which are others at night.

    >>> as_variables('<path style="stroke: #0072b2"/><text style="fill: #0072b2"/>')
    '<path style="stroke: var(--series0)"/><text style="fill: var(--name0)"/>'
    """
    series = list(enumerate((*COLORS, GREY)))
    ground = {INK: "var(--ink)", FAINT: "var(--faint)"}
    text = {as_text(color): f"var(--name{number})" for number, color in series} | ground
    lines = {color: f"var(--series{number})" for number, color in series} | ground
    svg = re.sub(r"<text[^>]*>", lambda tag: _swapped(tag[0], text), svg)
    return _swapped(svg, lines)


def style_sheet() -> str:
    """The page's colours as variables of CSS."""
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {_variables(DARK)} }} }}"
    return f":root {{ color-scheme: light dark; {_variables(LIGHT)} }}\n  {dark}"


def _swapped(text: str, colors: Mapping[str, str]) -> str:
    return re.sub("#[0-9a-f]{6}", lambda color: colors.get(color[0], color[0]), text)


def _variables(page: Mapping[str, str]) -> str:
    ground, series = page["ground"], list(enumerate((*COLORS, GREY)))
    found = {f"series{number}": set_off(color, ground, SEEN) for number, color in series}
    found |= {f"name{number}": set_off(color, ground, READ) for number, color in series}
    return " ".join(f"--{name}: {color};" for name, color in {**page, **found}.items())


def _luminance(color: str) -> float:
    """As WCAG defines it."""
    shares = [channel / 255 for channel in _channels(color)]
    linear = [share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(color: str) -> list[int]:
    return [int(color[start : start + 2], 16) for start in (1, 3, 5)]
