"""Ranking on Gowalla, split as LightGCN's authors did: recall and NDCG of a full two-tower model and of its folds.

    python studies/gowalla_ranking.py FILE --work FOLDER --results studies/results/gowalla_ranking.jsonl

FILE is a Parquet file of Gowalla's positives (columns user, item), users' items in the order of LightGCN's train.txt
and test.txt: `--split by-user` then gives that split, but for 74 positives more in the test part of 217,316. Matrix
factorisation of dim 64 (`two_tower` without layers), eight negatives, AMSGrad 2e-3, batch 8192. Its tables are folded
after training by `tablefold.fold`, which retrains nothing, at its defaults; errors count by 1 + how often an id occurs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import tablefold
from tablefold.ranking.measures import ranking_figures
from tablefold.train import load_run
from tablefold.train.run import Run

DEPTHS = (20, 50)


class Tables(nn.Module):
    """Users and items as `nn.Embedding`s, which `fold` takes: in the place of a group."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        group = run.model.group
        rows = [group.unfold(table.name).float() for table in group.tables]
        self.tables = nn.ModuleList(nn.Embedding.from_pretrained(each, freeze=False) for each in rows)

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors, `[batch, tables, dim]`."""
        return torch.stack([table(column) for table, column in zip(self.tables, ids.T, strict=True)], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--compressions", type=lambda text: [float(each) for each in text.split(",")], default=[16, 64])
    options = parser.parse_args()
    data, folder = options.work / "data", options.work / "full"
    command = [sys.executable, "-m", "tablefold"]
    if not data.exists():
        columns = ["--user", "user", "--item", "item", "--split", "by-user", "--negatives", "8"]
        subprocess.run(
            [*command, "prepare", "interactions", str(options.file), *columns, "--out", str(data)], check=True
        )
    if not folder.exists():
        training = f"--model two_tower --dim 64 --batch-size 8192 --lr 2e-3 --epochs {options.epochs}"
        subprocess.run([*command, "train", str(data), *training.split(), "--out", str(folder)], check=True)
    run = load_run(folder)
    keep(options.results, run, "full", {"embedding_bytes": run.model.group.num_bytes, "compression": 1.0})
    dataset = run.dataset()
    counts = {f"group.tables.{n}": 1 + dataset.counts(table.name) for n, table in enumerate(run.recipe.tables)}
    for compression in options.compressions:
        run = load_run(folder)
        run.model._modules["group"] = Tables(run)
        report = tablefold.fold(run.model, compression=compression, counts=counts)
        size = {"embedding_bytes": report.num_bytes, "compression": report.compression}
        keep(options.results, run, f"fold, {compression:g}x", size)


def keep(results: Path, run: Run, form: str, facts: dict[str, float]) -> None:
    """Rank all items, print and append the figures."""
    figures = {name: round(value, 5) for name, value in ranking_figures(run, DEPTHS).items()}
    line = {"data": "gowalla", "split": "by-user", "form": form, **facts, **figures}
    line["machine"] = f"{os.cpu_count()} cores, AMD EPYC"
    print(json.dumps(line), flush=True)
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
