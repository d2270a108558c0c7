"""One run of a study as a file: what is asked, and whether an answer belongs to it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from tablefold.study.variant import Variant
from tablefold.train.config import Config

FORMAT = 1
"""Version of a request's file; another one asks another question."""


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
        """What the answer depends on: config, variant, and `data`, the fingerprint of the dataset."""
        config = self.config.to_json()
        del config["data"]
        return {"format": FORMAT, "data": data, "config": config, "variant": asdict(self.variant)}

    def name(self, data: str = "") -> str:
        """A name for people that no other request on this data has."""
        config = self.config
        words = [config.method, self.size if config.compression or config.budget else "", config.model]
        words += [config.optimizer, f"t{config.threshold}" if config.threshold else "", self.variant.id_order]
        slug = re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower()).strip("-")
        return f"{slug[:90]}-s{config.seed}-{fingerprint(self.content(data))[:8]}"

    @classmethod
    def of(cls, content: Mapping[str, Any], series: str = "", size: str = "") -> Request:
        """The request whose `content` this is."""
        config = dict(content["config"])
        options = config["model_options"].items()
        config["model_options"] = {key: tuple(value) if isinstance(value, list) else value for key, value in options}
        return cls(Config(data="", **config), Variant(**content["variant"]), series, size)


def fingerprint(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON content, whatever the order of its keys.

    >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    True
    """
    return _digest(json.dumps(content, sort_keys=True))


@cache
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
