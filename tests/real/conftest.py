"""Where the real data is: `TABLEFOLD_DATA`, by default `../shared/data` beside the checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _data_file(name: str) -> Path:
    """The path of a real data file; skips without it, or fails where `TABLEFOLD_REQUIRE_DATA=1`."""
    path = Path(os.environ.get("TABLEFOLD_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.is_file():
        reason = f"no real data at {path}: set TABLEFOLD_DATA to the folder that holds it"
        if os.environ.get("TABLEFOLD_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def data_file():
    """`data_file(name)`: the path of a real data file."""
    return _data_file
