"""JSON as tablefold writes it, and reads it back.

What is written is strict: NaN becomes null. What is read is trusted in nothing: a file has at most so many bytes, is
nested at most so deep, names no field twice and holds no number that is not finite; and every value is asked for by the
type it must have:

    content = load_json(folder / "config.json")
    content["tables"][0]["rows"].integer(least=1)
    content["lr"].optional(JsonValue.number, None)
    content["asked"].into(Config)               # a dataclass, by the types of its fields

Whatever does not fit is a `ValueError` of one line that names the file and the field, what stands there and what must.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from tablefold.quoting import one_line, quoted

LARGEST_FILE = 16 << 20
"""Bytes of a JSON file that is read, unless the reader says otherwise."""

DEEPEST = 64
"""How many lists and objects may stand inside each other."""

_MISSING = object()
_T = TypeVar("_T")
_D = TypeVar("_D")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an indented JSON file."""
    path.write_text(show_json(content) + "\n", encoding="utf-8")


def show_json(content: Mapping[str, Any]) -> str:
    """Indented JSON."""
    return json.dumps(strict(content), indent=2, allow_nan=False)


def strict(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def load_json(path: Path, limit: int = LARGEST_FILE) -> JsonValue:
    """Read a JSON file.

    Args:
        path: the file.
        limit: bytes that it may have.

    Raises:
        ValueError: when it is missing, no file, larger than `limit`, no JSON, nested deeper than `DEEPEST`, names a
            field of an object twice, or holds NaN or an infinite number.
    """
    return parse_json(read_bounded(path, limit), str(path))


def read_bounded(path: Path, limit: int) -> bytes:
    """All bytes of a file that has at most `limit`.

    Raises:
        ValueError: when it is missing, no file, or larger.
    """
    try:
        # A pipe in the place of a file must not keep the reader waiting for somebody who writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"{path} is missing or damaged (it is no file)")
            content = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path} is missing or damaged ({error.strerror or error})") from error
    if len(content) > limit:
        raise ValueError(f"{path} is damaged: it has more than {limit:,} bytes, the most that is read of such a file")
    return content


