"""What comes with an extra, `pip install 'tablefold[data]'`: where it is missing, one line says how to get it."""

from __future__ import annotations

from importlib.util import find_spec


class MissingExtraError(ModuleNotFoundError, ValueError):
    """A package that an extra brings is not installed."""


def require_data() -> None:
    """Refuse to go on without what click logs need; errors as `require`."""
    require("click logs need", "data", "polars", "pyarrow")


def installed(*modules: str) -> bool:
    """Whether all of these can be imported; none of them is."""
    return all(find_spec(name) is not None for name in modules)


def require(what: str, extra: str, *modules: str) -> None:
    """Refuse to go on without these modules.

    Args:
        what: cannot be done without them, with its verb, such as "click logs need".
        extra: that brings them.
        modules: by the names they are imported by.

    Raises:
        MissingExtraError: names those that are missing, and the extra.

    Example:
        >>> require("numbers need", "data", "numpy")
        >>> require("dreams need", "sleep", "numpy", "a_bed")
        Traceback (most recent call last):
        tablefold.extras.MissingExtraError: dreams need a_bed: pip install 'tablefold[sleep]'
    """
    missing = [name for name in modules if not installed(name)]
    if missing:
        raise MissingExtraError(f"{what} {', '.join(missing)}: pip install 'tablefold[{extra}]'")
