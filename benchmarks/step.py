"""Forward, backward and an Adagrad step: 26 Criteo Kaggle tables, one batch of log-uniform ids."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

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
    facts = {"batch": options.batch, "tables": len(tables), "dim": 16, "rows": sum(t.vocabulary for t in tables)}

    def ours(names: Iterable[str]) -> dict[str, Work]:
        asked = [name for name in names if options.only in (None, name)]
        return {name: group_step(name, tables, batches, gradient) for name in asked}

    # Two races, for masters of 33.8 million rows and what Adagrad remembers of them take 4.3 GB each.
    peers = peers_steps(tables, batches, gradient, options.cce)
    seconds = race(peers | ours((*SPECS, *PLANNED)), options.rounds)
    for baseline in peers:
        report("step", seconds, baseline, options.out, **facts)
    peers.clear()
    if formats := ours(CODED):
        full = {"full": group_step("full", tables, batches, gradient)}
        report("step", race(full | formats, options.rounds), "full", options.out, **facts)


def peers_steps(tables: list[TableSpec], batches: list[Tensor], gradient: Tensor, cce: Path | None) -> dict[str, Work]:
    """The steps of others' modules."""
    columns = [[column.contiguous() for column in batch.t()] for batch in batches]
    bags, offsets = Bags(tables), torch.arange(len(gradient))
    read = {"26 sparse nn.EmbeddingBag + torch Adagrad": (bags, lambda i: bags(columns[i % 20], offsets))}
    shared = cce_robe(tables, cce)
    if shared is not None:
        read["thomasahle/cce robe, 1000x + torch Adagrad"] = (shared, lambda i: shared(columns[i % 20]))
    contestants = {name: modules_step(*each, gradient) for name, each in read.items()}
    fused = fused_ebc(tables, LR)
    if fused is not None:
        inputs = [jagged(tables, batch) for batch in batches]
        flat = gradient.flatten(1)
        contestants["TorchRec FusedEmbeddingBagCollection"] = lambda i: fused(inputs[i % 20]).values().backward(flat)
    return contestants


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
