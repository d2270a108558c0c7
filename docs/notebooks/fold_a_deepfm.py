# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fold a DeepFM of your own
#
# A DeepFM in plain PyTorch, as you may have one. We train it with full tables, then fold it 16x with one line and train
# it again, by the same loop. Half a minute on two cores.
#
# ## Clicks
#
# Users, items and cities with hidden tastes. Popular ids are frequent, as they are everywhere.

# %%
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import tablefold

random = np.random.default_rng(0)
ROWS = {"user": 6_000, "item": 2_000, "city": 300}
CLICKS = 150_000


def draw(rows):
    """Ids by a power law: id 0 is the most frequent."""
    return (rows * random.random(CLICKS) ** 2.5).astype(np.int64)


ids = np.stack([draw(rows) for rows in ROWS.values()], axis=1)
taste = {name: random.normal(size=(rows, 4)) for name, rows in ROWS.items()}
user, item, city = (taste[name][ids[:, column]] for column, name in enumerate(ROWS))
logit = (user * item).sum(1) + 0.5 * (user * city).sum(1) + 2 * item[:, 0] + user[:, 0] - 1
label = (random.random(CLICKS) < 1 / (1 + np.exp(-logit))).astype(np.float32)
print(f"{CLICKS:,} rows, {label.mean():.0%} clicks")

# %% [markdown]
# ## The model
#
# First-order weights, products of all pairs, and an MLP over all vectors. Nothing of tablefold is in it.


# %%
class DeepFM(torch.nn.Module):
    def __init__(self, rows, dim=16):
        super().__init__()
        self.vectors = torch.nn.ModuleDict({name: torch.nn.Embedding(n, dim) for name, n in rows.items()})
        self.weights = torch.nn.ModuleDict({name: torch.nn.Embedding(n, 1) for name, n in rows.items()})
        self.deep = torch.nn.Sequential(torch.nn.Linear(len(rows) * dim, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
        for table in [*self.vectors.values(), *self.weights.values()]:
            torch.nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids):
        vectors = torch.stack([table(ids[:, n]) for n, table in enumerate(self.vectors.values())], dim=1)
        first = sum(table(ids[:, n]) for n, table in enumerate(self.weights.values())).squeeze(1)
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1)
        return first + pairs + self.deep(vectors.flatten(1)).squeeze(1)


# %% [markdown]
# ## Train it, full
#
# The last fifth of the rows tests.

# %%
cut = CLICKS * 4 // 5
X, y = torch.from_numpy(ids), torch.from_numpy(label)


def train(model, epochs=4, batch=512):
    """Four epochs of Adam; the AUC of the test rows."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(cut).split(batch):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(X[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return roc_auc_score(label[cut:], model(X[cut:]).numpy())


torch.manual_seed(0)
full_auc = train(DeepFM(ROWS))
print(f"full tables: AUC {full_auc:.4f}")

# %% [markdown]
# ## Fold it, then train it
#
# `weights="new"` says that the tables start afresh. The report tells what each became. The optimiser is made after the
# fold: `train` does so.

# %%
torch.manual_seed(0)
model = DeepFM(ROWS)
report = tablefold.fold(model, compression=16, weights="new")
print(report)

# %%
folded_auc = train(model)
print(f"{report.bytes_before / report.num_bytes:.1f}x smaller: AUC {folded_auc:.4f}, full tables {full_auc:.4f}")

# %% [markdown]
# ## What would plain hashing have lost?
#
# The same bytes, the same loop. Hold every fold against this.

# %%
torch.manual_seed(0)
hashed = DeepFM(ROWS)
tablefold.fold(hashed, compression=16, weights="new", method="hash")
hashed_auc = train(hashed)
print(f"plain hashing: AUC {hashed_auc:.4f}")

# %% [markdown]
# ## Keep it
#
# A folder with the memory in few bits and a model card. It is loaded into a fresh model.

# %%
import tempfile

folder = tempfile.mkdtemp()
tablefold.save_pretrained(model, folder)
again = tablefold.from_pretrained(folder, DeepFM(ROWS))
assert torch.allclose(again(X[:100]), model(X[:100]), atol=1e-6)

# %% [markdown]
# Next: [Fold your model](../fold.md), or the same for [a model that is trained already](trained_smaller.py).
