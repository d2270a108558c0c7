"""The 10,000x set-up on a small machine: MLPerf's DLRM over Criteo-TB's 882,774,559 ids from 2.7 million floats.

    python studies/criteo_tb.py --results studies/results/criteo_tb.json

26 uncapped tables x 128 (452 GB as full tables) in `robe:block=32,floats=2700000` (10.8 MB), DLRM 13-512-256-128 /
1024-1024-512-256-1, SGD, batch 2048, a few hundred steps on synthetic examples: ids log-uniform over the full ranges,
labels drawn from a teacher's probabilities (a hashed effect per id of each table's head, and the dense columns).
Then the cost of a step at the same memory, with 10^4 .. 10^9 ids in each of the 26 tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from tablefold import TableSpec, full_bytes, parse
from tablefold.hashing import bucket_bits, derive_key, hash_id
from tablefold.models import build_model
from tablefold.train.machine import describe_machine, peak_rss_bytes

CRITEO_TB_ROWS = (
    *(227605432, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 130229467, 3067956, 405282, 10, 2209, 11938, 155, 4),
    *(976, 14, 292775614, 40790948, 187188510, 590152, 12973, 108, 36),
)
DIM, BATCH, SPEC = 128, 2048, "robe:block=32,floats=2700000"


def examples(rows: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dense [batch, 13], ids [batch, 26], label [batch])."""
    dense = torch.randn(BATCH, 13, generator=generator)
    uniform = torch.rand(BATCH, len(rows), generator=generator, dtype=torch.float64)
    ids = (torch.exp(uniform * torch.log(rows.double())).long() - 1).clamp(min=0).minimum(rows - 1)
    effects = bucket_bits(hash_id(ids, derive_key(1))).double() / 2**53 - 0.5
    logit = 1.5 * effects.sum(1) / len(rows) ** 0.5 * 3.46 + 0.3 * dense[:, :4].sum(1) - 1.1
    return dense, ids, torch.bernoulli(torch.sigmoid(logit), generator=generator).float()


def build(tables: list[TableSpec]) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    group = parse(SPEC).build(tables, seed=0)
    model = build_model("dlrm", group, 13, bottom_mlp=(512, 256), top_mlp=(1024, 1024, 512, 256), seed=0)
    return model, torch.optim.SGD(model.parameters(), lr=0.3)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[torch.Tensor, ...]) -> float:
    dense, ids, label = batch
    optimizer.zero_grad()
    loss = F.binary_cross_entropy_with_logits(model(dense, ids), label)
    loss.backward()
    optimizer.step()
    return loss.item()


def headline(steps: int) -> dict[str, object]:
    """Train, and measure loss, memory and the file."""
    tables = [TableSpec(f"C{number}", rows, DIM) for number, rows in enumerate(CRITEO_TB_ROWS, start=1)]
    model, optimizer = build(tables)
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor(CRITEO_TB_ROWS)
    losses, seconds = [], []
    for _ in range(steps):
        batch = examples(rows, generator)
        begin = time.perf_counter()
        losses.append(step(model, optimizer, batch))
        seconds.append(time.perf_counter() - begin)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(model.state_dict(), path)
        file_bytes = path.stat().st_size
    return {
        "ids": sum(CRITEO_TB_ROWS),
        "full_bytes": full_bytes(tables),
        "embedding_bytes": model.group.num_bytes,
        "file_bytes": file_bytes,
        "peak_rss_bytes": peak_rss_bytes(),
        "steps": steps,
        "loss_by_50_steps": [round(statistics.mean(losses[i : i + 50]), 4) for i in range(0, steps, 50)],
        "median_step_seconds": round(statistics.median(seconds), 4),
    }


def cost_by_ids(steps: int) -> dict[str, float]:
    """Median seconds of a step for equal memory and ever more ids, the sizes taking turns."""
    sizes = (10**4, 10**6, 10**8, 10**9)
    runs = {}
    generator = torch.Generator().manual_seed(1)
    for rows in sizes:
        model, optimizer = build([TableSpec(f"t{number}", rows, DIM) for number in range(26)])
        ids = torch.randint(0, rows, (BATCH, 26), generator=generator)
        runs[rows] = (model, optimizer, (torch.randn(BATCH, 13), ids, torch.ones(BATCH)), [])
    for turn in range(steps):
        for model, optimizer, batch, seconds in runs.values():
            begin = time.perf_counter()
            step(model, optimizer, batch)
            if turn >= 2:
                seconds.append(time.perf_counter() - begin)
    return {f"{rows:.0e}": round(statistics.median(run[3]), 4) for rows, run in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    result = {"spec": SPEC, "machine": describe_machine(torch.device("cpu")), **headline(arguments.steps)}
    result["step_seconds_by_ids_per_table"] = cost_by_ids(22)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
