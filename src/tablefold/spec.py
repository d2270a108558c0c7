"""Spec strings: `name:option=value,option=value` for a frozen dataclass, read and written by its annotations."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

SHOWN = {"shown": True}
"""Metadata of a dataclass field that is always written, at its default too: it is part of what a reader calls it."""


REST = {"rest": True}
"""Metadata of a dataclass field of text that takes all that follows it, commas too: it comes last."""


def write(value: Any, name: str) -> str:
    """`name:option=value,...` with the options that differ from their default, and those that are always shown."""
    options = [
        f"{field.name}={_format(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if field.metadata.get("shown") or getattr(value, field.name) != field.default
    ]
    return name + (":" + ",".join(options) if options else "")


def read(kind: type[Any], name: str, options: str) -> dict[str, Any]:
    """The options of `kind` that the text `option=value,option=value` gives.

    Raises:
        ValueError: for an option that `kind` has not, one without a value, one given twice, or a value of another type.
    """
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for option, text in pairs(kind, options):
        check_names(kind, name, [option])
        if not text:
            raise ValueError(f"{name}: option {option!r} needs a value, as in {option}=...")
        if option in found:
            raise ValueError(f"{name}: option {option!r} is given twice")
        found[option] = _convert(text, hints[option], f"{name}: {option}={text}")
    return found


def pairs(kind: type[Any], options: str) -> Iterator[tuple[str, str]]:
    """The options of `kind` and their texts, in the text `option=value,option=value`; "" where one has none."""
    rest = {field.name for field in dataclasses.fields(kind) if field.metadata.get("rest")}
    while options:
        part, _, following = options.partition(",")
        option, _, text = part.partition("=")
        if option.strip() in rest:
            text, following = options.partition("=")[2], ""
        if part:
            yield option.strip(), text.strip()
        options = following


def check_names(kind: type[Any], name: str, options: Iterable[str]) -> None:
    """`ValueError` for an option that the dataclass `kind` has not, with the nearest it has."""
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option in getattr(kind, "retired", ()):
            raise ValueError(
                f"{name} has no option {option!r} since release 0.2: leave it out, or take release 0.1 for a model "
                "that was trained with it"
            )
        if option not in known:
            raise ValueError(
                f"{name} has no option {option!r}{nearest(option, known)}; options: {', '.join(known) or 'none'}"
            )


def nearest(word: str, known: Collection[str]) -> str:
    """` (did you mean 'x'?)` where something known is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_choice(name: str, option: str, value: object, choices: Collection[object]) -> None:
    """`ValueError` that lists the choices where `value` is none of them."""
    if value not in choices:
        raise ValueError(f"{name}: {option}={value} must be one of {', '.join(map(str, choices))}")


def describe(kind: type[Any]) -> list[tuple[str, str, str]]:
    """(option, type, default) of every option of the dataclass `kind`, as words."""
    hints = get_type_hints(kind)
    return [(field.name, _type_words(hints[field.name]), _format(field.default)) for field in dataclasses.fields(kind)]


def _format(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if value is None or value is dataclasses.MISSING:
        return "none"
    return str(value)


def _convert(text: str, hint: Any, context: str) -> Any:
    alternatives = _alternatives(hint)
    if type(None) in alternatives and text == "none":
        return None
    for alternative in alternatives:
        if alternative is not type(None):
            try:
                return _convert_one(text, alternative)
            except ValueError:
                continue
    raise ValueError(f"{context}: expected {_type_words(hint)}")


def _convert_one(text: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        if text in get_args(kind):
            return text
        raise ValueError(text)
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return tuple(_convert_one(piece, item) for piece in text.split("x"))
    if kind is bool:
        if text in ("true", "false"):
            return text == "true"
        raise ValueError(text)
    return kind(text.replace("_", "") if kind is not str else text)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _type_words(hint: Any) -> str:
    words = []
    for alternative in _alternatives(hint):
        if alternative is type(None):
            continue
        if get_origin(alternative) is Literal:
            words.append(" | ".join(get_args(alternative)))
        elif get_origin(alternative) is tuple:
            words.append("numbers joined by x, as in 30x40")
        else:
            words.append({bool: "true | false", int: "an integer", float: "a number", str: "text"}[alternative])
    return " or ".join(words)
