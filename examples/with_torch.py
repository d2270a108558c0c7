"""A model of one's own, folded by one line, trained in plain torch, saved and loaded.

pip install tablefold
python examples/with_torch.py DIR      (DIR: a dataset written by `tablefold prepare`)
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import tablefold
from tablefold.data import Dataset
from tablefold.train.metrics import Meter


class Clicks(nn.Module):
    """A table for every categorical column, and a network over their vectors and the numbers."""

    def __init__(self, rows: list[int], dense: int, dim: int = 16) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, dim) for count in rows)
        self.top = nn.Sequential(nn.Linear(dense + dim * len(rows), 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        """Logits of a batch."""
        vectors = [table(ids[:, column]) for column, table in enumerate(self.tables)]
        return self.top(torch.cat([dense, *vectors], dim=1)).flatten()


def main(folder: str) -> float:
    """Train for one epoch; gives the AUC on the test part."""
    dataset = Dataset(folder)
    rows, dense = [table.vocabulary for table in dataset.schema.table_specs(dim=16)], len(dataset.schema.dense)
    torch.manual_seed(0)
    model = Clicks(rows, dense)
    print(tablefold.fold(model, compression=4, weights="new"))  # the one line
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in dataset.part("train").batches(128, seed=0):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch.dense, batch.ids), batch.label)
        loss.backward()
        optimizer.step()
    saved = Path(tempfile.mkdtemp()) / "model"
    tablefold.save_pretrained(model, saved)
    loaded = tablefold.from_pretrained(saved, Clicks(rows, dense)).eval()
    meter = Meter()
    with torch.no_grad():
        for batch in dataset.part("test").batches(1024):
            meter.update(loaded(batch.dense, batch.ids), batch.label)
    return meter.compute().auc


if __name__ == "__main__":
    print(f"test AUC {main(sys.argv[1]):.4f}")
