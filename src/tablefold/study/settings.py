"""The settings of a study's runs: which there are, what each may be, and the run that single values ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tablefold.data import Schema
from tablefold.formats import FP32, in_format
from tablefold.method import parse
from tablefold.models import all_models, model_options
from tablefold.quoting import quoted
from tablefold.spec import nearest
from tablefold.study.request import UNPLANNED, Request
from tablefold.study.variant import Variant
from tablefold.tables import show_bytes
from tablefold.train.config import Config
from tablefold.train.loop import choose_device
from tablefold.train.optimizer import OPTIMIZERS, build_optimizer
from tablefold.train.precision import check_precision

EXTRA = {
    "option": "table of options that every spec string of the entry gets",
    "looks": "evaluations on the validation part, spread evenly over the run",
    "id_order": "prepared (as the data is), frequency, permuted (by the run's seed) or first (appearance)",
    "train_rows": "train on the first rows of the training part only; the other parts shrink with it",
}
"""Settings of a study beside the fields of a run's config, and what they mean."""

SETTINGS = {field.name for field in fields(Config)} - {"data"} | set(EXTRA)
"""The names of all settings."""

_TABLES = ("option", "model_options")
_LARGEST = 2**63
_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def check_settings(values: Mapping[str, Any], where: str) -> None:
    """Refuse a name that is no setting, a value of the wrong type, and a list without values.

    Args:
        values: as in a study's file: a list is an axis.
        where: they stand, for the error.

    Raises:
        ValueError: names the setting, its value, and what it may be.
    """
    check_names(values, SETTINGS, where)
    for name in _TABLES:
        check_names(values.get(name, {}), None, f"{where}: {name}")
    _check_model_options(values.get("model_options", {}), where)
    single = {name: value for name, value in values.items() if name not in _TABLES}
    rates = single.get("lr")
    if isinstance(rates, Mapping):
        check_names(rates, OPTIMIZERS, f"{where}: lr")
        single["lr"] = list(rates.values())
    for name, value in single.items():
        _check_axis(name, value, _types(name), where)
    for name, value in values.get("option", {}).items():
        _check_axis(f"option.{name}", value, (bool, int, float, str), where)


def check_names(table: Any, known: Iterable[str] | None, where: str) -> None:
    """Refuse what is no table, and a name in it that is not known; None knows every name."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} must be a table, not {quoted(table)}")  # noqa: TRY004  (the user's mistake)
    for key in table:
        if known is not None and key not in known:
            raise ValueError(
                f"{where} has no setting {quoted(key)}{nearest(key, list(known))}; settings: {', '.join(sorted(known))}"
            )


def make_request(values: Mapping[str, Any], schema: Schema) -> Request:
    """The run that single values of checked settings ask for, on data with this schema.

    Raises:
        ValueError: for a spec string, model, optimiser, number or device that cannot be.
    """
    values = dict(values)
    options, looks = values.pop("option", {}), values.pop("looks", None)
    if isinstance(values.get("lr"), dict):
        values["lr"] = values["lr"].get(values.get("optimizer", "amsgrad"))
    variant = Variant(values.pop("id_order", "prepared"), values.get("seed", 0), values.pop("train_rows", None))
    series = values.get("method", "full")
    extra = ",".join(f"{key}={_word(value)}" for key, value in options.items())
    if extra:
        values["method"] = f"{series}{',' if ':' in series else ':'}{extra}"
    values["method"] = str(parse(values.get("method", "full")))
    sizes = values.pop("model_options", {}).get(values.get("model", "dlrm"), {})
    values["model_options"] = {key: tuple(size) if isinstance(size, list) else size for key, size in sizes.items()}
    if not {"compression", "budget"} & values.keys():  # nothing is left to a plan
        values = {**UNPLANNED, **values}
    config = Config(data="", **values)
    _check_config(config, schema)
    if looks is not None:
        if looks < 1:
            raise ValueError(f"looks={looks} must be at least 1")
        steps = -(-variant.rows(schema) // config.batch_size) * config.epochs
        config = Config(**{**vars(config), "eval_every": max(1, -(-steps // looks))})
    return Request(config, variant, series=in_format(series, config.storage or FP32.name), size=_size(config, extra))


def _check_config(config: Config, schema: Schema) -> None:
    """Refuse, before anything is written, what a run would refuse in its first second.

    Sizes that the tables do not allow are no mistake: such a run is recorded as impossible.
    """
    import torch
    from torch.nn import Parameter

    schema.table_specs(config.dim)
    model_options(config.model)
    build_optimizer(config.optimizer, [Parameter(torch.zeros(1))], config.lr)
    check_precision(config.precision, choose_device(config.device))


def _check_model_options(models: Mapping[str, Any], where: str) -> None:
    """Refuse options that their model does not have, also of models that no run uses."""
    for model, options in models.items():
        if model not in all_models():
            raise ValueError(f"{where}: unknown model {quoted(model)}{nearest(model, all_models())} in model_options")
        check_names(options, None, f"{where}: model_options.{model}")
        known = model_options(model)
        for option, value in options.items():
            if option not in known:
                raise ValueError(f"{where}: model {model!r} has no option {quoted(option)}{nearest(option, known)}")
            name, several = f"model_options.{model}.{option}", isinstance(known[option], tuple)
            if several and not isinstance(value, list):
                raise ValueError(f"{where}: {name} is {quoted(value)}; it must be a list of whole numbers")
            least = int(several)  # a layer has at least one float; a rank of 0 is none
            for width in value if several else [value]:
                _check_type(name, width, (int,), where)
                if width < least:
                    raise ValueError(f"{where}: {name} is {quoted(value)}; it must be {least} or more")


def _check_axis(name: str, value: Any, kinds: tuple[type, ...], where: str) -> None:
    """Refuse a value, or a value of a list, that is of none of these types."""
    if value == []:
        raise ValueError(f"{where}: {name} is an empty list, so that there is nothing to run")
    for one in value if isinstance(value, list) else [value]:
        _check_type(name, one, kinds, where)


def _check_type(name: str, value: Any, kinds: tuple[type, ...], where: str) -> None:
    kind = type(value)
    if kind in kinds or (kind is int and float in kinds):
        if kind is int and abs(value) >= _LARGEST:
            raise ValueError(f"{where}: {name} is {quoted(value)}; it must lie below 2^63")
        if kind is not float or math.isfinite(value):
            return
    raise ValueError(f"{where}: {name} is {quoted(value)}; it must be {' or '.join(_WORDS[kind] for kind in kinds)}")


def _types(name: str) -> tuple[type, ...]:
    """The types that a single value of a setting may have."""
    if name in EXTRA:
        return (str,) if name == "id_order" else (int,)
    hint = get_type_hints(Config)[name]
    if get_origin(hint) is Literal:
        return (str,)
    return tuple(kind for kind in get_args(hint) if kind is not type(None)) or (hint,)


def _size(config: Config, options: str) -> str:
    """What was asked of the size, in a word."""
    words = [options] if options else []
    if config.compression is not None:
        words.append(f"{config.compression:g}x")
    if config.budget is not None:
        words.append(show_bytes(config.budget))
    if config.with_pointers:
        words.append("with pointers")
    return " ".join(words)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
