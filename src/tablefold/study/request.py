"""One run of a study as a file: what is asked, and whether an answer belongs to it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from typing import Any

from tablefold.json_files import JsonValue
from tablefold.study.variant import Variant
from tablefold.train.config import Config

FORMAT = 1
"""Version of a request's file; another one asks another question."""

UNPLANNED = {"threshold": 0, "storage": "fp32"}
"""What a request means that says nothing of these; null leaves them to the plan."""

_CONFIG = {field.name for field in fields(Config)} - {"data"}


@dataclass(frozen=True)
class Request:
    """One run: its config (without the data's folder), the variant of the data, and how tables and plots call it.

    Args:
        config: as for `tablefold train`.
        variant: of the dataset that the study is given.
        series: the method as it was asked for, without its size.
        size: what was asked of its size, such as `4x` or `collisions=4`; empty for none.
    """

    config: Config
    variant: Variant
    series: str
    size: str

    def content(self, data: str = "") -> dict[str, Any]:
        """What the answer depends on: config and variant where they differ from their defaults, and `data`, the
        fingerprint of the dataset. So an option added later asks no other question of the runs before it."""
        config = _changed(self.config)
        del config["data"]
        return {"format": FORMAT, "data": data, "config": config, "variant": _changed(self.variant)}

    def name(self, data: str = "") -> str:
        """A name for people that no other request on this data has."""
        config = self.config
        words = [config.method, self.size if config.compression or config.budget else "", config.model]
        words += [config.optimizer, f"t{config.threshold}" if config.threshold else ""]
        words.append("" if config.storage in (None, UNPLANNED["storage"]) else config.storage)
        words.append("" if self.variant.id_order == "prepared" else self.variant.id_order)
        slug = re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower()).strip("-")
        return f"{slug[:90]}-s{config.seed}-{fingerprint(self.content(data))[:8]}"

    @classmethod
    def of(cls, content: JsonValue, series: str = "", size: str = "") -> Request:
        """The request whose `content` this is.

        Raises:
            ValueError: for another format, and for what is missing, unknown or of the wrong type.
        """
        content.refuse_unknown(("format", "data", "config", "variant"))
        content["format"].integer(least=FORMAT, most=FORMAT)
        content["data"].text()
        changed, variant = content["config"], content["variant"].into(Variant)
        changed.refuse_unknown(_CONFIG)
        config = replace(changed, plain={**UNPLANNED, **changed.plain, "data": ""}).into(Config)
        options = config.model_options.items()
        sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in options}
        return cls(replace(config, model_options=sizes), variant, series, size)


def _changed(value: Config | Variant) -> dict[str, Any]:
    """The fields that differ from their default."""
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(value)
    }
    defaults |= UNPLANNED
    return {name: one for name, one in asdict(value).items() if one != defaults[name]}


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON content, whatever the order of its keys.

    >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    True
    """
    return _digest(json.dumps(content, sort_keys=True))


@cache
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
