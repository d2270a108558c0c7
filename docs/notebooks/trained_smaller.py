# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A trained model, smaller
#
# A model is trained and in use. Its tables should take a tenth of the memory, and nobody wants to train it again.
#
# ## A trained model
#
# Yours would be loaded here. We train a small one: 4,000 users and 2,000 items, whose tastes resemble each other.

# %%
import copy
import warnings

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import tablefold

random = np.random.default_rng(0)
USERS, ITEMS, CLICKS = 4_000, 2_000, 200_000
kinds = random.normal(size=(2, 40, 4))  # 40 kinds of users, 40 of items
user_taste = kinds[0][random.integers(0, 40, USERS)] + 0.3 * random.normal(size=(USERS, 4))
item_taste = kinds[1][random.integers(0, 40, ITEMS)] + 0.3 * random.normal(size=(ITEMS, 4))
user = (USERS * random.random(CLICKS) ** 1.5).astype(np.int64)
item = (ITEMS * random.random(CLICKS) ** 1.5).astype(np.int64)
logit = (user_taste[user] * item_taste[item]).sum(1)
label = (random.random(CLICKS) < 1 / (1 + np.exp(-logit))).astype(np.float32)


class Ranker(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.user = torch.nn.Embedding(USERS, 16)
        self.item = torch.nn.Embedding(ITEMS, 16)
        self.top = torch.nn.Sequential(torch.nn.Linear(48, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
        for table in (self.user, self.item):
            torch.nn.init.normal_(table.weight, std=0.02)

    def forward(self, user, item):
        u, v = self.user(user), self.item(item)
        return self.top(torch.cat([u, v, u * v], dim=1)).squeeze(1)


cut = CLICKS * 4 // 5
U, V, y = torch.from_numpy(user), torch.from_numpy(item), torch.from_numpy(label)


def loss_of(model, rows):
    return torch.nn.functional.binary_cross_entropy_with_logits(model(U[rows], V[rows]), y[rows])


def auc(model, numbers=None):
    """Of the test rows; `numbers` where a fold has renumbered the ids."""
    u, v = U[cut:], V[cut:]
    if numbers:
        u, v = torch.from_numpy(numbers["user"])[u], torch.from_numpy(numbers["item"])[v]
    with torch.no_grad():
        return roc_auc_score(label[cut:], model(u, v).numpy())


torch.manual_seed(0)
trained = Ranker()
optimizer = torch.optim.Adam(trained.parameters(), lr=3e-3)
for _ in range(6):
    for rows in torch.randperm(cut).split(2048):
        optimizer.zero_grad()
        loss_of(trained, rows).backward()
        optimizer.step()
print(f"full tables, {(USERS + ITEMS) * 16 * 4:,} bytes: AUC {auc(trained):.4f}")

# %% [markdown]
# ## Fold it as it is
#
# No data is needed. `counts` says how often each id occurs: errors of frequent ids then count more. `inplace=False`
# folds a copy.

# %%
counts = {"user": np.bincount(user[:cut], minlength=USERS), "item": np.bincount(item[:cut], minlength=ITEMS)}
report = tablefold.fold(trained, compression=8, counts=counts, inplace=False)
print(report)
print(f"AUC {auc(report.model):.4f}")

# %% [markdown]
# ## Sizes, and what data adds
#
# With `data=` and `loss=` the gradients of 40 batches say which errors cost what. Nothing is trained by it.

# %%
warnings.simplefilter("ignore", UserWarning)  # a fold warns where a table loses over a tenth: the AUC says it here
batches = list(torch.randperm(cut).split(2048))[:40]
print("asked   bytes     AUC     AUC with data=")
for size in (8, 16, 32):
    plain = tablefold.fold(trained, compression=size, counts=counts, inplace=False)
    better = tablefold.fold(trained, compression=size, counts=counts, inplace=False, data=batches, loss=loss_of)
    print(f"{size:4d}x  {plain.num_bytes:7,}  {auc(plain.model):.4f}  {auc(better.model):.4f}")

# %% [markdown]
# ## Smaller still, if you own the dictionary
#
# Ids may get new numbers when you own what turns raw values into ids. Ids that resemble each other become neighbours,
# and nothing has to be stored of each. Look ids up in `report.numbering` before the model does.

# %%
for size in (32, 64, 200):
    small = tablefold.fold(
        trained, compression=size, ids="renumber", counts=counts, inplace=False, data=batches, loss=loss_of
    )
    print(f"{size:4d}x  {small.num_bytes:7,}  {auc(small.model, small.numbering):.4f}")

# %% [markdown]
# ## Beyond what can be kept
#
# A pointer is a byte for each id. What cannot be kept so small is refused, with the way out.

# %%
try:
    tablefold.fold(copy.deepcopy(trained), compression=500, counts=counts)
except ValueError as error:
    print(error)

# %% [markdown]
# Next: [what a trained table becomes](../fold.md#what-a-trained-table-becomes), and
# [files and services](../ship.md).
