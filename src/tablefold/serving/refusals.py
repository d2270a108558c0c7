"""Requests that are refused: the status that says so, and why, in one line."""

from __future__ import annotations

from collections.abc import Mapping


class RefusedError(Exception):
    """A request that gets no scores.

    Args:
        status: of the answer: 400 and more, or 503.
        reason: one line for who asked.
        headers: that the answer has beside the usual ones.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


def bad(reason: str) -> RefusedError:
    """A request that is not as it must be."""
    return RefusedError(400, reason)
