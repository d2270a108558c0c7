"""FuxiCTR (reczoo/FuxiCTR): models make their optimiser when they are built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from torch import nn

from tablefold.folding.host import Host


class FuxiCTR(Host):
    """Models are subclasses of `BaseModel`, whose regulariser goes by modules and finds what replaced tables."""

    name: ClassVar[str] = "fuxictr"

    def mend(self, model: nn.Module, replaced: Mapping[int, Sequence[nn.Parameter]]) -> Iterator[str]:
        """What is to be done again."""
        if any(self.is_of(module, "BaseModel") and hasattr(module, "optimizer") for module in model.modules()):
            yield "FuxiCTR: call model.compile(optimizer, loss, lr) again, which makes the optimiser"
