"""What a host is: somebody's framework whose models hold their tables in more places than their modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tablefold.registry import Registry


class Host:
    """A framework whose models `fold` knows. What a fold does anyway is not its business.

    Subclasses set the class variables, and override what the framework needs; nothing of it is imported, for a model
    that is there has imported it.
    """

    name: ClassVar[str]
    """Of the package that its models come from."""

    @classmethod
    def is_of(cls, module: nn.Module, *names: str) -> bool:
        """Whether a module is of a class of this package; one of these, if some are named."""
        kinds = [kind for kind in type(module).__mro__ if kind.__module__.partition(".")[0] == cls.name]
        return any(not names or kind.__name__ in names for kind in kinds)

    def check(self, model: nn.Module) -> None:
        """Refuse, with `ValueError`, a model that cannot be folded as it is; before anything is changed."""

    def mend(self, model: nn.Module, replaced: Mapping[int, Sequence[nn.Parameter]]) -> Iterator[str]:
        """Put what replaced tables wherever the model holds them beside its modules; gives notes for the report.

        Args:
            model: whose tables are replaced.
            replaced: by the `id` of an old weight the parameters that stand for it now.
        """
        return iter(())


def _is_host(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Host) and "name" in vars(value)


HOSTS: Registry[type[Host]] = Registry("tablefold.folding.hosts", "host", _is_host)
"""Every host by its package's name: those of this package, and of others (see `tablefold.registry`)."""


def hosts_of(model: nn.Module) -> list[Host]:
    """The hosts of which a model has modules."""
    return [kind() for kind in HOSTS.values() if any(kind.is_of(module) for module in model.modules())]


def exchanged(weights: Sequence[Any], replaced: Mapping[int, Sequence[nn.Parameter]]) -> list[Any]:
    """A list of weights, with what stands for them in place of those that were replaced, each once.

    Args:
        weights: parameters, or pairs of a name and a parameter.
        replaced: as for `Host.mend`.
    """
    found: dict[int, Any] = {}
    for each in weights:
        own: Tensor = each[1] if isinstance(each, tuple) else each
        for parameter in replaced.get(id(own), ()):
            found.setdefault(id(parameter), parameter)
        if id(own) not in replaced:
            found[id(own)] = each
    return list(found.values())
