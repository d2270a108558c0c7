"""What to run after a study: the command that trains what it found, and the one that uses it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from tablefold.study.findings import Choice, chosen, full_tables, how_to_use
from tablefold.study.results import Summary
from tablefold.train.config import Config

RUN = "best"
_SETTINGS = (
    *("model", "dim", "optimizer", "lr", "lr_decay", "training_memory", "batch_size", "epochs", "patience"),
    *("until", "precision"),
)


def next_commands(group: Sequence[Summary], data: str) -> list[tuple[str, str]]:
    """What to do, and the command that does it, in order; of runs of equal settings on the dataset in folder `data`."""
    choice = chosen(group)
    if choice is None and full_tables(group) is not None:
        return [
            ("Ask for smaller compressions or more epochs: write a study of your own, starting from a ready one",
             "tablefold study show sharing-compression > mine.toml"),
            ("and run it", f"tablefold study run mine.toml --data {shlex.quote(data)} --out mine --report"),
        ]  # fmt: skip
    if choice is None:
        return []
    train = ["tablefold train", shlex.quote(data), *how_to_use(choice), *training_options(choice), f"--out {RUN}"]
    return [
        ("Train it on all rows", " ".join(train)),
        ("Score new rows of a raw file with it", f"tablefold predict {RUN} today.txt --out scores.parquet"),
    ]


def training_options(choice: Choice) -> list[str]:
    """The options of `tablefold train` for the settings that are not its defaults."""
    settings, defaults = choice.taken.settings, Config(data="")
    found = [
        f"--{name.replace('_', '-')} {_shown(settings[name])}"
        for name in _SETTINGS
        if settings.get(name) is not None and settings[name] != getattr(defaults, name)
    ]
    sizes = settings.get("model_options") or {}
    return found + [f"--{name.replace('_', '-')} {_shown(size)}" for name, size in sizes.items()]


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else f"{value}"
