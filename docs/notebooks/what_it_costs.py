# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What 16x, 64x and 1000x cost on your data
#
# The same model at several sizes, by several methods, on one log. Put your own log in the place of ours and run it.
# `tablefold study run sharing-compression --data log --out study --report` does it with seeds, curves and a page.
#
# ## A log
#
# We draw one whose best figures are known. Yours: `tablefold prepare table clicks.parquet --out log`.

# %%
import os
import tempfile

from tablefold.cli import main
from tablefold.data import Dataset

os.chdir(tempfile.mkdtemp())
assert main(["generate", "log", "--rows", "60000", "--prepared"]) == 0
dataset = Dataset("log")
tables = dataset.schema.table_specs(dim=16)
print(f"{sum(table.num_bytes for table in tables):,} bytes of full tables, {len(tables)} of them")

# %% [markdown]
# ## One training
#
# `make_plan` gives each table what the budget allows, in the best format at that size. The rest is the same for all.

# %%
from tablefold import make_plan
from tablefold.models import build_model
from tablefold.train import Schedule, Trainer


def cost(method, compression=None):
    """Test AUC of a model whose embeddings are so many times smaller; None where the method cannot be so small."""
    try:
        plan = make_plan(method, tables, compression=compression)
    except ValueError:
        return None
    model = build_model(
        "dlrm", plan.build(seed=0), dense_columns=len(dataset.schema.dense), seed=0, bottom_mlp=[64], top_mlp=[64]
    )
    trainer = Trainer(model, "amsgrad", lr=2e-3)
    trainer.fit(dataset.part("train"), Schedule(epochs=1, batch_size=128), dataset.part("validation"))
    return trainer.evaluate(dataset.part("test")).auc


full = cost("full")
print(f"full tables: AUC {full:.4f}")

# %% [markdown]
# ## Sizes and methods

# %%
SIZES = (16, 64, 1000)
found = {method: [cost(method, size) for size in SIZES] for method in ("hash", "qr", "robe:block=4")}

print("method        " + "".join(f"{size:>9}x" for size in SIZES))
for method, values in found.items():
    print(f"{method:14}" + "".join(f"{'cannot' if value is None else f'{value - full:+.4f}':>10}" for value in values))

# %% [markdown]
# Each figure is AUC lost (or won) against full tables, one seed. Differences below .005 are noise here: 60,000 rows.
# Full tables may be overtaken: after an epoch or two they overfit, and folded ones do not. So hold a fold against plain
# hashing at the same bytes, too.
#
# ## As a picture

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(5, 3.2))
for method, values in found.items():
    points = [(size, value) for size, value in zip(SIZES, values) if value is not None]
    axes.plot(*zip(*points), marker="o", label=method)
axes.axhline(full, color="black", linestyle="--", label="full tables")
axes.set_xscale("log")
axes.set_xticks(SIZES, [f"{size}x" for size in SIZES])
axes.minorticks_off()
axes.set_xlabel("tables so many times smaller")
axes.set_ylabel("test AUC")
axes.legend()
figure.tight_layout()

# %% [markdown]
# Next: [Study your own data](../studies.md), [Choose a representation](../choose.md).
