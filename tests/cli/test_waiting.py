"""What is shown while something takes long."""

import io
import sys
import time

import pytest

from tablefold.cli.waiting import Waiting


@pytest.mark.parametrize("terminal", [True, False])
def test_what_takes_long_is_named_on_a_terminal_alone_and_cleared(monkeypatch, terminal):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with Waiting("preparing log", after=0.01):
        time.sleep(0.2)
    shown = stream.getvalue()
    assert shown.startswith("\rpreparing log: 0 s") if terminal else shown == ""
    assert not terminal or shown.endswith("\r\x1b[K")
    with Waiting("quick"):
        pass
    assert "quick" not in stream.getvalue()


def test_an_error_ends_it(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(ValueError, match="no"), Waiting("preparing", after=0.01):
        raise ValueError("no")
    shown = stream.getvalue()
    time.sleep(0.05)
    assert stream.getvalue() == shown
