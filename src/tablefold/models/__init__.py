"""Click models: from dense columns and any group's vectors to a logit. They know no method.

| name        | what it computes from the vectors                       | options                            |
|-------------|---------------------------------------------------------|------------------------------------|
| `dlrm`      | dot products of all pairs, then an MLP                  | bottom_mlp, top_mlp                |
| `dcn`       | cross layers beside a deep MLP                          | deep_mlp, cross_layers             |
| `dcn_v2`    | matrix cross layers, then a deep MLP                    | deep_mlp, cross_layers, cross_rank |
| `deepfm`    | weights, dot products of all pairs, beside a deep MLP   | deep_mlp                           |
| `neumf`     | the vectors and their product into an MLP               | top_mlp                            |
| `two_tower` | the dot product of a user's and an item's tower         | user_mlp, item_mlp                 |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from tablefold.method import EmbeddingGroup
from tablefold.models.dcn import DCN
from tablefold.models.dcn_v2 import DCNv2
from tablefold.models.deepfm import DeepFM
from tablefold.models.dlrm import DLRM
from tablefold.models.network import Network
from tablefold.models.neumf import NeuMF
from tablefold.models.two_tower import TwoTower
from tablefold.quoting import one_line, quoted
from tablefold.registry import Registry
from tablefold.spec import nearest
from tablefold.tables import Column

__all__ = [
    "DCN",
    "DLRM",
    "DCNv2",
    "DeepFM",
    "Network",
    "NeuMF",
    "TwoTower",
    "all_models",
    "build_model",
    "check_options",
    "find_model",
    "model_options",
]


LARGEST_WIDTH = 1 << 16
"""Of a layer: the weights between two such layers take 17 GB."""

MOST_LAYERS = 1000


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Network) and "name" in vars(value)


_MODELS: Registry[type[Network]] = Registry("tablefold.models", "model", _is_model)


def all_models() -> Mapping[str, type[Network]]:
    """Every model by its name: those of this package, and of others (see `tablefold.registry`).

    >>> sorted(all_models())
    ['dcn', 'dcn_v2', 'deepfm', 'dlrm', 'neumf', 'two_tower']
    """
    return _MODELS


def find_model(name: str) -> type[Network]:
    """The model of that name.

    Raises:
        ValueError: for an unknown name; it lists the models.
    """
    models = all_models()
    if name not in models:
        near = get_close_matches(name, models, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown model {quoted(name)}; {hint}models are: {', '.join(sorted(models))}")
    return models[name]


def model_options(name: str) -> dict[str, Any]:
    """The options of a model and their defaults.

    Raises:
        ValueError: for an unknown name; it lists the models.

    >>> model_options("dcn")
    {'deep_mlp': (512, 256, 64), 'cross_layers': 6}
    """
    parameters = inspect.signature(find_model(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("columns", "seed")}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse sizes that the model `name` does not have, or that no model can have.

    Raises:
        ValueError: says which, and what it may be.

    >>> check_options("neumf", {"top_mlp": [64, 0]})
    Traceback (most recent call last):
    ValueError: top_mlp=[64, 0] must be a list of integers from 1 to 65,536
    """
    known = model_options(name)
    for option, value in options.items():
        if option not in known:
            near = nearest(option, known)
            raise ValueError(f"model {name!r} has no option {quoted(option)}{near}; it has: {', '.join(known)}")
        widths = value if isinstance(value, (list, tuple)) else [value]
        least = 1 if isinstance(known[option], Sequence) else 0
        if isinstance(known[option], Sequence) != isinstance(value, (list, tuple)) or not all(
            isinstance(width, int) and not isinstance(width, bool) and least <= width <= LARGEST_WIDTH
            for width in widths
        ):
            what = "a list of integers" if least else "an integer"
            shown = one_line(repr(value), 60)
            raise ValueError(f"{option}={shown} must be {what} from {least} to {LARGEST_WIDTH:,}")
        if len(widths) > MOST_LAYERS:
            raise ValueError(f"{option} has {len(widths):,} layers; a model has at most {MOST_LAYERS}")


def build_model(
    name: str,
    group: EmbeddingGroup,
    dense_columns: int = 13,
    *,
    columns: Sequence[Column] | None = None,
    seed: int = 0,
    **options: Any,
) -> Network:
    """The model `name` over `group`.

    Args:
        name: one of `all_models()`.
        group: an embedding group of the tables that the model's `tables_for` gives.
        dense_columns: width of the dense input; 0 for none.
        columns: what the matrix of ids holds; an id for every table unless given.
        seed: of the network's start; the group has its own.
        options: sizes; what is left out keeps the paper's default.

    Raises:
        ValueError: for an unknown model, an option it does not have, or a size that cannot be.
    """
    check_options(name, options)
    model: Callable[..., Network] = find_model(name)
    given = {} if columns is None else {"columns": columns}  # a model of another package may not know of them
    return model(group, dense_columns, seed=seed, **given, **options)
