"""Trained tables folded without data: AUC before and after, by representation, at the bytes of a group (pointers too).

    python studies/fold_trained.py FILE --work FOLDER --results studies/results/fold_trained.jsonl

FILE is a Parquet file of positives (columns user, item). A NeuMF is trained full, as in `equal_bytes.py formats`, until
validation stops it; every line then replaces its two tables, retrains nothing and evaluates on the test rows. Errors
count by 1 + how often an id occurs in training. `fold` is `tablefold.fold`, with `data` too; `metric` are errors as the
loss sees them (the mean of g g' over 40 batches of training); `product` is product quantisation, codebooks in float32
and counted in int4. `limit` is what no code of so many bits a row could beat if rows were normal: each row sent through
the channel of least error (reverse water-filling; Shannon 1959), with nothing counted for codebooks. `tuned` folds are
trained for a tenth of an epoch, judged by the validation part. `--rivals` appends what others do: rows in int8 and int4
with a scale and an offset each, as TorchRec quantises tables; singular vectors; faiss's product quantisation (it needs
faiss-cpu), all bytes counted as they keep them.

MovieLens: python studies/fold_trained.py - --data DATA --run RUN --work . --sizes 7.5 14 16 20 32 64 --renumbered 16 32
    64 --limits 16 24 32 40 48 64 --tuned 16 32 --results studies/results/fold_trained_movielens.jsonl
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tablefold import fold
from tablefold.clustering import cluster
from tablefold.data.dataset import Batch, Dataset
from tablefold.formats import INT2, INT4, INT8, Format
from tablefold.method import Method, Trained, parse
from tablefold.models.network import Network
from tablefold.tables import TableSpec
from tablefold.train import load_run
from tablefold.train.metrics import Meter

SIZES = (3.7, 7.5, 10, 14, 16, 20, 30, 32, 56, 60)
RENUMBERED = (16, 32, 64, 128, 256, 1000)
BATCH = 8192


class Tables(nn.Module):
    """A group as users have it: an `nn.Embedding` for each column."""

    def __init__(self, tables: list[Tensor]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding.from_pretrained(each, freeze=False) for each in tables)
        self.dim, self.num_features = tables[0].shape[1], len(tables)
        self.numbers: list[Tensor] = []  # new ones of all ids, where they have some

    def forward(self, ids: Tensor) -> Tensor:
        columns = list(ids.T)
        if self.numbers:
            columns = [numbers[column] for numbers, column in zip(self.numbers, columns, strict=True)]
        return torch.stack([table(column) for table, column in zip(self.tables, columns, strict=True)], dim=1)


def trained_run(file: Path, work: Path) -> tuple[Path, Path]:
    """(the data set, the run), made where they are not there yet."""
    data, run = work / "gowalla-frequency-0", work / "full"
    command = [sys.executable, "-m", "tablefold"]
    if not data.exists():
        columns = ["--user", "user", "--item", "item", "--negatives", "4", "--seed", "0"]
        subprocess.run([*command, "prepare", "interactions", str(file), *columns, "--out", str(data)], check=True)
    if not run.exists():
        training = "--model neumf --top-mlp 64,32 --dim 16 --optimizer amsgrad --lr 2e-3 --batch-size 8192 --epochs 9"
        training += " --eval-every 267 --patience 4 --storage fp32 --method full"
        subprocess.run([*command, "train", str(data), *training.split(), "--out", str(run)], check=True)
    return data, run


class Experiment:
    """A trained model, its data, and what its tables are folded to."""

    def __init__(self, data: Path, run: Path, part: str) -> None:
        self.model = load_run(run).model
        tables = self.model.group.tables
        self.values = [self.model.group.unfold(table.name).float() for table in tables]
        dataset = Dataset(data)
        self.rows = dataset.schema.parts["train"].rows
        self.train, self.judges = dataset.part("train"), dataset.part("validation")
        self.part = [*dataset.part(part).batches(1 << 16)]
        self.counts = [np.zeros(len(each)) for each in self.values]
        for batch in self.train.batches(1 << 16):
            for column, counts in enumerate(self.counts):
                counts += np.bincount(batch.ids[:, column].numpy(), minlength=len(counts))
        self.full = sum(each.nbytes for each in self.values)

    def scored(self, group: nn.Module, network: Network | None = None) -> dict[str, float]:
        """AUC and log loss with other tables, and another network."""
        model: Network = copy.copy(network or self.model)
        model._modules = {**self.model._modules, "group": group}
        meter = Meter()
        with torch.no_grad():
            for batch in self.part:
                meter.update(model.eval()(batch.dense, batch.ids).flatten(), batch.label)
        found = meter.compute()
        return {"auc": round(found.auc, 5), "log_loss": round(found.logloss, 5)}

    def metrics(self) -> list[Tensor]:
        """Of each table the mean of g g', g the gradient of an example's loss by the vector it reads."""
        found = [torch.zeros(each.shape[1], each.shape[1]) for each in self.values]
        for number, batch in enumerate(self.train.batches(BATCH, seed=1)):
            if number == 40:
                break
            vectors = Tables(self.values)(batch.ids).detach().requires_grad_()
            model: Network = copy.copy(self.model)
            model._modules = {**self.model._modules, "group": _Given(vectors)}
            (gradient,) = torch.autograd.grad(_loss(model, batch), vectors)
            for column, metric in enumerate(found):
                metric += gradient[:, column].T @ gradient[:, column] / (40 * BATCH)
        return found

    def limit(self, bits: float, metrics: list[Tensor] | None) -> dict[str, object]:
        """What no code of so many bits a row could beat, were rows normal."""
        generator, tables = torch.Generator().manual_seed(0), []
        for column, values in enumerate(self.values):
            metric = torch.eye(values.shape[1]) if metrics is None else metrics[column]
            tables.append(ideal(values, torch.from_numpy(1 + self.counts[column]), metric, bits, generator))
        size = self.full / sum(bits / 8 * len(each) for each in self.values)
        return {"compression": round(size, 2), **self.scored(Tables(tables))}

    def replaced(self, by: Callable[[Trained], tuple[Tensor, int]], metrics: list[Tensor] | None) -> dict[str, float]:
        """Each table replaced by what a function makes of it: vectors, and the bytes that they are made of."""
        tables, num_bytes = [], 0
        for column, values in enumerate(self.values):
            spec = TableSpec(str(column), *values.shape)
            metric = None if metrics is None else metrics[column]
            vectors, size = by(Trained(spec, values, 1 + self.counts[column], metric))
            tables.append(vectors)
            num_bytes += size
        return {"bytes": num_bytes, "compression": round(self.full / num_bytes, 2), **self.scored(Tables(tables))}

    def folded(
        self, size: float, guided: bool, ids: Literal["stored", "renumber"] = "stored", tuned: bool = False
    ) -> dict[str, object]:
        """What `tablefold.fold` makes of it, with gradients of 40 batches, new numbers of ids, tuning or without."""
        model: Network = copy.deepcopy(self.model) if tuned else copy.copy(self.model)
        group = Tables([each.clone() for each in self.values])
        model._modules = {**self.model._modules, "group": group}
        counts: dict[str, NDArray[np.float64]] = {f"group.tables.{n}": each for n, each in enumerate(self.counts)}
        data = {"data": self.train.batches(BATCH, seed=1), "loss": _loss} if guided else {}
        words = [f"fold, {size}x", "data" if guided else "", "renumbered" if ids == "renumber" else ""]
        line: dict[str, object] = {"form": ", ".join(filter(None, [*words, "tuned" if tuned else ""]))}
        if tuned:
            data |= {"tune": self.rows // BATCH // 10, "judge": [*self.judges.batches(1 << 16)]}
        try:
            report = fold(model, compression=size, counts=counts, ids=ids, **data)  # type: ignore[arg-type]
        except ValueError as error:
            return {**line, "error": str(error)}
        numbers = [report.numbering[f"group.tables.{n}"] for n in range(len(self.values))] if report.numbering else []
        group.numbers = [torch.from_numpy(each) for each in numbers]
        scores = self.scored(group, model)
        line |= {"bytes": report.num_bytes, "compression": round(report.compression, 2), **scores}
        if report.tuned is not None:
            line |= {"steps": report.tuned.steps, "loss": [round(report.tuned.before, 5), round(report.tuned.after, 5)]}
        spec = [f"{table.representation} in {table.format}" for table in report.tables]
        return {**line, "tables": spec, "lost": [round(table.error or 0.0, 4) for table in report.tables]}


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch.dense, batch.ids).flatten()
    return nn.functional.binary_cross_entropy_with_logits(logits, batch.label, reduction="sum")


class _Given(nn.Module):
    """Vectors that are there already."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors, self.dim, self.num_features = vectors, vectors.shape[2], vectors.shape[1]

    def forward(self, _: Tensor) -> Tensor:
        return self.vectors


