"""TorchRec (pytorch/torchrec): collections of tables, which may be sharded or quantised."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from tablefold.folding.host import Host


class TorchRec(Host):
    """`EmbeddingBagCollection` and `EmbeddingCollection` call a module for each of their configs, which may be any that
    is called as torch's: KeyedJaggedTensor in, KeyedTensor out, as before. Tables that are spread over machines, or
    quantised, are no longer one array each."""

    name: ClassVar[str] = "torchrec"

    def check(self, model: nn.Module) -> None:
        """Refuse what is sharded or quantised."""
        for name, module in model.named_modules():
            for kind in type(module).__mro__:
                sharded = kind.__name__.startswith("Sharded") and kind.__module__.startswith("torchrec.distributed")
                if sharded or kind.__module__.startswith("torchrec.quant"):
                    what = "sharded" if sharded else "quantised"
                    raise ValueError(
                        f"{name or 'the model'} is a {kind.__name__}: fold the model before it is {what}, and give "
                        "DistributedModelParallel sharders=[], which copies it to every device"
                    )
