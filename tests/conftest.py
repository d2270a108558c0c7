"""Shapes and types in annotations are checked at run time in the core while tests run."""

import os

from jaxtyping import install_import_hook

os.environ.pop("COLUMNS", None)  # nobody looks at what tests print, so that nothing has a width unless a test sets it

install_import_hook(
    [
        "tablefold.hashing",
        "tablefold.models",
        # Not all of `ops`: Numba and torch.compile read the functions of the others.
        "tablefold.ops.cpu",
    ],
    "beartype.beartype",
)

collect_ignore_glob = ["*/gpu_*.py", "distributed_worker.py"]
"""Scripts that tests run in processes of their own; looking for doctests would run them here."""

import pytest  # noqa: E402  (the hook must come first)

from tablefold.tables import TableSpec  # noqa: E402

KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)


@pytest.fixture(scope="session")
def kaggle_tables():
    """The 26 tables of the Criteo Kaggle log at dim 16."""
    return [TableSpec(f"C{number}", rows, 16) for number, rows in enumerate(KAGGLE_ROWS, start=1)]
