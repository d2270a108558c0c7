"""Each host's own model, full and folded before training: test AUC after an epoch in its own loop.

    tablefold generate log --rows 250000 --prepared
    python studies/hosts.py log --results studies/results/hosts.jsonl

For FuxiCTR, DeepCTR-Torch, torch-rechub and TorchRec: a model of theirs on the log's categorical columns, dim 16, Adam,
batches of 256, trained by what the host trains with. Folded by one line, `tablefold.fold(model, compression=16,
weights="new")`; and with `method="mixed_dimensions"`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tablefold
from tablefold.data.dataset import Dataset
from tablefold.train.metrics import Meter

DIM, BATCH, RATE = 16, 256, 1e-3


@dataclass(frozen=True)
class Log:
    """The categorical columns of a prepared log: ids `[rows, columns]` and labels of each part, rows of each table."""

    rows: list[int]
    ids: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor]

    @classmethod
    def of(cls, folder: Path) -> Log:
        dataset = Dataset(folder)
        parts = {name: [*dataset.part(name).batches(1 << 16)] for name in ("train", "test")}
        ids = {name: torch.cat([batch.ids for batch in part]).long() for name, part in parts.items()}
        labels = {name: torch.cat([batch.label for batch in part]).float() for name, part in parts.items()}
        return cls([table.vocabulary for table in dataset.schema.table_specs(dim=DIM)], ids, labels)

    @property
    def names(self) -> list[str]:
        return [f"c{number}" for number in range(len(self.rows))]

    def columns(self, part: str) -> dict[str, torch.Tensor]:
        return dict(zip(self.names, self.ids[part].T.contiguous(), strict=True))

    def batches(self, part: str, size: int = BATCH) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        count, columns, labels = len(self.labels[part]), self.columns(part), self.labels[part]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)) if part == "train" else None
        found = []
        for begin in range(0, count, size):
            own = slice(begin, begin + size) if order is None else order[begin : begin + size]
            found.append(({name: column[own] for name, column in columns.items()}, labels[own]))
        return found


Fold = Callable[[nn.Module], object]


def fuxictr(log: Log, fold: Fold) -> np.ndarray[Any, Any]:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    features = FeatureMap("log", ".")
    features.labels = ["label"]
    features.features = OrderedDict(
        (name, {"source": "", "type": "categorical", "vocab_size": rows})
        for name, rows in zip(log.names, log.rows, strict=True)
    )

    class Deep(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(features, model_root=".", metrics=["AUC"], verbose=0)
            self.embedding_layer = FeatureEmbedding(features, DIM)
            self.mlp = MLP_Block(
                input_dim=DIM * len(log.rows), hidden_units=[64, 32], output_dim=1, output_activation="Sigmoid"
            )
            self.reset_parameters()
            self.compile("adam", "binary_crossentropy", RATE)

        def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
            return {"y_pred": self.mlp(self.embedding_layer(self.get_inputs(inputs), flatten_emb=True))}

    torch.manual_seed(0)
    model = Deep()
    fold(model)
    model.compile("adam", "binary_crossentropy", RATE)
    model.train()
    model._max_gradient_norm = 10.0
    for columns, labels in log.batches("train"):
        model.train_step({**columns, "label": labels})
    found: np.ndarray[Any, Any] = model.predict([columns for columns, _ in log.batches("test", 8192)])
    return found


def deepctr_torch(log: Log, fold: Fold) -> np.ndarray[Any, Any]:
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(name, rows, DIM) for name, rows in zip(log.names, log.rows, strict=True)]
    model = DeepFM(columns, columns, dnn_hidden_units=(64, 32), seed=0)
    fold(model)
    model.compile("adam", "binary_crossentropy")
    given = {name: column.numpy() for name, column in log.columns("train").items()}
    model.fit(given, log.labels["train"].numpy(), batch_size=BATCH, epochs=1, verbose=0)
    found: np.ndarray[Any, Any] = model.predict(
        {name: each.numpy() for name, each in log.columns("test").items()}, 8192
    )
    return found[:, 0]


def torch_rechub(log: Log, fold: Fold) -> np.ndarray[Any, Any]:
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.ranking import DeepFM
    from torch_rechub.trainers import CTRTrainer

    features = [SparseFeature(name, rows, DIM) for name, rows in zip(log.names, log.rows, strict=True)]
    torch.manual_seed(0)
    model = DeepFM(features, features, {"dims": [64, 32], "activation": "relu", "dropout": 0.0})
    fold(model)
    trainer = CTRTrainer(model, optimizer_params={"lr": RATE}, n_epoch=1, model_path=tempfile.mkdtemp())
    trainer.fit(log.batches("train"))
    model.eval()
    with torch.no_grad():
        return torch.cat([model(columns) for columns, _ in log.batches("test", 8192)]).numpy()


def torchrec(log: Log, fold: Fold) -> np.ndarray[Any, Any]:
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.models.deepfm import SimpleDeepFMNN

    tables = [
        EmbeddingBagConfig(name=name, num_embeddings=rows, embedding_dim=DIM, feature_names=[name])
        for name, rows in zip(log.names, log.rows, strict=True)
    ]
    torch.manual_seed(0)
    model = SimpleDeepFMNN(1, EmbeddingBagCollection(tables=tables), hidden_layer_size=64, deep_fm_dimension=16)
    fold(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def scores(columns: dict[str, torch.Tensor]) -> torch.Tensor:
        values = torch.cat([*columns.values()])
        count = len(values) // len(columns)
        given = KeyedJaggedTensor(list(columns), values, lengths=torch.ones(len(values), dtype=torch.int64))
        found: torch.Tensor = model(dense_features=torch.zeros(count, 1), sparse_features=given).flatten()
        return found

    for columns, labels in log.batches("train"):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy(scores(columns), labels).backward()
        optimizer.step()
    with torch.no_grad():
        return torch.cat([scores(columns) for columns, _ in log.batches("test", 8192)]).numpy()


HOSTS = {"fuxictr": fuxictr, "deepctr_torch": deepctr_torch, "torch_rechub": torch_rechub, "torchrec": torchrec}


def run(host: str, log: Log, compression: float | None, method: str = "auto") -> dict[str, object]:
    """A host's model trained for an epoch, full or folded: its test AUC, and the bytes of its tables."""
    made: dict[str, object] = {"host": host, "compression": compression or 1, "method": method}

    def fold(model: nn.Module) -> None:
        if compression is not None:
            report = tablefold.fold(model, compression=compression, weights="new", method=method)
            made.update(bytes=report.num_bytes, full_bytes=report.bytes_before, left=len(report.left))

    with contextlib.ExitStack() as quiet:
        nowhere = quiet.enter_context(open(os.devnull, "w"))
        quiet.enter_context(contextlib.redirect_stdout(nowhere))
        quiet.enter_context(contextlib.redirect_stderr(nowhere))
        quiet.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        scores = HOSTS[host](log, fold)
    meter = Meter()
    probabilities = torch.from_numpy(np.asarray(scores, dtype=np.float64)).clamp(1e-7, 1 - 1e-7)
    meter.update(torch.logit(probabilities).float(), log.labels["test"])
    return {**made, "auc": round(meter.compute().auc, 5), "log_loss": round(meter.compute().logloss, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, default=list(HOSTS))
    arguments = parser.parse_args()
    logging.disable()
    log = Log.of(arguments.data)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    with arguments.results.open("a") as out:
        for host in arguments.hosts:
            for compression, method in ((None, "full"), (16.0, "auto"), (16.0, "mixed_dimensions")):
                line = {**run(host, log, compression, method), "rows": len(log.labels["train"])}
                out.write(json.dumps(line) + "\n")
                out.flush()
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
