"""JSON as runs write it: strict (NaN becomes null), one record a line where there are many."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tablefold.train.progress import Listener


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file."""
    path.write_text(show_json(content) + "\n")


def show_json(content: dict[str, Any]) -> str:
    """Indented JSON."""
    return json.dumps(_strict(content), indent=2, allow_nan=False)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: when the file is missing or is no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is missing or damaged ({error})") from error
    if isinstance(content, dict):
        return content
    raise ValueError(f"{path} is damaged: it holds no JSON object")


class Journal(Listener):
    """Keeps every record, to be written as JSON lines when the run is."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_record(self, record: dict[str, Any]) -> None:
        """Keep it."""
        self.records.append(record)

    def write(self, path: Path) -> None:
        """One line per record."""
        path.write_text("".join(json.dumps(_strict(record), allow_nan=False) + "\n" for record in self.records))


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
