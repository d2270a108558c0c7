"""What is found by its name: methods, models, formats, exporters. Tablefold's own, and what other packages offer.

A package offers one by an entry point of its `pyproject.toml`, under the name that the class (or the format) has:

    [project.entry-points."tablefold.methods"]
    mine = "my_package.mine:Mine"

Nothing of it is imported before it is asked for by its name, or all are listed.

A kind of things is one line of its package: `HOSTS = Registry("tablefold.folding.hosts", "host", _is_host)` finds, by
its `name`, whatever `_is_host` takes, in the modules of that package and among the entry points of that name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, cast

from tablefold.quoting import one_line

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Things by their names, read once.

    Args:
        package: of tablefold; what is defined in its modules is found. Other packages offer theirs to the entry points
            of that name.
        what: the word for one of them, in errors.
        fits: whether an object of a module is one of them. It then has a `name`.
        group: the entry points' name, where it is not the package's.
    """

    def __init__(self, package: str, what: str, fits: Callable[[Any], bool], group: str | None = None) -> None:
        self._package, self._what, self._fits, self._group = package, what, fits, group or package
        self._loaded: dict[str, T] = {}

    @cached_property
    def _own(self) -> dict[str, T]:
        package = importlib.import_module(self._package)
        found: dict[str, T] = {}
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{self._package}.{info.name}")
            fitting = (cast(Any, value) for value in vars(module).values() if self._fits(value))
            found.update({value.name: value for value in fitting})
        return found

    @cached_property
    def _offered(self) -> dict[str, EntryPoint]:
        return {each.name: each for each in entry_points(group=self._group) if each.name not in self._own}

    def __getitem__(self, name: str) -> T:
        """What has that name.

        Raises:
            KeyError: where nothing has.
            ValueError: where another package offers it and it cannot be had.
        """
        if name in self._own:
            return self._own[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(self._offered[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._offered

    def __len__(self) -> int:
        return len(self._own) + len(self._offered)

    def _load(self, entry: EntryPoint) -> T:
        origin = f"{self._what} {entry.name!r} of the package {entry.dist.name if entry.dist else entry.value!r}"
        try:
            found = entry.load()
        except Exception as error:
            reason = one_line(f"{type(error).__name__}: {error}", 200)
            raise ValueError(f"{origin} cannot be imported ({reason}): mend or remove that package") from error
        if not self._fits(found) or getattr(found, "name", None) != entry.name:
            raise ValueError(f"{origin} is no {self._what} of that name: {entry.value}; mend or remove that package")
        return cast(T, found)
