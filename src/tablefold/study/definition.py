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

Settings are the fields of `tablefold.train.config.Config` (the options of `tablefold train`), and those of `EXTRA`.
`model_options` are given per model, as above, and `lr` may be: `lr = { amsgrad = 2e-3, adagrad = 2e-2 }`.
An overlay's settings replace single settings, its `grid` replaces the grid as a whole.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tablefold.data import Schema
from tablefold.method import parse
from tablefold.models import model_options
from tablefold.spec import nearest
from tablefold.storage import in_storage
from tablefold.study.quality import Quality
from tablefold.study.request import Request
from tablefold.study.variant import Variant
from tablefold.tables import show_bytes
from tablefold.train.config import Config

EXTRA = {
    "option": "table of options that every spec string of the entry gets",
    "looks": "evaluations on the validation part, spread evenly over the run",
    "id_order": "prepared (as the data is), frequency, permuted (by the run's seed) or first (appearance)",
    "train_rows": "train on the first rows of the training part only; the other parts shrink with it",
}
"""Settings of a study beside the fields of a run's config, and what they mean."""

_CONFIG = {field.name for field in fields(Config)} - {"data"}
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
        path = find(study)
        try:
            content = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{study} is not TOML: {error}") from error
        return cls.of(content, source, quick=quick, name=str(study))

    @classmethod
    def of(cls, content: Mapping[str, Any], source: str = "", *, quick: bool = False, name: str = "study") -> Study:
        """The study that a TOML document holds; arguments and errors as `load`."""
        _check_keys(content, _TOP, name)
        _check_overlays(content, name)
        base: dict[str, Any] = {"settings": {}, "grid": []}
        for overlay in (content, content.get("quick", {}) if quick else {}):
            _lay(base, overlay)
            _lay(base, overlay.get("on", {}).get(source, {}))
        grid = tuple(base["grid"])
        if not grid:
            raise ValueError(f"{name} has no [[grid]]: give at least one, such as method = 'full'")
        target = content.get("target")
        if target is not None:
            Quality.parse(target)
        return cls(content.get("title", name), content.get("about", ""), target, base["settings"], grid)

    def requests(self, schema: Schema) -> list[Request]:
        """Every run that the grid asks for on data with this schema, in the order of the grid, none twice.

        Raises:
            ValueError: for a setting, spec string, model or optimiser that cannot be.
        """
        found: dict[str, Request] = {}
        for entry in self.grid:
            for values in _product(_merge(self.settings, entry)):
                request = _request(values, schema)
                found.setdefault(request.name(), request)
        # Seeds outermost: an unfinished study has all methods at few seeds rather than few methods at all seeds.
        return sorted(found.values(), key=lambda request: request.config.seed)


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
    """Refuse what is misspelt or no table, also where this data and this size do not read it."""
    layers = {name: content}
    if "quick" in content:
        layers[f"{name}: quick"] = content["quick"]
    for where, layer in list(layers.items()):
        if where != name:
            _check_keys(layer, _OVERLAY, where)
        on = layer.get("on", {})
        _check_keys(on, set(on), f"{where}: on")
        for source, overlay in on.items():
            _check_keys(overlay, _OVERLAY, f"{where}: on.{source}")
            layers[f"{where}: on.{source}"] = overlay
    for where, layer in layers.items():
        grid = layer.get("grid", [])
        if not isinstance(grid, list):
            raise ValueError(f"{where}: grid must be a list of tables, each under [[grid]]")  # noqa: TRY004
        for entry in (layer.get("settings", {}), *grid):
            _check_keys(entry, _CONFIG | set(EXTRA), where)


def _check_keys(table: Any, known: set[str], where: str) -> None:
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: {table!r} must be a table")  # noqa: TRY004  (the user's mistake)
    for key in table:
        if key not in known:
            raise ValueError(
                f"{where} has no setting {key!r}{nearest(key, known)}; settings: {', '.join(sorted(known))}"
            )


def _product(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One table of single values for every combination of the lists in `values`."""
    options = values.get("option", {})
    axes: dict[str, Any] = {key: value for key, value in values.items() if key not in ("option", "model_options")}
    axes |= {f"option.{key}": value for key, value in options.items()}
    lists = [value if isinstance(value, list) else [value] for value in axes.values()]
    for combination in itertools.product(*lists):
        single = dict(zip(axes, combination, strict=True))
        chosen = {key: single.pop(f"option.{key}") for key in options}
        yield {**single, "option": chosen, "model_options": values.get("model_options", {})}


def _request(values: dict[str, Any], schema: Schema) -> Request:
    """The run that single values ask for."""
    options, looks = values.pop("option"), values.pop("looks", None)
    if isinstance(values.get("lr"), dict):
        values["lr"] = values["lr"].get(values.get("optimizer", "amsgrad"))
    variant = Variant(values.pop("id_order", "prepared"), values.get("seed", 0), values.pop("train_rows", None))
    series = values.get("method", "full")
    extra = ",".join(f"{key}={_word(value)}" for key, value in options.items())
    if extra:
        values["method"] = f"{series}{',' if ':' in series else ':'}{extra}"
    values["method"] = str(parse(values.get("method", "full")))
    sizes = values.pop("model_options").get(values.get("model", "dlrm"), {})
    values["model_options"] = {key: tuple(size) if isinstance(size, list) else size for key, size in sizes.items()}
    try:
        config = Config(data="", **values)
    except TypeError as error:
        raise ValueError(f"a setting has a value of the wrong type ({error})") from error
    _check_model(config)
    if looks is not None:
        rows = variant.rows(schema)
        steps = -(-rows // config.batch_size) * config.epochs
        config = Config(**{**vars(config), "eval_every": max(1, -(-steps // looks))})
    return Request(config, variant, series=in_storage(series, config.storage), size=_size(config, extra))


def _check_model(config: Config) -> None:
    known = model_options(config.model)
    for option in config.model_options:
        if option not in known:
            raise ValueError(f"model {config.model!r} has no option {option!r}{nearest(option, known)}")


def _size(config: Config, options: str) -> str:
    """What was asked of the size, in a word."""
    words = [options] if options else []
    if config.compression is not None:
        words.append(f"{config.compression:g}x")
    if config.budget is not None:
        words.append(show_bytes(config.budget))
    return " ".join(words)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
