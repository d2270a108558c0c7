"""JSON as tablefold writes it, and reads it back: strict, NaN becomes null."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an indented JSON file."""
    path.write_text(show_json(content) + "\n")


def show_json(content: dict[str, Any]) -> str:
    """Indented JSON."""
    return json.dumps(strict(content), indent=2, allow_nan=False)


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


def strict(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
