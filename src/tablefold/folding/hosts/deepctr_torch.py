"""DeepCTR-Torch (shenweichen/DeepCTR-Torch): models keep a list of the weights that they regularise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from torch import nn

from tablefold.folding.host import Host, exchanged


class DeepCTR(Host):
    """`regularization_weight` of a model would keep the old tables alive, and regularise them."""

    name: ClassVar[str] = "deepctr_torch"

    def mend(self, model: nn.Module, replaced: Mapping[int, Sequence[nn.Parameter]]) -> Iterator[str]:
        """The list, with what replaced tables; `compile` is to be called again."""
        for module in model.modules():
            lists = getattr(module, "regularization_weight", None)
            if isinstance(lists, list):
                module.regularization_weight = [(exchanged(each, replaced), l1, l2) for each, l1, l2 in lists]  # type: ignore[assignment]
            if self.is_of(module, "BaseModel") and hasattr(module, "optim"):
                yield "DeepCTR-Torch: call model.compile(...) again, which makes the optimiser"
