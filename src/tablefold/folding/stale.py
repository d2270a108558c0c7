"""Optimisers that were made before a fold hold tables that are no longer in the model, and never move what replaced
them. They are noticed when they step."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook


def watch(replaced: Mapping[str, tuple[torch.Tensor, nn.Module]]) -> None:
    """Refuse, for as long as an old weight lives, the steps of optimisers that hold it and not what replaced it.

    Args:
        replaced: by the name of a table its old weight and the group that stands for it now.
    """
    old = {name: (weakref.ref(weight), weakref.ref(group)) for name, (weight, group) in replaced.items()}

    def refuse(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        held = {id(parameter) for each in optimizer.param_groups for parameter in each["params"]}
        for name, (weight, group) in old.items():
            now, memory = weight(), group()
            if now is None or memory is None or id(now) not in held:
                continue
            if not any(id(parameter) in held for parameter in memory.parameters()):
                raise ValueError(
                    f"this {type(optimizer).__name__} was made before the fold: it moves the old table {name!r}, which "
                    "is in the model no longer, and not the memory that replaced it; make the optimiser after the fold"
                )

    handle = register_optimizer_step_pre_hook(refuse)

    def forget(name: str) -> None:
        old.pop(name, None)
        if not old:
            handle.remove()

    for name, (weight, _) in replaced.items():
        weakref.finalize(weight, forget, name).atexit = False
