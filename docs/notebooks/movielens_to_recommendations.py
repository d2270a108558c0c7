# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # MovieLens, from a file to recommendations
#
# Ratings in MovieLens' format, a model of them, and the best films for each user. MovieLens itself may not be passed
# on, so the first cell makes a file of the same form. To use the real one, download
# [ml-1m.zip](https://grouplens.org/datasets/movielens/1m/), unpack it, and set `RATINGS = "ml-1m/ratings.dat"`.

# %%
import os
import tempfile

import numpy as np

os.chdir(tempfile.mkdtemp())
RATINGS = "ratings.dat"

random = np.random.default_rng(0)
users, films, count = 1_500, 600, 60_000
user = random.integers(0, users, count)
likes = random.normal(size=(users, 5)) @ random.normal(size=(5, films)) + 2 * random.random(films)
film = np.argmax(likes[user] + 2.5 * random.gumbel(size=(count, films)), axis=1)
stars = np.clip(np.round(3 + 0.5 * likes[user, film] + random.normal(size=count)), 1, 5).astype(int)
with open(RATINGS, "w") as file:
    for n in range(count):
        file.write(f"{user[n] + 1}::{film[n] + 1}::{stars[n]}::{978_300_000 + n}\n")
print(open(RATINGS).read(66))

# %% [markdown]
# ## To Parquet
#
# `prepare interactions` reads Parquet and CSV with a column of users and a column of items. `::` becomes one comma.

# %%
import polars as pl

text = open(RATINGS, encoding="latin-1").read().replace("::", ",").encode()
frame = pl.read_csv(text, has_header=False, new_columns=["user", "film", "rating", "time"])
frame = frame.unique(["user", "film"], keep="last", maintain_order=True).sort("time")
frame.write_parquet("ratings.parquet")
print(frame.head(3))

# %% [markdown]
# ## To a dataset
#
# A rating of 4 or 5 is a film that the user took. Films that a user never rated are drawn as negatives. `by-user` keeps
# the last fifth of every user for the test. These are commands; from a shell you would type them without the quotes.

# %%
import shlex

from tablefold.cli import main


def shell(line):
    assert main(shlex.split(line)[1:]) == 0


shell(
    "tablefold prepare interactions ratings.parquet --user user --item film --rating rating --min-rating 4 "
    "--time time --split by-user --out films"
)

# %% [markdown]
# ## To a model
#
# Once with full tables, once 8x smaller. `two_tower` ranks by one dot product for a user and a film.

# %%
train = "tablefold train films --model two_tower --dim 32 --batch-size 1024 --epochs 6 --optimizer amsgrad --lr 3e-3"
shell(f"{train} --out full")
shell(f"{train} --method qr --compression 8 --out small")

# %% [markdown]
# ## How good are they?
#
# All films that a user has not taken in training are ranked. Recall@20: how much of what she took later is among the
# first 20. These tables are tiny, 269 kB, so each float counts: larger ones lose less.

# %%
shell("tablefold evaluate full --ranking 20")
shell("tablefold evaluate small --ranking 20")

# %% [markdown]
# ## The best films for each user

# %%
shell("tablefold recommend small --k 5 --out top.parquet")
print(pl.read_parquet("top.parquet").head(6))

# %% [markdown]
# With the real file use more: `--dim 64 --epochs 20`, and `--patience 3` with a split that has a validation part
# (`--split leave-last-out`). [Data](../data.md#interactions) has the splits,
# [Training](../training.md#ranking-all-items) the ranking.
