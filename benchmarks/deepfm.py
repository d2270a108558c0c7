"""DeepFM here and in DeepCTR-Torch: the time of a step and of its embeddings, and the test AUC on the same data.

    tablefold generate log --rows 200000 --prepared
    python benchmarks/deepfm.py --data log --out benchmarks/results/deepfm.jsonl

Both are full tables of dim 16 and an MLP 400-400-400, trained by Adagrad at the same rate on the same batches, without
regularisation. Steps are timed on Criteo's tables, cut to a tenth: DeepCTR-Torch's gradients are dense. The time of
embeddings is a step without the network: both read all vectors and weights, and move them by the gradient of their sum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from common import Work, arguments, kaggle_tables, log_uniform_ids, race, report, surroundings
from torch import Tensor, nn
from torch.nn import functional as F

from tablefold import Full, TableSpec, optim
from tablefold.data import Batch, Dataset
from tablefold.models import build_model, find_model
from tablefold.train.metrics import Meter

LR, DEEP = 0.01, (400, 400, 400)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--data", type=Path, help="a prepared dataset to compare the test AUC on")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.data is not None:
        compare_auc(Dataset(options.data), options.batch, options.seeds, options.out)
    tables = kaggle_tables(options.scale / 10)
    ids = log_uniform_ids(tables, options.batch, 20)
    data = [Batch(torch.rand(len(each), 13), each, torch.randint(0, 2, (len(each),)).float()) for each in ids]
    facts = {"batch": options.batch, "tables": len(tables), "dim": 16, "rows": sum(t.vocabulary for t in tables)}
    for what in ("embeddings", "step"):
        contestants = {
            "DeepCTR-Torch DeepFM": stepping(*theirs(tables, 13), data, what),
            "tablefold DeepFM": stepping(*ours(tables, 13), data, what),
        }
        seconds = race(contestants, options.rounds, warm_up=3)
        report(f"deepfm {what}", seconds, "DeepCTR-Torch DeepFM", options.out, **facts)


Forward = Callable[[Batch], Tensor]
Model = tuple[nn.Module, torch.optim.Optimizer, Forward, Forward]
"""A model, its optimiser, its logits `[batch]`, and the sum of all that it reads from its tables."""


def ours(tables: list[TableSpec], dense: int, seed: int = 0) -> Model:
    group = Full().build(find_model("deepfm").tables_for(tables), seed=seed)
    group.sparse = "auto"
    model = build_model("deepfm", group, dense, deep_mlp=DEEP, seed=seed)
    optimizer = optim.Adagrad(model.parameters(), lr=LR)
    return model, optimizer, lambda batch: model(batch.dense, batch.ids), lambda batch: model.vectors(batch.ids).sum()


def theirs(tables: list[TableSpec], dense: int, seed: int = 0) -> Model:
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DeepFM

    columns = [SparseFeat(f"c{n}", table.vocabulary, embedding_dim=16) for n, table in enumerate(tables)]
    columns += [DenseFeat(f"d{n}", 1) for n in range(dense)]
    model = DeepFM(
        columns,
        columns,
        dnn_hidden_units=DEEP,
        l2_reg_linear=0,
        l2_reg_embedding=0,
        init_std=0.01,  # at its default, 1e-4, an MLP of three layers does not begin to learn in one epoch
        seed=seed,
    )
    optimizer = torch.optim.Adagrad(model.parameters(), lr=LR)

    def inputs(batch: Batch) -> Tensor:
        return torch.cat([batch.ids.float(), batch.dense], dim=1)  # one matrix of floats, as its `fit` has it

    def embeddings(batch: Batch) -> Tensor:
        given = inputs(batch)
        vectors, _ = model.input_from_feature_columns(given, columns, model.embedding_dict)
        return torch.cat(vectors, dim=1).sum() + model.linear_model(given).sum()

    return model, optimizer, lambda batch: torch.logit(model(inputs(batch)).squeeze(1), eps=1e-7), embeddings


def stepping(
    model: nn.Module, optimizer: torch.optim.Optimizer, forward: Forward, read: Forward, data: list[Batch], what: str
) -> Work:
    def step(number: int) -> float:
        batch = data[number % len(data)]
        loss = read(batch) if what == "embeddings" else loss_of(forward, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def loss_of(forward: Forward, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(forward(batch), batch.label)


def compare_auc(dataset: Dataset, batch_size: int, seeds: int, out: Path | None) -> None:
    """Train both for an epoch with each seed, on the same batches; print and keep the test AUCs."""
    tables = dataset.schema.table_specs(16)
    for name, build in {"DeepCTR-Torch DeepFM": theirs, "tablefold DeepFM": ours}.items():
        aucs = [
            auc_of(build(tables, len(dataset.schema.dense), seed), dataset, batch_size, seed) for seed in range(seeds)
        ]
        print(f"test AUC   {name:44s} {', '.join(f'{auc:.4f}' for auc in aucs)}")
        if out is not None:
            facts = {"rows": dataset.part("train").rows, "batch": batch_size, **surroundings()}
            with out.open("a") as file:
                file.write(
                    json.dumps({"benchmark": "deepfm auc", "contestant": name, "test_auc": aucs, **facts}) + "\n"
                )


def auc_of(built: Model, dataset: Dataset, batch_size: int, seed: int) -> float:
    model, optimizer, forward, _ = built
    for batch in dataset.part("train").batches(batch_size, seed=seed):
        loss = loss_of(forward, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    meter = Meter()
    model.eval()
    with torch.no_grad():
        for batch in batches(dataset):
            meter.update(forward(batch), batch.label)
    return meter.compute().auc


def batches(dataset: Dataset) -> Iterator[Batch]:
    return dataset.part("test").batches(4096)


if __name__ == "__main__":
    main()