def parse_json(text: str | bytes, where: str) -> JsonValue:
    """Parse JSON that stands in a file, a line or an entry that errors call `where`.

    Raises:
        ValueError: as `load_json`.

    >>> parse_json('{"rows": [3, "4"]}', "schema.json")["rows"][1].integer(least=1)
    Traceback (most recent call last):
    ValueError: schema.json: rows[1] is '4'; it must be an integer of at least 1
    """
    try:
        content = json.loads(
            text if isinstance(text, str) else text.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        _check_depth(content)
    except RecursionError:
        raise ValueError(f"{where} is damaged: it is nested deeper than {DEEPEST} levels") from None
    except ValueError as error:  # no UTF-8, no JSON, or one of ours
        raise ValueError(f"{where} is missing or damaged ({one_line(str(error), 200)})") from error
    return JsonValue(content, where, "")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object as it is, its fields unchecked.

    Raises:
        ValueError: as `load_json`, and when it holds no object.
    """
    content = load_json(path)
    content.fields()
    plain: dict[str, Any] = content.plain
    return plain


@dataclasses.dataclass(frozen=True)
class JsonValue:
    """A value in a JSON file, and where it stands: every method gives it as one type, or says why not.

    Args:
        plain: the value as Python has it; unchecked.
        file: what errors call the file.
        place: where it stands in the file, such as "tables[3].rows"; empty for the whole.
    """

    plain: Any
    file: str
    place: str

    def __getitem__(self, key: str | int) -> JsonValue:
        """A field of an object or an item of a list; one that is missing is refused by whoever asks for its type."""
        if isinstance(key, int):
            if not isinstance(self.plain, list):
                self.refuse("a list")
            item = self.plain[key] if key < len(self.plain) else _MISSING
            return JsonValue(item, self.file, f"{self.place}[{key}]")
        if not isinstance(self.plain, dict):
            self.refuse("an object")
        return self._at(key, self.plain.get(key, _MISSING))

    def fields(self) -> dict[str, JsonValue]:
        """The fields of an object, by name."""
        if not isinstance(self.plain, dict):
            self.refuse("an object")
        return {key: self._at(key, value) for key, value in self.plain.items()}

    def items(self, most: int | None = None) -> list[JsonValue]:
        """The items of a list, of which there are at most `most`."""
        if not isinstance(self.plain, list) or (most is not None and len(self.plain) > most):
            self.refuse("a list" if most is None else f"a list of at most {most:,}")
        return [JsonValue(item, self.file, f"{self.place}[{number}]") for number, item in enumerate(self.plain)]

    def text(self) -> str:
        """Text, as UTF-8 can hold it; bytes of a path that are none may stand in it as Python stands for them."""
        if not isinstance(self.plain, str):
            self.refuse("text")
        try:
            self.plain.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            self.refuse("text, without halves of surrogate pairs")
        return self.plain

    def integer(self, least: int | None = None, most: int | None = None) -> int:
        """An integer from `least` to `most`."""
        value = self.plain
        if isinstance(value, bool) or not isinstance(value, int) or _outside(value, least, most):
            self.refuse(_bounded("an integer", least, most))
        return value

    def number(self, least: float | None = None, most: float | None = None) -> float:
        """A finite number from `least` to `most`; an integer will do."""
        try:
            value = math.nan if isinstance(self.plain, bool) else float(self.plain + 0)
        except (TypeError, OverflowError):
            value = math.nan
        if not math.isfinite(value) or _outside(value, least, most):
            self.refuse(_bounded("a finite number", least, most))
        return value

    def flag(self) -> bool:
        """true or false."""
        if not isinstance(self.plain, bool):
            self.refuse("true or false")
        return self.plain

    def choice(self, choices: Iterable[str]) -> str:
        """One of some words."""
        choices = tuple(choices)
        if not isinstance(self.plain, str) or self.plain not in choices:
            self.refuse(f"one of {', '.join(choices)}")
        return self.plain

    def optional(self, read: Callable[[JsonValue], _T], default: _D) -> _T | _D:
        """What `read` makes of it; `default` where the field is missing or null.

        >>> parse_json('{"lr": null}', "config.json")["lr"].optional(JsonValue.number, 0.5)
        0.5
        """
        return default if self.plain is _MISSING or self.plain is None else read(self)

    def into(self, kind: type[_T], *, complete: bool = False) -> _T:
        """The dataclass `kind`, its fields read by their types.

        Args:
            kind: a dataclass whose fields are text, numbers, flags, Literals, lists, tuples, dicts or dataclasses.
            complete: refuse a missing field that has a default, too.

        Raises:
            ValueError: for a field of another type, a missing or an unknown one, or what `kind` itself refuses.
        """
        values = self.values_of(kind, complete=complete)
        self.refuse_unknown(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
        with self.naming():
            return kind(**values)

    def values_of(self, kind: type[Any], *, complete: bool = False) -> dict[str, Any]:
        """What the fields of the dataclass `kind` are here, each of its type; arguments and errors as of `into`."""
        hints, values = get_type_hints(kind), {}
        for field in dataclasses.fields(kind):
            given = self[field.name]
            optional = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
            if given.plain is not _MISSING or complete or not optional:
                values[field.name] = given._of_type(hints[field.name])
        return values

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Name the file and the place in every `ValueError` that the block raises."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self._where()}: {one_line(str(error), 400)}") from error

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Refuse an object that has a field beside the `known` ones."""
        known = set(known)
        for name, value in self.fields().items():
            if name not in known:
                raise ValueError(f"{self.file}: {value.place} is unknown to this version of tablefold")

    def refuse(self, wanted: str) -> NoReturn:
        """Say that something else must stand here: `wanted`.

        Raises:
            ValueError: always.
        """
        found = "is missing" if self.plain is _MISSING else f"is {quoted(self.plain)}"
        raise ValueError(f"{self._where()} {found}; it must be {wanted}")

    def _of_type(self, hint: Any) -> Any:
        """The value as an annotation says."""
        kind, arguments = get_origin(hint) or hint, get_args(hint)
        if kind in (Union, types.UnionType):
            return self._of_one(arguments)
        if kind is Literal:
            return self.choice(arguments)
        if kind is tuple:
            return self._tuple(arguments)
        if kind is list:
            return [item._of_type(arguments[0]) for item in self.items()]
        if kind is dict:
            return {key: value._of_type(arguments[1]) for key, value in self.fields().items()}
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return self.into(kind)
        simple: dict[Any, Callable[[JsonValue], Any]] = {
            str: JsonValue.text,
            int: JsonValue.integer,
            float: JsonValue.number,
            bool: JsonValue.flag,
            Any: lambda value: value.plain,
        }
        return simple[kind](self)

    def _tuple(self, hints: tuple[Any, ...]) -> tuple[Any, ...]:
        """The list as `tuple[int, ...]`, or `tuple[int, float]`, says."""
        items = self.items()
        if hints[-1] is not Ellipsis and len(items) != len(hints):
            self.refuse(f"a list of {len(hints)}")
        each = [hints[0]] * len(items) if hints[-1] is Ellipsis else hints
        return tuple(item._of_type(hint) for item, hint in zip(items, each, strict=True))

    def _of_one(self, alternatives: tuple[Any, ...]) -> Any:
        """The value as the first annotation that it fits; the refusal is that of the last."""
        rest = [hint for hint in alternatives if hint is not type(None)]
        if self.plain is None and len(rest) < len(alternatives):
            return None
        for hint in rest[:-1]:
            try:
                return self._of_type(hint)
            except ValueError:
                continue
        return self._of_type(rest[-1])

    def _at(self, key: str, value: Any) -> JsonValue:
        name = one_line(key, 60) if key.isidentifier() else quoted(key)
        return JsonValue(value, self.file, f"{self.place}.{name}" if self.place else name)

    def _where(self) -> str:
        return f"{self.file}: {one_line(self.place, 200)}" if self.place else f"{self.file}: the whole"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names the field {quoted(twice)} twice")
    return content


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {one_line(text, 60)}, which no float holds")
    return value


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        if depth > DEEPEST:
            raise RecursionError
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]


def _outside(value: float, least: float | None, most: float | None) -> bool:
    return (least is not None and value < least) or (most is not None and value > most)


def _bounded(what: str, least: float | None, most: float | None) -> str:
    if least is not None and most is not None:
        return f"{what} from {least:,} to {most:,}"
    if least is not None:
        return f"{what} of at least {least:,}"
    return what if most is None else f"{what} of at most {most:,}"
