"""What is under way, and for how long; imports nothing heavy."""

from __future__ import annotations

import sys
import threading
import time


class Waiting:
    """What is under way, and for how long, on a terminal from its third second on; nothing elsewhere.

    For what does not know how much is left of it.

    Args:
        what: is under way.
        after: seconds before it is shown.
    """

    def __init__(self, what: str, after: float = 2.0) -> None:
        self._what, self._after = what, after
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True, name="tablefold-waiting")

    def __enter__(self) -> Waiting:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def _show(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(self._after if time.monotonic() - began < self._after else 1.0):
            print(f"\r{self._what}: {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
