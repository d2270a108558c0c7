"""Bags of some ids per table, pooled: forward alone, and with backward and an Adagrad step."""

from __future__ import annotations

import warnings

import torch
from common import DIM, SPECS, Work, arguments, build, kaggle_tables, log_uniform_ids, race, report
from peers import Bags
from torch import Tensor

from tablefold import TableSpec, optim

LR = 0.01
BATCHES = 5


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=2048, help="bags of each table")
    parser.add_argument("--ids", type=int, default=10, help="the mean number of ids of a bag; sizes are uneven")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # torch's sparse Adagrad warns of its own calls
    tables = kaggle_tables(options.scale)
    batches = [bags_of(tables, options.batch, options.ids, number) for number in range(BATCHES)]
    facts = {"batch": options.batch, "ids per bag": options.ids, "tables": len(tables), "dim": DIM}
    bags = Bags(tables)
    groups = {name: build(name, tables) for name in SPECS}
    lookups: dict[str, Work] = {"26 nn.EmbeddingBag": lambda i: bags(*batches[i % BATCHES])}
    steps = {"26 sparse nn.EmbeddingBag + torch Adagrad": bags_step(bags, batches)}
    for name, group in groups.items():
        lookups[name] = lambda i, group=group: group.pool(*batches[i % BATCHES])
        steps[name] = group_step(group, batches)
    with torch.no_grad():
        report("bags", race(lookups, options.rounds), next(iter(lookups)), options.out, **facts)
    report("bags step", race(steps, options.rounds, warm_up=2), next(iter(steps)), options.out, **facts)


def bags_of(tables: list[TableSpec], bags: int, mean: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """For each table its ids and its offsets; sizes are uniform from 0 to twice the mean."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, 2 * mean + 1, (len(tables), bags), generator=generator)
    ids = log_uniform_ids(tables, int(sizes.sum(1).max()), 1, seed)[0]
    values = [column[:count].contiguous() for column, count in zip(ids.t(), sizes.sum(1).tolist(), strict=True)]
    return values, [(each.cumsum(0) - each).contiguous() for each in sizes]


def bags_step(bags: Bags, batches: list[tuple[list[Tensor], list[Tensor]]]) -> Work:
    gradients = [torch.randn(len(batches[0][1][0]), DIM) for _ in bags.bags]
    optimizer = torch.optim.Adagrad(bags.parameters(), lr=LR)

    def step(number: int) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(bags(*batches[number % BATCHES]), gradients)
        optimizer.step()

    return step


def group_step(group: torch.nn.Module, batches: list[tuple[list[Tensor], list[Tensor]]]) -> Work:
    gradient = torch.randn(len(batches[0][1][0]), group.num_features, DIM)
    optimizer = optim.Adagrad(group.parameters(), lr=LR)

    def step(number: int) -> None:
        optimizer.zero_grad()
        group.pool(*batches[number % BATCHES]).backward(gradient)
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
