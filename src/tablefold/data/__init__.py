"""Click logs: prepare raw ones (`tablefold.data.preparation`), generate synthetic ones, load them in batches.

The names below are imported when first used, so that preparing data never waits for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tablefold.extras import require_data

if TYPE_CHECKING:
    from tablefold.data.dataset import Batch, Dataset, Part
    from tablefold.data.numbering import Numbering
    from tablefold.data.schema import Schema

require_data()

__all__ = ["Batch", "Dataset", "Numbering", "Part", "Schema"]

_HOME = {"Batch": "dataset", "Dataset": "dataset", "Numbering": "numbering", "Part": "dataset", "Schema": "schema"}


def __getattr__(name: str) -> Any:
    """PEP 562: the public names, imported on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tablefold.data.{_HOME[name]}"), name)
