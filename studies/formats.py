"""How a block of float32 weights becomes codes of few bits and one scale: error after training, and AUC through it.

    python studies/formats.py gowalla FILE --work FOLDER --errors --results studies/results/formats.jsonl
    python studies/formats.py gowalla FILE --work FOLDER --seeds 0 1 2 --variants fp32 int2:half:mean:1:ue5m3:32
    python studies/formats.py clicks --work FOLDER --seeds 0 --variants fp32 int2:half:mean:1:ue5m3:32

FILE is Gowalla's Parquet file of positives; `clicks` generates 400,000 synthetic rows. Every run trains full tables
whose forward pass reads decoded codes, while the gradient goes straight through to the float32 weights. A variant is
`bits:levels:statistic:factor:store:block`, and `:clip` after it drops the gradient of weights beyond the last level:

    levels     half (+-.5, +-1.5, ..) or whole (0, +-1, .., the lowest code unused)
    statistic  what the scale is: mean (factor * mean |w|), max (factor * max |w| / last level), refit (the scale of
               least squares for the codes that `mean` gives), search (the scale of least squares), learned (LSQ, Esser
               et al., ICLR 2020: a parameter, its logarithm stepped at factor * the learning rate)
    store      of the scale: fp32, bf16, ue5m3 (one byte: 5 bits of exponent, 3 of mantissa), e4m3 (the same with 4, its
               exponents counted down from the array's largest), pow2 (one byte, the nearest power of two); ue5m3up and
               pow2up round up instead, so that `max` clips nothing

With `--errors` one float32 training (kept in FOLDER) is cut by many variants instead, and so is an array as it starts:
the share of the squared norm that is lost. Trainings whose line is in the results are skipped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tablefold.data import Dataset
from tablefold.data.shards import Examples
from tablefold.method import parse
from tablefold.models import Network, build_model
from tablefold.starts import FULL_START
from tablefold.tables import FLOAT_BYTES, TableSpec
from tablefold.train.metrics import Meter

DIM = 16
CLICK_ROWS = "400000"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gowalla": ("neumf", {"top_mlp": (64, 32)}),
    "clicks": ("dlrm", {"bottom_mlp": (128, 64), "top_mlp": (128, 64)}),
}
BATCH = {"gowalla": 8192, "clicks": 256}
LEARNING_RATE = {"gowalla": 2e-3, "clicks": 1e-3}
EPOCHS = {"gowalla": 4, "clicks": 1}
EVALUATION_ROWS = 1 << 16

SCALE_BYTES = {"fp32": 4, "bf16": 2, "ue5m3": 1, "e4m3": 1, "pow2": 1, "ue5m3up": 1, "pow2up": 1}
LEAST_EXPONENT, GREATEST_EXPONENT = -23, 8
SEARCHED = 2.0 ** (-torch.arange(0, 25) / 8)
"""Of the scale that clips nothing: what the search of least squares tries."""


@dataclass(frozen=True)
class Variant:
    """One way to encode blocks of weights; see the module."""

    bits: int
    levels: str
    statistic: str
    factor: float
    store: str
    block: int
    clip: bool = False

    @classmethod
    def parse(cls, text: str) -> Variant | None:
        if text == "fp32":
            return None
        bits, levels, statistic, factor, store, block, *clip = text.split(":")
        return cls(int(bits.removeprefix("int")), levels, statistic, float(factor), store, int(block), bool(clip))

    @property
    def top(self) -> float:
        """The last level."""
        codes = 1 << self.bits
        return (codes - 1) / 2 if self.levels == "half" else codes // 2 - 1

    def num_bytes(self, floats: int) -> int:
        return floats * self.bits // 8 + -(-floats // self.block) * SCALE_BYTES[self.store]

    def nearest(self, blocks: Tensor, scale: Tensor) -> Tensor:
        """The level nearest to each weight, in units of the scale."""
        units = blocks / scale
        units = units.floor_().add_(0.5) if self.levels == "half" else units.round_()
        return units.clamp_(-self.top, self.top)

    def stored(self, scale: Tensor) -> Tensor:
        """The positive scale as it is read back."""
        if self.store == "fp32":
            return scale
        if self.store == "bf16":
            return scale.bfloat16().float()
        up = self.store.endswith("up")
        if self.store.startswith("pow2"):
            return torch.exp2(torch.log2(scale).ceil_() if up else torch.log2(scale).round_())
        wide = self.store.startswith("ue5m3")
        greatest = GREATEST_EXPONENT if wide else int(torch.frexp(scale.max()).exponent) - 1
        least = LEAST_EXPONENT if wide else greatest - 15
        scale = scale.clamp(2.0**least, 1.875 * 2.0**greatest)
        mantissa, exponent = torch.frexp(scale)
        mantissa = mantissa * 16
        return torch.ldexp((mantissa.ceil_() if up else mantissa.round_()) / 16, exponent)

    def scale(self, blocks: Tensor) -> Tensor:
        """The scale of each block, as stored."""
        size = blocks.abs()
        if self.statistic == "search":
            return self._search(blocks, size.amax(1, keepdim=True).clamp_min(1e-12) / self.top)
        if self.statistic == "max":
            return self.stored(size.amax(1, keepdim=True).mul_(self.factor / self.top).clamp_min_(1e-12))
        mean = size.mean(1, keepdim=True).mul_(self.factor).clamp_min_(1e-12)
        if self.statistic == "refit":
            levels = self.nearest(blocks, mean)
            fit = (blocks * levels).sum(1, keepdim=True) / (levels * levels).sum(1, keepdim=True).clamp_min_(0.25)
            mean = fit.clamp_min_(1e-12)
        return self.stored(mean)

    def _search(self, blocks: Tensor, largest: Tensor) -> Tensor:
        best, least = largest, torch.full_like(largest, torch.inf)
        for part in SEARCHED.tolist():
            scale = self.stored(largest * part)
            error = (self.nearest(blocks, scale).mul_(scale) - blocks).square_().sum(1, keepdim=True)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        return best


class Few:
    """A float32 array that is read through its codes; `step` takes the gradient of what was read."""

    def __init__(self, memory: Tensor, variant: Variant | None, rate: float) -> None:
        self.memory, self.variant = F.pad(memory, (0, 0, 0, len(memory) % 2)), variant  # whole blocks of two rows
        groups: list[dict[str, Any]] = [{"params": [self.memory]}]
        if variant and variant.statistic == "learned":
            blocks = self.memory.view(-1, variant.block)
            self.log_scale = (2 * blocks.abs().mean(1, keepdim=True) / variant.top**0.5).clamp_min(1e-8).log()
            groups.append({"params": [self.log_scale], "lr": variant.factor * rate})
        self.optimizer = torch.optim.Adam(groups, lr=rate, amsgrad=True, fused=True)
        self.table = self.memory

    def read(self) -> Tensor:
        """The array as its codes decode; its gradient is to be collected."""
        if self.variant is None:
            self.table = self.memory.detach()
        else:
            self.blocks = self.memory.view(-1, self.variant.block)
            learned = self.variant.statistic == "learned"
            scale = self.variant.stored(self.log_scale.exp()) if learned else self.variant.scale(self.blocks)
            self.levels, self.scale = self.variant.nearest(self.blocks, scale), scale
            self.table = (self.levels * scale).view_as(self.memory)
        return self.table.requires_grad_()

    def step(self) -> None:
        gradient = self.table.grad
        assert gradient is not None
        if self.variant and (self.variant.clip or self.variant.statistic == "learned"):
            outside = self.blocks.abs() > self.scale * (self.variant.top + 0.5)
            blocked = gradient.view_as(self.blocks)
            if self.variant.statistic == "learned":
                error = torch.where(outside, self.levels * self.scale, self.levels * self.scale - self.blocks)
                self.log_scale.grad = (blocked * error).sum(1, keepdim=True)
            if self.variant.clip:
                blocked.masked_fill_(outside, 0)
        self.memory.grad = gradient
        self.optimizer.step()


class Rows(NamedTuple):
    """A part of a dataset in memory; ids are rows of the one array."""

    dense: Tensor
    ids: Tensor
    label: Tensor

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Rows]:
        for start in range(0, len(self.label), size):
            piece = slice(start, start + size) if order is None else order[start : start + size]
            yield Rows(self.dense[piece], self.ids[piece], self.label[piece])


def prepare(study: str, file: Path | None, work: Path, seed: int) -> Path:
    data = work / f"{study}-{seed}"
    if not data.exists():
        command: tuple[str, ...] = ("generate", str(data), "--prepared", "--rows", CLICK_ROWS)
        if study == "gowalla":
            command = ("prepare", "interactions", str(file), "--user", "user", "--item", "item", "--out", str(data))
        subprocess.run([sys.executable, "-m", "tablefold", *command, "--seed", str(seed)], check=True)
    return data


def load(dataset: Dataset, name: str) -> Rows:
    part = dataset.part(name)
    examples = Examples.concatenate(part.examples(0, part.rows))
    bases = np.cumsum([0, *(table.rows for table in dataset.schema.tables)])[:-1]
    ids = torch.from_numpy(examples.ids.astype(np.int64) + bases)
    return Rows(torch.from_numpy(np.array(examples.dense)), ids, torch.from_numpy(examples.label.astype(np.float32)))


def evaluate(model: Network, table: Tensor, rows: Rows) -> tuple[float, float]:
    meter = Meter()
    with torch.inference_mode():
        for batch in rows.batches(EVALUATION_ROWS):
            meter.update(model.logits(batch.dense, F.embedding(batch.ids, table)), batch.label)
    figures = meter.compute()
    return round(figures.auc, 5), round(figures.logloss, 5)


def train(study: str, data: Path, seed: int, variant: Variant | None, epochs: int) -> tuple[dict[str, Any], Tensor]:
    """AUC and log loss after each epoch, and the float32 array behind the codes."""
    dataset = Dataset(data)
    tables = [TableSpec(table.name, table.rows, DIM) for table in dataset.schema.tables]
    group = parse("full").build(tables, seed=seed)
    name, sizes = MODELS[study]
    model = build_model(name, group, len(dataset.schema.dense), seed=seed, **sizes)
    few = Few(group.memory.detach().view(-1, DIM), variant, LEARNING_RATE[study])
    weights = [weight for key, weight in model.named_parameters() if not key.startswith("group.")]
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE[study], amsgrad=True)
    rows, generator = load(dataset, "train"), torch.Generator().manual_seed(seed)
    parts, began = {name: load(dataset, name) for name in ("validation", "test")}, time.perf_counter()
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    for _ in range(epochs):
        for batch in rows.batches(BATCH[study], torch.randperm(len(rows.label), generator=generator)):
            logits = model.logits(batch.dense, F.embedding(batch.ids, few.read()))
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, batch.label).backward()
            optimizer.step()
            few.step()
        for part, curve in curves.items():
            curve.append(evaluate(model, few.read().detach(), parts[part]))
    seconds, floats = round(time.perf_counter() - began, 1), group.memory.numel()
    size = variant.num_bytes(floats) if variant else FLOAT_BYTES * floats
    return {**curves, "bytes": size, "seconds": seconds}, few.memory


AT_TWO = (
    "mean:0.8",
    "mean:0.9",
    "mean:1",
    "mean:1.1",
    "mean:1.2",
    "mean:1.3",
    "max:0.6",
    "max:0.7",
    "max:0.8",
    "max:1",
)
AT_FOUR = ("mean:0.35", "mean:0.4", "mean:0.45", "max:0.8", "max:0.9", "max:0.95", "max:1", "search:1")
AT_EIGHT = ("mean:0.03", "mean:0.04", "max:0.9", "max:0.95", "max:1", "search:1")
EXACT = {
    "int2:half": (*AT_TWO, "refit:1", "search:1"),
    "int2:whole": ("mean:1.2", "mean:1.4", "mean:1.6", "refit:1.4", "search:1"),
    "int4:half": AT_FOUR,
    "int4:whole": AT_FOUR,
    "int8:half": AT_EIGHT,
    "int8:whole": AT_EIGHT,
}
STORED = {
    "int2:half": ("mean:1", "mean:1.1", "refit:1", "search:1"),
    "int4:half": ("max:0.9", "max:0.95", "max:1", "search:1"),
    "int4:whole": ("max:0.95",),
    "int8:half": ("max:1",),
    "int8:whole": ("max:1",),
}


def error_variants() -> list[str]:
    """Every statistic with exact scales, in blocks of 32 and of a row; then how the better ones are stored."""
    exact = [(form, how, ("fp32",)) for form, several in EXACT.items() for how in several]
    stored = [(form, how, tuple(SCALE_BYTES)[1:]) for form, several in STORED.items() for how in several]
    return [
        f"{form}:{how}:{store}:{block}"
        for form, how, stores in exact + stored
        for store, block in product(stores, (32, DIM))
        if block == 32 or store in ("fp32", "ue5m3", "ue5m3up")
    ]


def lost(memory: Tensor, variant: Variant, counts: Tensor) -> tuple[float, float]:
    """The share of the squared norm that the codes lose: of the array, and as often as its rows are read."""
    blocks = memory.view(-1, variant.block)
    scale = variant.scale(blocks)
    error = (variant.nearest(blocks, scale) * scale - blocks).view_as(memory).square().sum(1)
    norm = memory.square().sum(1)
    read = float(error @ counts) / float(norm @ counts)
    return float(error.sum() / norm.sum()), read


def errors(study: str, data: Path, work: Path, epochs: int) -> Iterator[dict[str, Any]]:
    """One line per variant: the share of the squared norm lost, of trained tables and as they start."""
    saved = work / f"{study}-{epochs}.pt"
    if not saved.exists():
        torch.save(train(study, data, 0, None, epochs)[1], saved)
    memory = torch.load(saved)
    counts = torch.bincount(load(Dataset(data), "train").ids.view(-1), minlength=len(memory)).float()
    start = torch.empty_like(memory).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    start *= FULL_START.std * 3**0.5
    for text in error_variants():
        variant = Variant.parse(text)
        assert variant
        whole, read = lost(memory, variant, counts)
        shares = {"lost": whole, "lost_as_read": read, "lost_at_start": lost(start, variant, counts)[0]}
        yield {"variant": text, "epochs": epochs, **{name: round(share, 6) for name, share in shares.items()}}


def lines(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What was asked for, one line after the other; trainings whose line is in the results are left out."""
    study, work, results = arguments.study, arguments.work, arguments.results
    epochs = arguments.epochs or EPOCHS[study]
    if arguments.errors:
        yield from errors(study, prepare(study, arguments.file, work, 0), work, epochs)
        return
    texts = results.read_text().splitlines() if results.exists() else []
    done = {tuple(map(json.loads(text).get, ("study", "variant", "seed", "epochs"))) for text in texts}
    for seed, text in product(arguments.seeds, arguments.variants):
        if (study, text, seed, epochs) not in done:
            data = prepare(study, arguments.file, work, seed)
            figures, _ = train(study, data, seed, Variant.parse(text), epochs)
            yield {"variant": text, "seed": seed, "epochs": epochs, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=MODELS)
    parser.add_argument("file", type=Path, nargs="?", help="Gowalla's positives")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "formats.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=["fp32"])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--errors", action="store_true", help="cut one training by every variant")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for line in lines(arguments):
        with arguments.results.open("a") as file:
            file.write(json.dumps({"study": arguments.study, **line}) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
