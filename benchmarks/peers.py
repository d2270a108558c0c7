"""Contestants from other projects. None of their code is here: they come by path or as installed packages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tablefold import TableSpec


class Bags(nn.Module):
    """One `nn.EmbeddingBag` per table, as a DLRM has them: the line to measure against."""

    def __init__(self, tables: list[TableSpec]) -> None:
        super().__init__()
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(table.vocabulary, table.dim, mode="sum", sparse=True) for table in tables
        )

    def forward(self, columns: list[Tensor], offsets: Tensor | list[Tensor]) -> list[Tensor]:
        begins = [offsets] * len(columns) if isinstance(offsets, Tensor) else offsets
        return [bag(*each) for bag, *each in zip(self.bags, columns, begins, strict=True)]


def qr_bags(tables: list[TableSpec], checkout: Path | None, collisions: int = 4) -> nn.Module | None:
    """facebookresearch/dlrm's QREmbeddingBag per table with more than 200 rows, nn.EmbeddingBag for the others."""
    if checkout is None:
        print("skipped: facebookresearch/dlrm (give its checkout with --dlrm)", file=sys.stderr)
        return None
    with on_path(checkout):
        from tricks.qr_embedding_bag import QREmbeddingBag
    module = Bags([TableSpec("none", 1, 1)])
    module.bags = nn.ModuleList(
        QREmbeddingBag(table.vocabulary, table.dim, collisions, operation="mult", mode="sum", sparse=True)
        if table.vocabulary > 200
        else nn.EmbeddingBag(table.vocabulary, table.dim, mode="sum", sparse=True)
        for table in tables
    )
    return module


class Cce(nn.Module):
    """thomasahle/cce's ROBE per table: blocks of a whole row, a thousandth of the floats, at least four rows."""

    def __init__(self, tables: list[TableSpec], make_embedding: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            make_embedding(table.vocabulary, max(4, table.vocabulary // 1000) * table.dim, table.dim, "robe", 1, True)
            for table in tables
        )

    def forward(self, columns: list[Tensor]) -> list[Tensor]:
        return [part(column) for part, column in zip(self.parts, columns, strict=True)]


def cce_robe(tables: list[TableSpec], checkout: Path | None) -> Cce | None:
    """`Cce`, from a checkout that needs faiss-cpu, tqdm, ortools and scikit-learn; None without."""
    if checkout is None:
        print("skipped: thomasahle/cce (give its checkout with --cce)", file=sys.stderr)
        return None
    with on_path(checkout):
        try:
            from cce import make_embedding
        except ImportError as error:
            print(f"skipped: thomasahle/cce ({error})", file=sys.stderr)
            return None
    return Cce(tables, make_embedding)


def fused_ebc(tables: list[TableSpec], lr: float) -> nn.Module | None:
    """TorchRec's FusedEmbeddingBagCollection with Adagrad in its backward; None where it is not installed."""
    try:
        import torchrec
        from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
    except Exception as error:  # its imports fail in many ways
        print(f"skipped: TorchRec ({type(error).__name__}: {error})", file=sys.stderr)
        return None
    configs = [
        torchrec.EmbeddingBagConfig(
            name=f"t{number}",
            embedding_dim=table.dim,
            num_embeddings=table.vocabulary,
            feature_names=[table.name],
        )
        for number, table in enumerate(tables)
    ]
    return FusedEmbeddingBagCollection(
        tables=configs,
        optimizer_type=torch.optim.Adagrad,
        optimizer_kwargs={"lr": lr},
        device=torch.device("cpu"),
    )


def jagged(tables: list[TableSpec], ids: Tensor) -> object:
    """A batch as TorchRec takes it."""
    import torchrec

    return torchrec.KeyedJaggedTensor(
        keys=[table.name for table in tables],
        values=ids.t().contiguous().flatten(),
        lengths=torch.ones(ids.numel(), dtype=torch.int32),
    )


@contextmanager
def on_path(checkout: Path) -> Iterator[None]:
    """Import from a checkout inside this context. It was written for an older numpy: one alias is lent to it."""
    sys.path.insert(0, str(checkout))
    np.float = getattr(np, "float", float)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
