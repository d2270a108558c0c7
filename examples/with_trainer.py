"""A folded model in the Trainer of Hugging Face transformers.

pip install tablefold transformers accelerate
python examples/with_trainer.py DIR      (DIR: a dataset written by `tablefold prepare`)
"""

import sys
import tempfile

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import tablefold
from tablefold.data import Dataset
from tablefold.train.metrics import Meter


class Clicks(nn.Module):
    """A table for every categorical column, and a network over their vectors and the numbers."""

    def __init__(self, rows: list[int], dense: int, dim: int = 16) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, dim) for count in rows)
        self.top = nn.Sequential(nn.Linear(dense + dim * len(rows), 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: Tensor, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What the Trainer takes: the loss first, then the logits."""
        vectors = [table(ids[:, column]) for column, table in enumerate(self.tables)]
        logits = self.top(torch.cat([dense, *vectors], dim=1)).flatten()
        return {"loss": nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def rows_of(dataset: Dataset, part: str) -> list[dict[str, Tensor]]:
    """Examples one by one, as the Trainer collates them."""
    batches = dataset.part(part).batches(1 << 14)
    return [
        {"dense": dense, "ids": ids, "labels": label}
        for batch in batches
        for dense, ids, label in zip(batch.dense, batch.ids, batch.label, strict=True)
    ]


def main(folder: str) -> float:
    """Train for one epoch; gives the AUC on the test part."""
    dataset = Dataset(folder)
    rows = [table.vocabulary for table in dataset.schema.table_specs(dim=16)]
    torch.manual_seed(0)
    model = Clicks(rows, len(dataset.schema.dense))
    tablefold.fold(model, compression=4, weights="new")  # before the Trainer, which makes the optimiser
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=128,
        per_device_eval_batch_size=1024,
        num_train_epochs=1,
        learning_rate=0.01,
        weight_decay=0.0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows_of(dataset, "train"))
    trainer.train()
    found = trainer.predict(rows_of(dataset, "test"))
    meter = Meter()
    meter.update(torch.from_numpy(found.predictions), torch.from_numpy(found.label_ids))
    return meter.compute().auc


if __name__ == "__main__":
    print(f"test AUC {main(sys.argv[1]):.4f}")
