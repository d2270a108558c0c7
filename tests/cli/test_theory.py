"""`tablefold theory`."""

import itertools
import re
from pathlib import Path

import pytest

from tablefold.cli import main


def rows(text, table):
    """{first cell: other cells} of the lines of a printed table."""
    lines = text.split("\n\n")[table].splitlines()
    return {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in lines)}


def test_the_sizes_of_a_terabyte_of_tables(capsys):
    assert main(["theory", "--rows", "882774559", "--eps", "0.1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("882,774,559 ids of dim 128: 452 GB as full tables\n")
    assert "with probability 99 %" in text
    sizes = rows(text, 2)
    assert sizes["hash:by=mix"] == ["full", "full", "-", "full"]
    assert sizes["qr:combine=mul"] == ["full", "full", "-", "30.4 MB"]
    assert sizes["robe:block=1"][:2] == ["92,288", "369 kB"]
    growth = rows(text, 4)
    weights = [int(cell.replace(",", "")) for cell in growth["any number of reads"]]
    steps = [later - earlier for earlier, later in itertools.pairwise(weights)]
    assert max(steps) - min(steps) <= 100, "logarithmic: every factor of a thousand adds the same"


def test_at_half_the_reads_the_smallest_qr_will_do(capsys):
    argv = ["theory", "--rows", "1000000", "--eps", "0.5", "--delta", "0.05", "--dim", "16", "--method", "qr"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "with probability 95 %" in text
    assert rows(text, 2)["qr:combine=mul"] == ["32,000", "128 kB", "500x", "128 kB"]
    assert "robe" not in text


@pytest.mark.parametrize("count", ["1", "2", "1000000000000"])
def test_any_number_of_ids(capsys, count):
    assert main(["theory", "--rows", count, "--rows", "7", "--dim", "8"]) == 0
    assert "ids of dim 8" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--eps", "--delta"])
def test_the_smallest_probability_has_sizes(capsys, option):
    assert main(["theory", "--rows", str(2**58), option, "1e-100", "--dim", "16"]) == 0
    assert "robe:block=1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: --rows"),
        (["--rows", "0"], "argument --rows: '0' is not an integer of at least 1"),
        (["--rows", "5", "--eps", "1.5"], "eps=1.5 must lie between 0 and 1, both excluded"),
        (["--rows", "5", "--eps", "1e-300"], "eps=1e-300 is below 1e-100, the smallest for which sizes are computed"),
        (["--rows", "5", "--delta", "1e-320"], "delta=1e-320 is below 1e-100"),
        (["--rows", "5", "--delta", "0"], "delta=0.0 must lie between 0 and 1, both excluded"),
        (["--rows", "5", "--method", "rob"], "no method 'rob' (did you mean 'robe'?)"),
        (["--rows", "5", "--method", "path"], "path computes after the gather"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, message):
    assert main(["theory", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"tablefold theory: {message}")
    assert captured.err.count("\n") == 1


def test_the_page_on_theory_shows_what_is_printed(capsys):
    page = (Path(__file__).parents[2] / "docs" / "theory.md").read_text()
    command, printed = re.search(r"\$ tablefold (theory .*?)\n(.*?)```", page, flags=re.DOTALL).groups()
    assert main(command.split()) == 0
    assert capsys.readouterr().out == printed
