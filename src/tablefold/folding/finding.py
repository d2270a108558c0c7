"""The tables of a model: every weight that `nn.Embedding` and `nn.EmbeddingBag` modules read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tablefold.nn import Folded
from tablefold.tables import TableSpec

Weights = Literal["keep", "new"]
"""Take trained weights over, or start afresh."""

Ids = Literal["stored", "renumber"]
"""Keep the numbers of ids, and store and count what is known of each; or give them new ones, which say it for free."""

Choice = str | Sequence[str] | Callable[[str, nn.Module], bool] | None
"""Tables by a pattern of their modules' names (`user*`), several, or a function of name and module."""

TableModule = nn.Embedding | nn.EmbeddingBag


@dataclass(frozen=True, eq=False)
class Table:
    """A weight, and the modules that read it.

    Args:
        weight: it.
        readers: each module, and its names in the model: one, or several where it is shared.
    """

    weight: torch.Tensor
    readers: tuple[tuple[TableModule, tuple[str, ...]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all its modules."""
        return tuple(name for _, names in self.readers for name in names)

    @property
    def spec(self) -> TableSpec:
        """Named as its first module."""
        return TableSpec(self.names[0], *self.weight.shape)

    @property
    def padding(self) -> int | None:
        """The id of which its modules make a padding; the first, where they differ."""
        return next((module.padding_idx for module, _ in self.readers if module.padding_idx is not None), None)

    @property
    def num_bytes(self) -> int:
        """Of the weight, in its type."""
        return self.weight.numel() * self.weight.element_size()


@dataclass(frozen=True)
class LeftAlone:
    """A table that is not folded.

    Args:
        names: of its modules.
        num_bytes: of its weight; 0 where it has none yet.
        reason: why.
    """

    names: tuple[str, ...]
    num_bytes: int
    reason: str


def find_tables(
    model: nn.Module, weights: Weights = "keep", only: Choice = None, skip: Choice = None
) -> tuple[list[Table], list[LeftAlone]]:
    """The tables of a model that can be folded, and those that are left alone, each in the model's order.

    Args:
        model: any; nothing of it is changed.
        weights: whether trained weights are wanted.
        only, skip: tables of which a module has a name that fits.

    Raises:
        ValueError: where there is none to fold, or a pattern fits none.
    """
    tables = _all_tables(model)
    if not tables:
        raise ValueError(f"{type(model).__name__} has no nn.Embedding or nn.EmbeddingBag: there is nothing to fold")
    for what, choice in (("only", only), ("skip", skip)):
        _check_choice(what, choice, tables)
    owners, found, left = _owners(model), [], []
    for table in tables:
        chosen = (only is None or _fits(only, table)) and not (skip is not None and _fits(skip, table))
        reason = next(_reasons(table, weights, owners), None) if chosen else "as asked"
        if reason is None:
            found.append(table)
        else:
            left.append(LeftAlone(table.names, 0 if is_lazy(table.weight) else table.num_bytes, reason))
    if not found:
        reasons = "; ".join(f"{each.names[0]}: {each.reason}" for each in left[:3])
        raise ValueError(f"{type(model).__name__} has no table that can be folded ({reasons})")
    return found, left


def _all_tables(model: nn.Module) -> list[Table]:
    names: dict[TableModule, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and not isinstance(module, Folded):
            names.setdefault(module, []).append(name)
    readers: dict[int, list[tuple[TableModule, tuple[str, ...]]]] = {}
    for reader, known in names.items():
        readers.setdefault(_storage(reader.weight), []).append((reader, tuple(known)))
    return [Table(each[0][0].weight, tuple(each)) for each in readers.values()]


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """By the storage of a parameter or buffer the modules that have it, and its full names."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and not is_lazy(tensor):
                owners.setdefault(_storage(tensor), []).append((module, f"{prefix}.{name}".removeprefix(".")))
    return owners


def _storage(tensor: torch.Tensor) -> int:
    """What tensors of one memory have in common."""
    if not _is_plain(tensor):
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it is an array in memory, not one that is sharded, quantised or not there yet."""
    kind: type = type(tensor) if is_lazy(tensor) else type(tensor.detach())
    return kind is torch.Tensor


def _reasons(table: Table, weights: Weights, owners: dict[int, list[tuple[nn.Module, str]]]) -> Iterator[str]:
    """Why a table cannot be folded; nothing where it can."""
    weight, modules = table.weight, {module for module, _ in table.readers}
    for module in modules:
        yield from _reasons_of(module)
    if is_lazy(weight):
        yield "it is not built yet: run the model once before the fold"
        return
    if not _is_plain(weight):
        yield f"its weight is a {type(weight.detach()).__name__}: fold before it is sharded or quantised"
    others = [name for module, name in owners[_storage(weight)] if module not in modules]
    if others:
        yield f"its weight is tied to {others[0]}"
    if any(module.weight.shape != weight.shape for module in modules):
        yield "modules read different parts of its weight"
    if not weight.is_floating_point():
        yield f"its weight is {weight.dtype}"
    if "" in table.names:
        yield "it is the model itself: take tablefold.Embedding, or fold the model that it goes into"
    if weights == "keep" and weight.is_meta:
        yield "it is on meta and has no weights to keep: take weights='new'"
    if weights == "new" and not weight.requires_grad:
        yield "it is frozen and would never learn: take weights='keep'"


def _reasons_of(module: TableModule) -> Iterator[str]:
    kind = nn.Embedding if isinstance(module, nn.Embedding) else nn.EmbeddingBag
    if "weight" not in module._parameters:
        yield "its weight is computed by a parametrization: remove that first"
    elif type(module).forward is not kind.forward:
        yield f"{type(module).__name__} has a forward of its own"
    if module.max_norm is not None:
        yield f"max_norm={module.max_norm:g} changes single rows, which a folded table's ids share"
    if module.scale_grad_by_freq:
        yield "scale_grad_by_freq changes single rows, which a folded table's ids share"


def _check_choice(what: str, choice: Choice, tables: Sequence[Table]) -> None:
    for pattern in _patterns(choice):
        if not any(_fits(pattern, table) for table in tables):
            known = ", ".join(table.names[0] for table in tables[:10])
            raise ValueError(f"{what}={pattern!r} fits the name of no table: {known}{' ...' * (len(tables) > 10)}")


def _patterns(choice: Choice) -> Sequence[str]:
    if choice is None or callable(choice):
        return ()
    return [choice] if isinstance(choice, str) else list(choice)


def _fits(choice: Choice, table: Table) -> bool:
    if callable(choice):
        return any(choice(name, module) for module, names in table.readers for name in names)
    return any(fnmatchcase(name, pattern) for name in table.names for pattern in _patterns(choice))
