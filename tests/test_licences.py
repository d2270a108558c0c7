"""Every package that an installation brings has a licence that may be used in a closed product."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def licences(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / ".ci")
    import licences

    yield licences
    sys.modules.pop("licences")


def test_every_licence_is_allowed(licences):
    found = {name: licences.licence(licences.distribution(name)) for name in licences.dependencies()}
    assert {"torch", "numpy", "numba", "safetensors", "polars", "ray", "starlette"} <= set(found)
    refused = {name: one for name, one in found.items() if not set(licences.parts(one)) <= licences.ALLOWED}
    assert refused == {}


def test_the_page_says_what_is_installed(licences):
    assert licences.PAGE.read_text() == licences.page(), "python .ci/licences.py writes it anew"