def kept(method: Method, within: Format) -> Callable[[Trained], tuple[Tensor, int]]:
    """By a method of ours."""

    def vectors(table: Trained) -> tuple[Tensor, int]:
        found = method.keep(table, within)
        rows = [within.read(each) for each in found.regions]
        of = [torch.from_numpy(each.astype(np.int64)) for each in found.lookups] or [torch.arange(len(rows[0]))]
        size = within.num_bytes(sum(each.numel() for each in rows)) + sum(each.nbytes for each in found.lookups)
        return torch.stack([each[own] for each, own in zip(rows, of, strict=True)]).sum(0), size

    return vectors


def scaled(within: Format) -> Callable[[Trained], tuple[Tensor, int]]:
    """In few bits by plain scales."""
    return lambda table: (within.read(table.values), within.num_bytes(table.values.numel()))


def product(parts: int) -> Callable[[Trained], tuple[Tensor, int]]:
    """Each vector cut into parts, each in 256 clusters."""

    def vectors(table: Trained) -> tuple[Tensor, int]:
        found: list[Tensor] = []
        for part in table.values.chunk(parts, dim=1):
            clusters = cluster(part.contiguous(), 256, weights=table.weights, iterations=12)
            found.append(clusters.centroids[torch.from_numpy(clusters.of.astype(np.int64))])
        return torch.cat(found, dim=1), parts * len(table.values) + INT4.num_bytes(256 * table.values.shape[1])

    return vectors


