"""Models of the kind that users have."""

import torch
from torch import nn

ROWS = {"user": 4000, "item": 6000, "city": 1500, "tag": 2000, "day": 7, "hour": 1000}


class DeepFM(nn.Module):
    """Six tables of dims 8, 16 and 32; history reads items, its padding is id 0."""

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(4000, 16), nn.Embedding(6000, 32)
        self.history = nn.EmbeddingBag(6000, 32, padding_idx=0, mode="sum")
        self.history.weight = self.item.weight
        self.more = nn.ModuleDict({"city": nn.Embedding(1500, 8), "tag": nn.EmbeddingBag(2000, 16, mode="mean")})
        self.times = nn.ModuleList([nn.Embedding(7, 8), nn.Embedding(1000, 8)])
        self.same_user = self.user
        self.top = nn.Sequential(nn.Linear(120, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, ids):
        item, history = self.item(ids["item"]), self.history(ids["history"], per_sample_weights=ids["weights"])
        vectors = [self.user(ids["user"]), item, history, self.more["city"](ids["city"])]
        vectors += [self.more["tag"](ids["tag"], ids["offsets"])]
        vectors += [table(ids[name]) for table, name in zip(self.times, ("day", "hour"), strict=True)]
        return self.top(torch.cat(vectors, 1)).squeeze(1) + (item * history).sum(1)


def some_ids(batch=32, seed=0):
    """Ids as `DeepFM` takes them."""
    generator = torch.Generator().manual_seed(seed)
    ids = {name: torch.randint(rows, (batch,), generator=generator) for name, rows in ROWS.items()}
    ids["history"] = torch.randint(ROWS["item"], (batch, 4), generator=generator)
    ids["history"][:, 3] = 0
    ids["weights"] = torch.rand(batch, 4, generator=generator)
    ids["tag"] = torch.randint(ROWS["tag"], (3 * batch,), generator=generator)
    ids["offsets"] = torch.arange(0, 3 * batch, 3)
    return ids


def look_trained(model, rank=3):
    """Give every table rows of a low rank, as training does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        tables = [module for module in model.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))]
        for weight in dict.fromkeys(module.weight for module in tables):
            rows, dim = weight.shape
            low = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, dim, generator=generator)
            weight.copy_(0.1 * low + 0.01 * torch.randn(rows, dim, generator=generator))
    return model
