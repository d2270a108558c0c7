"""The journal of a run: every record of its training, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tablefold.json_files import JsonValue, parse_json, read_bounded, strict
from tablefold.train.progress import Listener

LARGEST_JOURNAL = 64 << 20
"""Bytes of a journal that is read: a quarter of a million records."""


class Journal(Listener):
    """Keeps every record, to be written as JSON lines when the run is."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_record(self, record: dict[str, Any]) -> None:
        """Keep it."""
        self.records.append(record)

    def write(self, path: Path) -> None:
        """One line per record."""
        lines = [json.dumps(strict(record), allow_nan=False) + "\n" for record in self.records]
        path.write_text("".join(lines), encoding="utf-8")


def read_journal(path: Path) -> list[JsonValue]:
    """The records of a journal, in order, each an object with a part, "train" or "validation".

    Raises:
        ValueError: for a file that is missing or damaged; names the line.
    """
    lines = read_bounded(path, LARGEST_JOURNAL).splitlines()
    records = [parse_json(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    for record in records:
        record["part"].choice(("train", "validation"))
    return records
