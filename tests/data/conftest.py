import pytest

from tablefold.data import source


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of about 40 lines, so that a small log has many."""
    monkeypatch.setattr(source, "SHARD_BYTES", 8000)
