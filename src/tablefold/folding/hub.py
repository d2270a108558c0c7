"""Folded models on the Hugging Face Hub: the extra `hub`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from huggingface_hub import ModelHubMixin, snapshot_download
from torch import nn

from tablefold.folding.pretrained import SPEC, WEIGHTS, from_pretrained, save_pretrained

T = TypeVar("T", bound="HubMixin")


class HubMixin(ModelHubMixin, library_name="tablefold", tags=["tablefold", "recommender"]):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for a model class whose tables are folded.

    The arguments that the model is built with go into `config.json` by themselves; the memory of the tables,
    packed, and what they are, into the files that `tablefold.save_pretrained` writes.

    Attributes:
        trained_on: what data, for its card.
        figures: how good it is, by the name of the figure, likewise.

    >>> import tempfile, torch, tablefold
    >>> class Model(torch.nn.Module, HubMixin):
    ...     def __init__(self, rows: int):
    ...         super().__init__()
    ...         self.user = torch.nn.Embedding(rows, 16)
    >>> model = Model(rows=10_000)
    >>> report = tablefold.fold(model, compression=50, weights="new")
    >>> folder = tempfile.mkdtemp()
    >>> _ = model.save_pretrained(folder)
    >>> torch.equal(Model.from_pretrained(folder).user.weight, model.user.weight)
    True
    """

    trained_on: ClassVar[str] = ""
    figures: ClassVar[Mapping[str, float]] = {}

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, nn.Module), "a model class has torch.nn.Module beside the mixin"
        save_pretrained(self, save_directory, data=self.trained_on, figures=self.figures)

    @classmethod
    def _from_pretrained(
        cls: type[T],
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> T:
        folder = model_id
        if not Path(folder).is_dir():
            folder = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[WEIGHTS, SPEC],
            )
        model: Any = cls(**model_kwargs)
        from_pretrained(folder, model)
        found: T = model.eval()
        return found
