"""The notebooks run from top to bottom. They are plain Python in cells (jupytext's percent format)."""

from pathlib import Path

import jupytext
import pytest

from boxes import run

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook):
    done = run(str(notebook), MPLBACKEND="agg", OMP_WAIT_POLICY="PASSIVE", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_does(notebook):
    cells = jupytext.read(notebook).cells
    assert cells[0].source.startswith("# ")
    assert {cell.cell_type for cell in cells} == {"markdown", "code"}
