"""The licence of everything that an installation of tablefold and its extras brings, as its metadata state it.

    python .ci/licences.py    # writes LICENCES.md

`tests/test_licences.py` holds that file to what is installed, and every licence to `ALLOWED`.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "LICENCES.md"
ALLOWED = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0"),
    *("MIT", "MIT-CMU", "PSF-2.0", "Zlib"),
    "MPL-2.0",  # who changes such a file must publish it; nobody here does
}
"""By SPDX's names: what may be used in a closed product, without more than a notice."""

NOT_RUN = ("dev", "docs", "release")
"""Extras for those who work on tablefold: nothing of them is shipped."""

_KNOWN = {
    "apache 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
_HEAD = """# Licences of what tablefold stands on

Written by `python .ci/licences.py` from the packages' own metadata; a test holds it to what is installed, and every
licence to a list of those that may be used in a closed product. tablefold itself is Apache-2.0.

| package | licence | comes with |
|---|---|---|
"""


def licence(found: Distribution) -> str:
    """A package's licence in SPDX's words, as far as its metadata state one that we know."""
    stated = found.metadata.get("License-Expression")
    if stated:
        return stated
    classified = [line.split(" :: ")[-1] for line in found.metadata.get_all("Classifier") or [] if "License ::" in line]
    texts = classified or [(found.metadata.get("License") or "unknown").strip().splitlines()[0]]
    return " OR ".join(_KNOWN.get(text.lower(), text) for text in texts)


def parts(stated: str) -> list[str]:
    """The licences of an expression of SPDX, whatever joins them.

    >>> parts("MPL-2.0 AND (Apache-2.0 OR MIT)")
    ['MPL-2.0', 'Apache-2.0', 'MIT']
    """
    return [part.strip() for part in re.split(r"\bAND\b|\bOR\b|[()]", stated) if part.strip()]


def dependencies() -> dict[str, set[str]]:
    """Every package that the core or an extra brings, and which of them do.

    Raises:
        PackageNotFoundError: for one that is not installed.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"core": project["dependencies"]}
    wanted |= {name: those for name, those in project["optional-dependencies"].items() if name not in NOT_RUN}
    found: dict[str, set[str]] = {}
    for extra, requirements in wanted.items():
        for name in _brought([Requirement(each) for each in requirements]):
            found.setdefault(name, set()).add(extra)
    return {name: {"core"} if "core" in extras else extras for name, extras in found.items()}


def _brought(requirements: list[Requirement]) -> set[str]:
    """The names of packages that requirements bring, those of tablefold's own extras apart."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(each.name, frozenset(each.extras)) for each in requirements if _holds(each, frozenset())]
    while todo:
        name, extras = todo.pop()
        if name == "tablefold" or (name, extras) in seen:
            continue
        seen.add((name, extras))
        asked = [Requirement(each) for each in distribution(name).requires or []]
        todo += [(canonicalize_name(each.name), frozenset(each.extras)) for each in asked if _holds(each, extras)]
    return {canonicalize_name(name) for name, _ in seen}


def _holds(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


def page() -> str:
    """The content of LICENCES.md."""
    rows = [
        f"| {name} | {licence(distribution(name))} | {', '.join(sorted(extras))} |"
        for name, extras in sorted(dependencies().items())
    ]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    try:
        PAGE.write_text(page(), encoding="utf-8")
    except PackageNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed: make test installs all extras") from None
