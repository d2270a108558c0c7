"""Click models: from dense columns and any group's vectors to a logit. They know no method.

| name     | what it computes from the vectors             | options                             |
|----------|-----------------------------------------------|-------------------------------------|
| `dlrm`   | dot products of all pairs, then an MLP        | bottom_mlp, top_mlp                 |
| `dcn`    | cross layers beside a deep MLP                | deep_mlp, cross_layers              |
| `dcn_v2` | matrix cross layers, then a deep MLP          | deep_mlp, cross_layers, cross_rank  |
| `neumf`  | the vectors and their product into an MLP     | top_mlp                             |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from tablefold.method import EmbeddingGroup
from tablefold.models.dcn import DCN
from tablefold.models.dcn_v2 import DCNv2
from tablefold.models.dlrm import DLRM
from tablefold.models.network import Network
from tablefold.models.neumf import NeuMF

__all__ = ["DCN", "DLRM", "DCNv2", "Network", "NeuMF", "all_models", "build_model", "model_options"]


def all_models() -> dict[str, type[Network]]:
    """Every model by its name.

    >>> sorted(all_models())
    ['dcn', 'dcn_v2', 'dlrm', 'neumf']
    """
    return {model.name: model for model in (DLRM, DCN, DCNv2, NeuMF)}


def model_options(name: str) -> dict[str, Any]:
    """The options of a model and their defaults.

    Raises:
        ValueError: for an unknown name; it lists the models.

    >>> model_options("dcn")
    {'deep_mlp': (512, 256, 64), 'cross_layers': 6}
    """
    models = all_models()
    if name not in models:
        near = get_close_matches(name, models, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown model {name!r}; {hint}models are: {', '.join(sorted(models))}")
    parameters = inspect.signature(models[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed"}


def build_model(name: str, group: EmbeddingGroup, dense_columns: int = 13, *, seed: int = 0, **options: Any) -> Network:
    """The model `name` over `group`.

    Args:
        name: one of `all_models()`.
        group: any embedding group.
        dense_columns: width of the dense input; 0 for none.
        seed: of the network's start; the group has its own.
        options: sizes; what is left out keeps the paper's default.

    Raises:
        ValueError: for an unknown model or an option it does not have.
    """
    known = model_options(name)
    for option in options:
        if option not in known:
            raise ValueError(f"model {name!r} has no option {option!r}; it has: {', '.join(known)}")
    model: Callable[..., Network] = all_models()[name]
    return model(group, dense_columns, seed=seed, **options)
