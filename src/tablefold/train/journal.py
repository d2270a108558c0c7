"""The journal of a run: every record of its training, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tablefold.json_files import strict
from tablefold.train.progress import Listener


class Journal(Listener):
    """Keeps every record, to be written as JSON lines when the run is."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_record(self, record: dict[str, Any]) -> None:
        """Keep it."""
        self.records.append(record)

    def write(self, path: Path) -> None:
        """One line per record."""
        path.write_text("".join(json.dumps(strict(record), allow_nan=False) + "\n" for record in self.records))
