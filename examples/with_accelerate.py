"""A folded model in a loop of your own, with Hugging Face accelerate.

pip install tablefold accelerate
python examples/with_accelerate.py DIR      (DIR: a dataset written by `tablefold prepare`)
"""

import sys

from accelerate import Accelerator
from torch.nn.functional import binary_cross_entropy_with_logits

from tablefold import parse
from tablefold.data import Dataset
from tablefold.models import build_model
from tablefold.optim import Adagrad
from tablefold.train import Trainer


def main(folder: str, accelerator: Accelerator) -> float:
    """Train for one epoch; gives the AUC on the test part."""
    dataset = Dataset(folder)
    tables = dataset.schema.table_specs(dim=16)
    group = parse("robe:block=16,floats=4000").build(tables, seed=0)
    model = build_model("dlrm", group, dense_columns=len(dataset.schema.dense), seed=0)
    model, optimizer = accelerator.prepare(model, Adagrad(model.parameters(), lr=0.02))
    train = dataset.part("train")
    for batch in train.batches(128, seed=0, rank=accelerator.process_index, world=accelerator.num_processes):
        dense, ids, label = (tensor.to(accelerator.device) for tensor in batch)
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(dense, ids), label)
        accelerator.backward(loss)
        optimizer.step()
    return Trainer(accelerator.unwrap_model(model)).evaluate(dataset.part("test")).auc


if __name__ == "__main__":
    accelerator = Accelerator()
    accelerator.print(f"test AUC {main(sys.argv[1], accelerator):.4f}")
