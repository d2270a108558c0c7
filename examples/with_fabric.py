"""A folded model in a loop of your own, with Lightning Fabric.

pip install tablefold lightning-fabric
python examples/with_fabric.py DIR      (DIR: a dataset written by `tablefold prepare`)
"""

import sys

from lightning_fabric import Fabric
from torch.nn.functional import binary_cross_entropy_with_logits

from tablefold import parse
from tablefold.data import Dataset
from tablefold.models import build_model
from tablefold.optim import Adagrad
from tablefold.train import Trainer


def main(folder: str, fabric: Fabric) -> float:
    """Train for one epoch; gives the AUC on the test part."""
    dataset = Dataset(folder)
    tables = dataset.schema.table_specs(dim=16)
    group = parse("robe:block=16,floats=4000").build(tables, seed=0)
    model = build_model("dlrm", group, dense_columns=len(dataset.schema.dense), seed=0)
    model, optimizer = fabric.setup(model, Adagrad(model.parameters(), lr=0.02))
    train = dataset.part("train")
    for batch in train.batches(128, seed=0, rank=fabric.global_rank, world=fabric.world_size):
        dense, ids, label = fabric.to_device(tuple(batch))
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(dense, ids), label)
        fabric.backward(loss)
        optimizer.step()
    return Trainer(model.module).evaluate(dataset.part("test")).auc


if __name__ == "__main__":
    fabric = Fabric()
    fabric.print(f"test AUC {main(sys.argv[1], fabric):.4f}")
