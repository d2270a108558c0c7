"""What a training builds: a plan, and the dataset with its ids in the order that the plan needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tablefold.data import Dataset
from tablefold.data.numbering import IdMap, Numbering
from tablefold.folding.planning import Weighed, plan_trained
from tablefold.folding.replacing import load_kept
from tablefold.method import Kept, Method, Trained
from tablefold.models import Network
from tablefold.plans import Part, Plan, make_plan
from tablefold.tables import TableSpec
from tablefold.train.config import Config
from tablefold.train.run import GROUP

BATCHES = 40
"""Of the training part, by which the metric of the loss is measured."""


@dataclass(frozen=True, eq=False)
class Design:
    """What is built.

    Args:
        plan: of all tables.
        dataset: its ids in the order that the plan needs.
        weights: to begin with, by the names of the model's state dict; none where it begins anew.
    """

    plan: Plan
    dataset: Dataset
    weights: Mapping[str, Tensor] = field(default_factory=dict)


def design_of(config: Config, method: Method, dataset: Dataset) -> Design:
    """A plan by sizes; and by the counts of training, ids in falling order of them, for methods that take counts."""
    tables, wishes = _tables(config, dataset), asdict(config.wishes)
    sized = config.wishes.num_bytes(tables) is not None
    if not (sized and method.takes_counts) or any(table.rows is None for table in tables):
        return Design(make_plan(method, tables, **wishes), dataset)
    counts = [dataset.counts(table.name) for table in tables]
    numbering = Numbering.of_keys([-each for each in counts], dataset.schema)
    if not all(_stays(ids) for ids in numbering.new_ids):
        dataset = dataset.numbered(numbering)
        counts = [dataset.counts(table.name) for table in tables]
    named = {table.name: own for table, own in zip(tables, counts, strict=True)}
    return Design(make_plan(method, tables, counts=named, **wishes), dataset)


def _stays(ids: IdMap | None) -> bool:
    return ids is None or bool(np.array_equal(ids, np.arange(len(ids))))


def learned_design(config: Config, method: Method, dataset: Dataset, model: Network) -> Design:
    """What a method makes of the tables of a model that was trained on a dataset.

    Raises:
        ValueError: without a size; for one below the smallest.
    """
    tables, budget = _tables(config, dataset), _budget(config, dataset)
    trained, first_id = _trained(config, dataset, model), dataset.schema.first_id
    learned = method.learn(trained, budget, first_id, config.seed, with_pointers=config.with_pointers)
    why = f"learned from trained tables, in {config.wishes.show(budget)}"
    parts = [Part((table,), each.method, each.format, why) for table, each in zip(tables, learned, strict=True)]
    edges = {name: edges for each in learned for name, edges in each.edges.items()}
    numbering = Numbering.of_orders([each.order for each in learned])
    return Design(Plan(tuple(tables), tuple(parts), edges), dataset.numbered(numbering))


def folded_design(config: Config, dataset: Dataset, model: Network) -> Design:
    """The tables of a trained model as `tablefold.fold(ids="renumber")` folds them, with weights that need no training.

    Raises:
        ValueError: as `learned_design`.
    """
    pinned = tuple(range(dataset.schema.first_id))
    trained = [
        replace(each, weights=1 + each.weights, renumbers=True, pinned=pinned, singly=True, stacked=True)
        for each in _trained(config, dataset, model)
    ]
    weighed = [Weighed(each, each.table.num_bytes, each.values.element_size()) for each in trained]
    planned = plan_trained(weighed, "auto", _budget(config, dataset), config.seed, config.with_pointers)
    kept = {
        part.tables[0].name: part.method.keep(each, part.format, config.seed)
        for part, each in zip(planned.parts, trained, strict=True)
    }
    largest_first = sorted(planned.parts, key=lambda part: -part.tables[0].num_bytes)
    plan = Plan(planned.tables, tuple(largest_first))
    numbering = Numbering.of_orders([kept[table.name].order for table in plan.tables])
    return Design(plan, dataset.numbered(numbering), _weights(plan, kept, model, config.seed))


def _weights(plan: Plan, kept: Mapping[str, Kept], model: Network, seed: int) -> dict[str, Tensor]:
    """Of a model that reads what was kept of each table by the network of another."""
    group, named = plan.build(seed=seed), [kept[table.name] for table in plan.tables]
    regions = tuple(region for part in plan.parts for region in kept[part.tables[0].name].regions)
    lookups = tuple(lookup for each in named for lookup in each.lookups)
    load_kept(group, Kept(regions, lookups, tuple(edges for each in named for edges in each.edges)))
    own = {f"{GROUP}{name}": value for name, value in group.state_dict().items()}
    return {**{name: value for name, value in model.state_dict().items() if not name.startswith(GROUP)}, **own}


def _budget(config: Config, dataset: Dataset) -> int:
    """Bytes that the tables may take; `ValueError` where nothing bounds them."""
    budget = config.wishes.num_bytes(_tables(config, dataset))
    if budget is None:
        raise ValueError(f"{config.method} needs a size: give a compression or a budget")
    return budget


def _tables(config: Config, dataset: Dataset) -> list[TableSpec]:
    return config.model_tables(dataset.schema.table_specs(config.dim))


def _trained(config: Config, dataset: Dataset, model: Network) -> list[Trained]:
    """The tables of a trained model, weighed by how often their ids are read, in the metric of the loss."""
    return [
        Trained(table, model.group.unfold(table.name), dataset.counts(table.name).astype(np.float64), metric)
        for table, metric in zip(_tables(config, dataset), loss_metrics(model, dataset, config), strict=True)
    ]


def loss_metrics(model: Network, dataset: Dataset, config: Config) -> Sequence[Tensor]:
    """For each table the mean of g g', `[dim, dim]`, g the gradient of the loss by a vector: what an error of a vector
    costs in each direction (the empirical Fisher matrix; Amari, 1998)."""
    model.eval()
    tables, dim = [table.name for table in dataset.schema.tables], model.group.tables[0].dim
    columns = sorted(model.columns, key=lambda column: column.length is not None)  # as their vectors come
    found, seen = torch.zeros(len(tables), dim, dim), 0
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
