"""What a study asks: a grid of runs, written as TOML.

    title = "Loss against collisions"
    about = "What is asked, and how to read the answer."
    target = "auc=full-0.005"              # optional: quality whose cost in steps and seconds the report shows

    [settings]                             # of every run; a list is an axis of the grid
    model = ["dlrm", "dcn"]
    seed = [0, 1, 2]
    model_options.dlrm.top_mlp = [512, 256]

    [[grid]]                               # each entry is a product of its own lists and those of the settings
    method = "full"

    [[grid]]
    method = ["hash", "qr:combine=mul"]
    option.collisions = [2, 4, 60]         # one more option of every spec string of this entry

    [on.interactions]                      # laid over the above for data prepared from that source
    settings.model = "neumf"

    [quick]                                # laid over all of it by --quick; may have its own [quick.on.SOURCE]
    settings.seed = [0, 1]

Settings are the fields of `tablefold.train.config.Config` (the options of `tablefold train`), and those of
`tablefold.study.settings.EXTRA`. `model_options` are given per model, as above, and `lr` may be given per optimiser:
`lr = { amsgrad = 2e-3, adagrad = 2e-2 }`.
An overlay's settings replace single settings, its `grid` replaces the grid as a whole.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tablefold.data import Schema
from tablefold.spec import nearest
from tablefold.study.quality import Quality
from tablefold.study.request import Request
from tablefold.study.settings import check_names, check_settings, make_request

MOST_RUNS = 10_000
"""Runs that one study may ask for."""

_MOST_BYTES = 1_000_000  # of a definition: ours have a thousand
_MOST_NESTED = 12
_OVERLAY = {"settings", "grid", "on"}
_TOP = _OVERLAY | {"title", "about", "target", "quick"}


@dataclass(frozen=True)
class Study:
    """A study for one source of data: title, target, and the requests that its grid makes.

    Args:
        title: of the report.
        about: what is asked, a sentence or two.
        target: as in `tablefold.study.target`, or None.
        settings: of every run, lists are axes.
        grid: tables of settings, each a product of its lists.
    """

    title: str
    about: str
    target: str | None
    settings: dict[str, Any]
    grid: tuple[dict[str, Any], ...]

    @classmethod
    def load(cls, study: str | Path, source: str = "", *, quick: bool = False) -> Study:
        """The study in a TOML file, or the ready study of that name, for data prepared from `source`.

        Raises:
            ValueError: for a file that is no study, or a name that is neither a file nor a ready study.
        """
        return cls.of(read_definition(study)[0], source, quick=quick, name=str(study))

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str = "", *, quick: bool = False, name: str = "study") -> Study:
        """The study that a TOML document holds; arguments and errors as `load`."""
        check_definition(content, name)
        base: dict[str, Any] = {"settings": {}, "grid": []}
        for overlay in (content, content.get("quick", {}) if quick else {}):
            _lay(base, overlay)
            _lay(base, overlay.get("on", {}).get(source, {}))
        grid = tuple(base["grid"])
        if not grid:
            raise ValueError(f"{name} has no [[grid]]: give at least one, such as method = 'full'")
        title, about = content.get("title", name), content.get("about", "")
        return cls(title, about, content.get("target"), base["settings"], grid)

    def requests(self, schema: Schema) -> list[Request]:
        """Every run that the grid asks for on data with this schema, in the order of the grid, none twice.

        Raises:
            ValueError: for a setting, spec string, model or optimiser that cannot be, or more than `MOST_RUNS` runs.
        """
        entries = [_merge(self.settings, entry) for entry in self.grid]
        runs = sum(math.prod(map(len, _axes(entry).values())) for entry in entries)
        if runs > MOST_RUNS:
            raise ValueError(
                f"the study asks for {_count(runs)} runs and may ask for {MOST_RUNS:,}: "
                "shorten the lists of its grid, or make several studies of it"
            )
        found: dict[str, Request] = {}
        for values in itertools.chain.from_iterable(map(_product, entries)):
            request = make_request(values, schema)
            found.setdefault(request.name(), request)
        # Seeds outermost: an unfinished study has all methods at few seeds rather than few methods at all seeds.
        return sorted(found.values(), key=lambda request: request.config.seed)


def read_definition(study: str | Path) -> tuple[dict[str, Any], str]:
    """The checked content of a study's TOML file, or of the ready study of that name, and its text.

    Raises:
        ValueError: for a file that is no study, or a name that is neither a file nor a ready study.
    """
    path = find(study)
    with path.open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise ValueError(f"{study} is no study: it is larger than {_MOST_BYTES:,} bytes")
    try:
        text = raw.decode()
        content = tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{study} is not TOML: {why}") from None
    check_definition(content, str(study))
    return content, text


def check_definition(content: Mapping[str, Any], name: str) -> None:
    """Refuse what is misspelt or of the wrong type, also in overlays that this data and this size do not read.

    Raises:
        ValueError: names the place and what it may hold.
    """
    if not content:
        raise ValueError(f"{name} is empty: a study has at least one [[grid]], such as method = 'full'")
    if _nested(content) > _MOST_NESTED:
        raise ValueError(f"{name} is nested more than {_MOST_NESTED} levels deep")
    check_names(content, _TOP, name)
    for key in ("title", "about", "target"):
        if not isinstance(content.get(key, ""), str):
            raise ValueError(f"{name}: {key} must be text")  # noqa: TRY004  (the user's mistake)
    if "target" in content:
        Quality.parse(content["target"])
    _check_overlays(content, name)


def ready() -> dict[str, Traversable]:
    """The studies that ship with the package, by name."""
    folder = files("tablefold.study").joinpath("ready")
    return {file.name.removesuffix(".toml"): file for file in sorted(folder.iterdir(), key=lambda file: file.name)}


def find(study: str | Path) -> Path | Traversable:
    """The file of a study: a path, or the name of a ready one.

    Raises:
        ValueError: when it is neither; names the nearest ready study.
    """
    if Path(study).is_file():
        return Path(study)
    known = ready()
    if str(study) not in known:
        hint = nearest(str(study), known)
        raise ValueError(
            f"no study file {str(study)!r} and no ready study of that name{hint}; ready: {', '.join(known)}"
        )
    return known[str(study)]


def _lay(base: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    base["settings"] = _merge(base["settings"], overlay.get("settings", {}))
    base["grid"] = overlay.get("grid", base["grid"])


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`; tables are merged, anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _check_overlays(content: Mapping[str, Any], name: str) -> None:
    """Check the settings of every layer of a definition."""
    layers = {name: content}
    if "quick" in content:
        layers[f"{name}: quick"] = content["quick"]
    for where, layer in list(layers.items()):
        if where != name:
            check_names(layer, _OVERLAY, where)
        on = layer.get("on", {})
        check_names(on, None, f"{where}: on")
        for source, overlay in on.items():
            check_names(overlay, _OVERLAY, f"{where}: on.{source}")
            layers[f"{where}: on.{source}"] = overlay
    for where, layer in layers.items():
        grid = layer.get("grid", [])
        if not isinstance(grid, list):
            raise ValueError(f"{where}: grid must be a list of tables, each under [[grid]]")  # noqa: TRY004
        check_settings(layer.get("settings", {}), f"{where}: settings" if "settings" in layer else where)
        for entry in grid:
            check_settings(entry, f"{where}: grid")


def _nested(value: Any) -> int:
    """How many tables and lists lie one in the other, at most; without recursion, whatever the depth."""
    depth, level = 0, [value]
    while level := [item for one in level for item in _items(one)]:
        depth += 1
    return depth


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []


def _count(runs: int) -> str:
    return f"{runs:,}" if runs < 10**15 else "more than 10^15"


def _axes(values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The values of every setting that is an axis of the grid: of most of them one."""
    axes = {key: value for key, value in values.items() if key not in ("option", "model_options")}
    axes |= {f"option.{key}": value for key, value in values.get("option", {}).items()}
    return {key: value if isinstance(value, list) else [value] for key, value in axes.items()}


def _product(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One table of single values for every combination of the lists in `values`."""
    axes, options = _axes(values), values.get("option", {})
    for combination in itertools.product(*axes.values()):
        single = dict(zip(axes, combination, strict=True))
        chosen = {key: single.pop(f"option.{key}") for key in options}
        yield {**single, "option": chosen, "model_options": values.get("model_options", {})}
