"""torch-rechub (datawhalechina/torch-rechub): features keep the table that was made for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from torch import nn

from tablefold.folding.host import Host


class TorchRecHub(Host):
    """A feature's `embed` is what the next model that is built of the feature gets."""

    name: ClassVar[str] = "torch_rechub"

    def mend(self, model: nn.Module, replaced: Mapping[int, Sequence[nn.Parameter]]) -> Iterator[str]:
        """Features remember the drop-in in place of the old table."""
        for module in model.modules():
            if not self.is_of(module, "EmbeddingLayer"):
                continue
            tables = module.get_submodule("embed_dict")
            for feature in getattr(module, "features", ()):
                old, new = getattr(feature, "embed", None), tables._modules.get(feature.name)
                if old is not None and new is not None and id(getattr(old, "weight", None)) in replaced:
                    feature.embed = new
        yield "torch-rechub: make the trainer after the fold, which makes the optimiser"
