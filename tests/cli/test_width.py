"""Every table fits the window; colour only where a terminal has it."""

import re

import pytest

from tablefold.cli import main
from tablefold.cli.columns import table_width, takes_colour, without_colour
from tablefold.text_tables import text_table

TABLES = ("--rows", "1000000", "--rows", "200", "--method")
COMMANDS = {
    "plan": ("plan", *TABLES, "robe:block=32", "--compression", "100"),
    "inspect": ("inspect", *TABLES, "qr:collisions=4", "--sample", "1000"),
    "theory": ("theory", "--rows", "1000", "--method", "robe:block=1"),
    "methods": ("methods",),
    "describe": ("describe", "DATA"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_tables_are_no_wider_than_the_window(name, columns, data, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    arguments = [str(data) if word == "DATA" else word for word in COMMANDS[name]]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    tables = [line for line in text.splitlines() if "  " in line]  # the rest is prose, which a terminal breaks
    assert max(map(len, tables)) <= columns, max(tables, key=len)
    monkeypatch.delenv("COLUMNS")
    assert main(arguments) == 0
    whole = capsys.readouterr().out
    assert "..." not in whole  # a pipe gets all of it
    numbers = [set(re.findall(r"\d[\d,.]*(?: [kMG]?B)?", one)) for one in (text, whole)]
    assert len(numbers[1] - numbers[0]) <= (len(numbers[1]) // 3 if columns < 200 else 0)  # times are others each time


def test_a_table_shrinks_by_its_words_and_then_becomes_a_list():
    header = ["module", "rows", "representation"]
    rows = [["a" * 30, "1,000,000", "clustered residual"], ["b", "7", "qr"]]
    assert text_table(header, rows) == text_table(header, rows, 200)
    middle = text_table(header, rows, 50)
    assert max(map(len, middle.splitlines())) <= 50
    assert [line.split()[1] for line in middle.splitlines()] == ["rows", "1,000,000", "7"]
    assert "..." in middle
    narrow = text_table(header, rows, 30)
    assert narrow.splitlines() == [
        "a" * 30,
        "  rows            1,000,000",
        "  representation  clustered",
        "                  residual",
        "b",
        "  rows            7",
        "  representation  qr",
    ]


def test_width_and_colour_follow_the_terminal(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert table_width() is None
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert table_width() == 80
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    import sys

    assert takes_colour(sys.stdout)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not takes_colour(sys.stdout)
    assert without_colour("\x1b[1mfull\x1b[0m") == "full"
