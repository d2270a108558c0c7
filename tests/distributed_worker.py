"""Run by torch's launcher in two processes: a model with tables of production size trains in each as in one alone.

distributed_worker.py ddp|fsdp drop-ins|views METHOD ROWS
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import tablefold

KIND, TABLES, METHOD, ROWS = *sys.argv[1:4], int(sys.argv[4])
BATCH, DIM = 64, 16


class Model(nn.Module):
    """Two drop-ins, or two views of a group, and a layer on them."""

    def __init__(self) -> None:
        super().__init__()
        if TABLES == "views":
            tables = [tablefold.TableSpec(name, ROWS, DIM) for name in ("items", "tags")]
            group = tablefold.parse(METHOD).build(tables, seed=1)
            self.items, self.tags = group["items"], group["tags"]
        else:
            self.items = tablefold.Embedding(ROWS, DIM, method=METHOD, seed=1)
            self.tags = tablefold.EmbeddingBag(ROWS, DIM, mode="sum", method=METHOD, seed=2)
        self.layer = nn.Linear(2 * DIM, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        tags = self.tags(ids)
        if TABLES == "views":
            tags = tags.sum(1)
        return self.layer(torch.cat([self.items(ids[:, 0]), tags], dim=1)).squeeze(1)


def steps(model, batches):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for ids in batches:
        optimizer.zero_grad()
        model(ids).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


dist.init_process_group("gloo")
rank = dist.get_rank()
ids = torch.randint(0, ROWS, (2, 2 * BATCH, 3), generator=torch.Generator().manual_seed(0))
torch.manual_seed(0)
model = Model()
torch.manual_seed(0)
alone = Model()
floats = sum(parameter.numel() for parameter in model.parameters())
if KIND == "ddp":
    together = DistributedDataParallel(model)
else:
    # All views of a group are one unit of FSDP: their weights are the same.
    for part in (model,) if TABLES == "views" else (model.items, model.tags, model):
        fully_shard(part)
    together = model
steps(together, [batch[rank * BATCH : (rank + 1) * BATCH] for batch in ids])
steps(alone, ids)
for name, expected in alone.named_parameters():
    torch.testing.assert_close(whole(dict(model.named_parameters())[name]), expected, rtol=1e-4, atol=1e-6)
if rank == 0:
    print(f"{KIND}: {floats} floats learned what one process learns")
dist.destroy_process_group()