def by_row(bits: int) -> Callable[[Trained], tuple[Tensor, int]]:
    """As FBGEMM fuses rows for TorchRec: a scale and an offset for each, in float32 beside 8 bits, else in float16."""

    def vectors(table: Trained) -> tuple[Tensor, int]:
        low, high = (each[0] for each in (table.values.min(1, keepdim=True), table.values.max(1, keepdim=True)))
        scale = (high - low) / (2**bits - 1)
        if bits < 8:
            low, scale = low.half().float(), scale.half().float()
        codes = ((table.values - low) / scale.clamp(min=1e-12)).round().clamp(0, 2**bits - 1)
        rows, dim = table.values.shape
        return codes * scale + low, rows * (dim * bits // 8 + (8 if bits == 8 else 4))

    return vectors


def singular(rank: int, within: Format) -> Callable[[Trained], tuple[Tensor, int]]:
    """The nearest table of a rank, its rows in few bits."""

    def vectors(table: Trained) -> tuple[Tensor, int]:
        left, values, right = torch.linalg.svd(table.values, full_matrices=False)
        rows = left[:, :rank] * values[:rank]
        return within.read(rows) @ right[:rank], within.num_bytes(rows.numel()) + right[:rank].nbytes

    return vectors


def by_faiss(parts: int) -> Callable[[Trained], tuple[Tensor, int]]:
    """Product quantisation by faiss, 8 bits for each part; it knows no weights."""
    import faiss

    def vectors(table: Trained) -> tuple[Tensor, int]:
        values = table.values.numpy()
        quantizer = faiss.ProductQuantizer(values.shape[1], parts, 8)
        quantizer.train(values)
        codes = quantizer.compute_codes(values)
        return torch.from_numpy(quantizer.decode(codes)), codes.nbytes + 256 * values.shape[1] * 4

    return vectors


def rivals(experiment: Experiment) -> Iterator[dict[str, object]]:
    """What others do."""
    for bits in (8, 4):
        yield {"form": f"int{bits} by row", **experiment.replaced(by_row(bits), None)}
    for rank in (8, 4, 2, 1):
        yield {"form": f"singular vectors, {rank} in int8", **experiment.replaced(singular(rank, INT8), None)}
    for parts in (8, 4, 2, 1):
        yield {"form": f"faiss, {parts} parts", **experiment.replaced(by_faiss(parts), None)}


def ideal(values: Tensor, weights: Tensor, metric: Tensor, bits: float, generator: torch.Generator) -> Tensor:
    """Normal rows of this mean and covariance as the best code of so many bits a row would give them back."""
    weights, root = weights / weights.sum(), torch.linalg.cholesky(metric.double())
    turned = values.double() @ root
    middle = weights @ turned
    variances, axes = torch.linalg.eigh(((turned - middle).T * weights) @ (turned - middle))
    low, high = 0.0, float(variances.max())
    for _ in range(60):  # the level at which reverse water-filling takes these bits
        level = (low + high) / 2
        low, high = (level, high) if float((variances / level).clamp(min=1).log2().sum()) / 2 > bits else (low, level)
    kept = 1 - variances.clamp(max=level) / variances
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    coordinates = (turned - middle) @ axes * kept + noise * (kept * (1 - kept) * variances).sqrt()
    return ((coordinates @ axes.T + middle) @ torch.linalg.inv(root)).float()


def lines(
    experiment: Experiment,
    sizes: Sequence[float],
    renumbered: Sequence[float],
    limits: Sequence[float],
    tuned: Sequence[float],
) -> Iterator[dict[str, object]]:
    """Everything that is compared."""
    yield {"form": "full", **experiment.replaced(lambda table: (table.values, table.values.nbytes), None)}
    for within in (INT8, INT4, INT2):
        yield {"form": f"{within.name}, plain scales", **experiment.replaced(scaled(within), None)}
        least = kept(parse("full"), within)
        yield {"form": f"{within.name}, scales of least error", **experiment.replaced(least, None)}
    metrics = experiment.metrics()
    for stages in (1, 2, 3, 4, 6):
        residual = kept(parse(f"residual:stages={stages}"), INT4 if stages < 3 else INT8)
        yield {"form": f"residual, {stages} stages", **experiment.replaced(residual, None)}
        yield {"form": f"residual, {stages} stages, metric", **experiment.replaced(residual, metrics)}
    for parts in (4, 2, 1):
        yield {"form": f"product, {parts} parts", **experiment.replaced(product(parts), None)}
    for bits in limits:
        yield {"form": f"limit, {bits} bits", **experiment.limit(bits, None)}
        yield {"form": f"limit, {bits} bits, metric", **experiment.limit(bits, metrics)}
    for size, guided in itertools.product(sizes, (False, True)):
        yield experiment.folded(size, guided)
    for size, guided in itertools.product(renumbered, (False, True)):
        yield experiment.folded(size, guided, "renumber")
    for size in tuned:
        yield experiment.folded(size, True, tuned=True)
        yield experiment.folded(size, True, "renumber", tuned=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--run", type=Path, help="a run that is trained already, on --data")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--part", default="test")
    for name, default in (("sizes", SIZES), ("renumbered", RENUMBERED), ("limits", ()), ("tuned", ())):
        parser.add_argument(f"--{name}", type=float, nargs="*", default=default)
    parser.add_argument("--rivals", action="store_true", help="append what others do, nothing else")
    arguments = parser.parse_args()
    data, run = arguments.data, arguments.run
    if data is None or run is None:
        data, run = trained_run(arguments.file, arguments.work)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(data, run, arguments.part)
    grid = (arguments.sizes, arguments.renumbered, arguments.limits, arguments.tuned)
    found = rivals(experiment) if arguments.rivals else lines(experiment, *grid)
    with arguments.results.open("a" if arguments.rivals else "w") as out:
        for line in found:
            out.write(json.dumps(line) + "\n")
            out.flush()
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
