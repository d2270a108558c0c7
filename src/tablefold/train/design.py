"""What a training builds: a plan, and the dataset with its ids in the order that the plan needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tablefold.data import Dataset
from tablefold.data.numbering import IdMap, Numbering
from tablefold.method import Method, Trained
from tablefold.models import Network, find_model
from tablefold.plans import Part, Plan, make_plan
from tablefold.tables import show_bytes
from tablefold.train.config import Config

BATCHES = 40
"""Of the training part, by which the metric of the loss is measured."""


@dataclass(frozen=True, eq=False)
class Design:
    """What is built.

    Args:
        plan: of all tables.
        dataset: its ids in the order that the plan needs.
    """

    plan: Plan
    dataset: Dataset


def design_of(config: Config, method: Method, dataset: Dataset) -> Design:
    """A plan by sizes; and by the counts of training, ids in falling order of them, for methods that take counts."""
    tables, wishes = dataset.schema.table_specs(config.dim), asdict(config.wishes)
    planned = find_model(config.model).tables_for(tables)
    sized = config.wishes.num_bytes(planned) is not None
    if not (sized and method.takes_counts) or any(table.rows is None for table in tables):
        return Design(make_plan(method, planned, **wishes), dataset)
    counts = [dataset.counts(table.name) for table in tables]
    numbering = Numbering.of_keys([-each for each in counts], dataset.schema)
    if not all(_stays(ids) for ids in numbering.new_ids):
        dataset = dataset.numbered(numbering)
        counts = [dataset.counts(table.name) for table in tables]
    named = {table.name: own for table, own in zip(tables, counts, strict=True)}
    return Design(make_plan(method, planned, counts=named, **wishes), dataset)


def _stays(ids: IdMap | None) -> bool:
    return ids is None or bool(np.array_equal(ids, np.arange(len(ids))))


def learned_design(config: Config, method: Method, dataset: Dataset, model: Network) -> Design:
    """What a method makes of the tables of a model that was trained on a dataset.

    Raises:
        ValueError: without a size; for one below the smallest.
    """
    tables = dataset.schema.table_specs(config.dim)
    if find_model(config.model).tables_for(tables) != tables:
        raise ValueError(f"{method.name} learns one vector for each id; {config.model} has more: take graded")
    budget = config.wishes.num_bytes(tables)
    if budget is None:
        raise ValueError(f"{method.name} needs a size: give a compression or a budget")
    metrics = loss_metrics(model, dataset, config)
    trained = [
        Trained(table, model.group.unfold(table.name), dataset.counts(table.name).astype(np.float64), metric)
        for table, metric in zip(tables, metrics, strict=True)
    ]
    learned = method.learn(trained, budget, dataset.schema.first_id, config.seed)
    why = f"learned from trained tables, in {show_bytes(budget)}"
    parts = [Part((table,), each.method, each.format, why) for table, each in zip(tables, learned, strict=True)]
    edges = {name: edges for each in learned for name, edges in each.edges.items()}
    numbering = Numbering.of_orders([each.order for each in learned])
    return Design(Plan(tuple(tables), tuple(parts), edges), dataset.numbered(numbering))


def loss_metrics(model: Network, dataset: Dataset, config: Config) -> Sequence[Tensor]:
    """For each table the mean of g g', `[dim, dim]`, g the gradient of the loss by a vector: what an error of a vector
    costs in each direction (the empirical Fisher matrix; Amari, 1998)."""
    model.eval()
    tables = [table.name for table in dataset.schema.tables]
    columns = sorted(model.columns, key=lambda column: column.length is not None)  # as their vectors come
    found, seen = torch.zeros(len(tables), config.dim, config.dim), 0
    for batch in islice(dataset.part("train").batches(config.batch_size, seed=config.seed), BATCHES):
        with torch.no_grad():
            vectors = model.vectors(batch.ids)
        vectors.requires_grad_()
        loss = F.binary_cross_entropy_with_logits(model.logits(batch.dense, vectors), batch.label, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, vectors)
        products = torch.einsum("bfd,bfe->fde", gradient, gradient)
        for column, product in zip(columns, products, strict=True):
            found[tables.index(column.table)] += product
        seen += len(batch.label)
    return list(found / max(1, seen))
