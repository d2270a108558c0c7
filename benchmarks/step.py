"""Forward, backward and an Adagrad step: 26 Criteo Kaggle tables, one batch of log-uniform ids."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from common import CODED, PLANNED, SPECS, Work, arguments, build, kaggle_tables, log_uniform_ids, race, report
from peers import Bags, cce_robe, fused_ebc, jagged
from torch import Tensor, nn

from tablefold import TableSpec, optim

LR = 0.01


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--only", help="only this of our contestants")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # torch's sparse Adagrad warns of its own calls
    tables = kaggle_tables(options.scale)
    batches = log_uniform_ids(tables, options.batch, 20)
    gradient = torch.randn(options.batch, len(tables), 16)
    columns = [[column.contiguous() for column in batch.t()] for batch in batches]
    bags, offsets = Bags(tables), torch.arange(options.batch)
    read = {"26 sparse nn.EmbeddingBag + torch Adagrad": (bags, lambda i: bags(columns[i % 20], offsets))}
    shared = cce_robe(tables, options.cce)
    if shared is not None:
        read["thomasahle/cce robe, 1000x + torch Adagrad"] = (shared, lambda i: shared(columns[i % 20]))
    contestants = {name: modules_step(*each, gradient) for name, each in read.items()}
    fused = fused_ebc(tables, LR)
    if fused is not None:
        inputs = [jagged(tables, batch) for batch in batches]
        flat = gradient.flatten(1)
        contestants["TorchRec FusedEmbeddingBagCollection"] = lambda i: fused(inputs[i % 20]).values().backward(flat)
    for name in (*SPECS, *CODED, *PLANNED):
        if options.only in (None, name):
            contestants[name] = group_step(name, tables, batches, gradient)
    seconds = race(contestants, options.rounds)
    facts = {"batch": options.batch, "tables": len(tables), "dim": 16, "rows": sum(t.vocabulary for t in tables)}
    for baseline in [name for name in contestants if name not in (*SPECS, *CODED, *PLANNED)]:
        report("step", seconds, baseline, options.out, **facts)


def modules_step(modules: nn.Module, read: Callable[[int], list[Tensor]], gradient: Tensor) -> Work:
    gradients = [part.contiguous() for part in gradient.unbind(1)]
    optimizer = torch.optim.Adagrad([each for each in modules.parameters() if each.requires_grad], lr=LR)

    def step(number: int) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(read(number), gradients)
        optimizer.step()

    return step


def group_step(name: str, tables: list[TableSpec], batches: list[Tensor], gradient: Tensor) -> Work:
    group = build(name, tables)
    optimizer = optim.Adagrad(group.parameters(), lr=LR)

    def step(number: int) -> None:
        optimizer.zero_grad()
        group(batches[number % 20]).backward(gradient)
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
