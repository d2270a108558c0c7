"""tablefold: fold the embedding tables of recommender and click models 10x to 10,000x.

The public names, on one screen. They are imported at first use, so that the command line answers without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tablefold.extras import require_data

if TYPE_CHECKING:
    from tablefold.ahead import warmup
    from tablefold.click_model import ClickModel
    from tablefold.exporting.publish import export
    from tablefold.folding.planning import plan
    from tablefold.folding.pretrained import from_pretrained, save_pretrained
    from tablefold.folding.replacing import fold, unfold
    from tablefold.group import EmbeddingGroup
    from tablefold.method import Method, all_methods, parse
    from tablefold.methods.chinese_remainder import ChineseRemainder
    from tablefold.methods.clustered_residual import ClusteredResidual
    from tablefold.methods.clusters import Clusters
    from tablefold.methods.custom import Custom
    from tablefold.methods.full import Full
    from tablefold.methods.graded import Graded
    from tablefold.methods.hash import Hash
    from tablefold.methods.hash_embeddings import HashEmbeddings
    from tablefold.methods.hot import Hot
    from tablefold.methods.low_rank import LowRank
    from tablefold.methods.mixed_dimensions import MixedDimensions
    from tablefold.methods.mixed_radix import MixedRadix
    from tablefold.methods.path import PathBased
    from tablefold.methods.qr import QuotientRemainder
    from tablefold.methods.residual import Residual
    from tablefold.methods.robe import Robe
    from tablefold.methods.unified import Unified
    from tablefold.nn import Embedding, EmbeddingBag
    from tablefold.ops import backend
    from tablefold.plans import Plan, make_plan
    from tablefold.serving.scorer import Scorer
    from tablefold.tables import TableSpec, full_bytes

__all__ = [
    "ChineseRemainder",
    "ClickModel",
    "ClusteredResidual",
    "Clusters",
    "Custom",
    "Embedding",
    "EmbeddingBag",
    "EmbeddingGroup",
    "Full",
    "Graded",
    "Hash",
    "HashEmbeddings",
    "Hot",
    "LowRank",
    "Method",
    "MixedDimensions",
    "MixedRadix",
    "PathBased",
    "Plan",
    "QuotientRemainder",
    "Residual",
    "Robe",
    "Scorer",
    "TableSpec",
    "Unified",
    "all_methods",
    "backend",
    "export",
    "fold",
    "from_pretrained",
    "full_bytes",
    "make_plan",
    "parse",
    "plan",
    "save_pretrained",
    "unfold",
    "warmup",
]

_HOMES = {
    "ClickModel": "click_model",
    "Embedding": "nn",
    "EmbeddingBag": "nn",
    "EmbeddingGroup": "group",
    "Full": "methods.full",
    "Hash": "methods.hash",
    "Method": "method",
    "ChineseRemainder": "methods.chinese_remainder",
    "Clusters": "methods.clusters",
    "Graded": "methods.graded",
    "Hot": "methods.hot",
    "LowRank": "methods.low_rank",
    "MixedDimensions": "methods.mixed_dimensions",
    "MixedRadix": "methods.mixed_radix",
    "ClusteredResidual": "methods.clustered_residual",
    "Custom": "methods.custom",
    "PathBased": "methods.path",
    "HashEmbeddings": "methods.hash_embeddings",
    "Unified": "methods.unified",
    "Plan": "plans",
    "QuotientRemainder": "methods.qr",
    "Robe": "methods.robe",
    "Scorer": "serving.scorer",
    "Residual": "methods.residual",
    "TableSpec": "tables",
    "all_methods": "method",
    "backend": "ops",
    "export": "exporting.publish",
    "fold": "folding.replacing",
    "from_pretrained": "folding.pretrained",
    "full_bytes": "tables",
    "make_plan": "plans",
    "parse": "method",
    "plan": "folding.planning",
    "save_pretrained": "folding.pretrained",
    "unfold": "folding.replacing",
    "warmup": "ahead",
}


_OF_DATA = ("ClickModel", "Scorer")


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tablefold' has no attribute {name!r}")
    if name in _OF_DATA:
        require_data()
    return getattr(importlib.import_module(f"tablefold.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
