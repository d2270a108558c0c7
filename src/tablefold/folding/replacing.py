"""Fold: replace the tables of a model by drop-ins, all under one budget. Unfold: write full tables back."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tablefold.clustering import one_thread_each
from tablefold.folding.finding import Choice, Ids, Table, TableModule, Weights, find_tables
from tablefold.folding.host import hosts_of
from tablefold.folding.measuring import Costs, Loss
from tablefold.folding.outcome import FoldedTable, Report
from tablefold.folding.planning import (
    AUTO,
    Counts,
    check_ids,
    find_costs,
    look_untrained,
    plan_tables,
    split,
    stays,
    trained,
)
from tablefold.folding.stale import watch
from tablefold.folding.tuning import Tuned
from tablefold.folding.tuning import tune as tune_model
from tablefold.formats import FP32
from tablefold.group import EmbeddingGroup, scale_start
from tablefold.hashing import derive_key
from tablefold.method import Kept, Method, Trained
from tablefold.nn import Embedding, EmbeddingBag, Folded
from tablefold.ops.bags import PoolMode
from tablefold.plans import Plan
from tablefold.spec import check_choice
from tablefold.starts import FULL_START
from tablefold.tables import parse_bytes

_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks"),
    *("_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)

MUCH = 0.1
"""Where a table loses more of its squared norm than this, figures get worse: it should be tuned."""


def fold(
    model: nn.Module,
    *,
    compression: float | None = None,
    budget: int | str | None = None,
    method: str | Method = AUTO,
    weights: Weights = "keep",
    ids: Ids = "stored",
    only: Choice = None,
    skip: Choice = None,
    counts: Counts | None = None,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    tune: int = 0,
    judge: Iterable[Any] | None = None,
    inplace: bool = True,
    seed: int = 0,
) -> Report:
    """Fold the tables of a model: every `nn.Embedding` and `nn.EmbeddingBag` becomes a drop-in that owns its memory.

    All tables are sized together to one budget. Each drop-in keeps the module's names, padding id, mode, device, type,
    hooks and training flag; modules that share a weight share its memory. Make the optimiser after the fold.

    Args:
        model: it is changed in place.
        compression: how many times smaller all tables together become. One of this and `budget` is needed.
        budget: the bytes that they may take together: 64_000_000, or "64MB". Scales and pointers count.
        method: `auto`, or a spec string or `Method`: of the methods that keep trained weights, or of all with `new`.
        weights: `keep` keeps trained weights; no data is needed. `new` is for a model that is not trained yet: tables
            start afresh, with the deviation that each had.
        ids: `stored` keeps the ids' numbers, and stores a pointer where an id's cluster has to be known. `renumber`
            gives ids new numbers, for callers who own the dictionary: a cluster is then an interval, and no pointer is
            stored. `report.numbering` has the new numbers.
        only: tables whose names fit a pattern (`user*`), one of several, or a function of name and module.
        skip: tables to leave alone, likewise.
        counts: by the name of a table how often each id occurs. Errors of frequent ids then count more.
        data, loss: batches, and `loss(model, batch)`, the loss on one of them. The gradients of the first 40 batches
            say which errors matter, and in which ids. Far less is lost at equal bytes.
        tune: steps of training on `data` after the fold. Codebooks, rows of clusters, scales and the network learn;
            pointers and codes stay. The best state on the way is kept.
        judge: batches that decide which state is best. Give rows that the model was not trained on. Without it, the
            first 8 batches of `data` decide, and are not learned from.
        inplace: False folds a copy, which is `report.model`.
        seed: of addresses, start values and what is drawn to find clusters.

    Returns:
        What was done: bytes before and after, and what each table lost.

    Raises:
        ValueError: where there is nothing to fold, or nothing that fits.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Embedding(10_000, 16), torch.nn.Flatten(), torch.nn.Linear(16, 1))
    >>> report = fold(model, compression=50, weights="new")
    >>> model(torch.tensor([3, 9_999])).shape, report.bytes_before, report.num_bytes <= 12_800
    (torch.Size([2, 1]), 640000, True)
    """
    check_choice("fold", "weights", weights, get_args(Weights))
    check_ids(ids, weights)
    if tune < 0 or (tune and (data is None or loss is None or weights == "new")):
        raise ValueError(f"tune={tune} is a number of steps over data=, by loss=, after weights='keep': give these")
    model = model if inplace else copy.deepcopy(model)
    hosts = hosts_of(model)
    for host in hosts:
        host.check(model)
    tables, left = find_tables(model, weights, only, skip)
    most = parse_bytes(budget) if isinstance(budget, str) else budget
    costs = replace(find_costs(model, tables, counts, data, loss), renumbers=ids == "renumber")
    plan = plan_tables(tables, most, compression, method, weights, costs, seed)
    named = {table.spec.name: table for table in tables}
    done = _made(named, plan, costs if weights == "keep" else None, seed)
    for name, each in done.items():
        _replace(model, named[name], each, weights == "keep")
    watch({name: (named[name].weight, each.group) for name, each in done.items()})
    replaced = {id(named[name].weight): list(each.group.parameters()) for name, each in done.items()}
    remarks = [note for host in hosts for note in host.mend(model, replaced)]
    warned = list(_warnings(done))
    for note in warned:
        warnings.warn(note, stacklevel=2)
    tuned = _tuned(model, named, done, data, loss, tune, judge)
    notes = (*warned, *remarks, "make the optimiser after the fold: one made before holds the old tables")
    return Report(_rows(tables, plan, done), tuple(left), notes, plan, model, _numbering(tables, done, ids), tuned)


def _made(named: Mapping[str, Table], whole: Plan, costs: Costs | None, seed: int) -> dict[str, _Done]:
    """What takes the place of tables, by their names: of trained ones, whose errors have `costs`, or of new ones. None
    is put in before all are made."""
    done: dict[str, _Done] = {}
    for number, part in enumerate(split(whole)):
        own = [named[spec.name] for spec in part.tables]
        if all(stays(part.parts[0], table) for table in own):
            continue
        if costs is None:
            done.update(_start(own, part, derive_key(seed, number)))
        else:
            with one_thread_each():
                done.update(_keep(own[0], trained(own[0], costs), part, seed))
    return done


def unfold(model: nn.Module) -> nn.Module:
    """Write full tables back: every drop-in becomes torch's module again, with the same vectors.

    The model is changed in place and returned.

    Raises:
        ValueError: where it has no drop-in.
    """
    folded: dict[Folded, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Folded):
            folded.setdefault(module, []).append(name)
    if not folded or "" in folded.get(cast(Folded, model), []):
        raise ValueError(f"{type(model).__name__} has no folded table in it: there is nothing to unfold")
    written: dict[tuple[int, str], nn.Parameter] = {}
    for module, names in folded.items():
        key = id(module.group), module.table
        if key not in written:
            written[key] = nn.Parameter(module.weight.detach().clone())
        put(model, names, _torchs(module, written[key]))
    return model


@dataclass(frozen=True, eq=False)
class _Done:
    """A table that is folded.

    Args:
        plan, seed: by which the group was built.
        num_bytes: of its group; 0 for all but the first table of one.
        error: the share of its squared norm that is lost.
        judged: the same as the loss sees it, where data was given.
        untrained: whether it looked so.
        numbers: the new number of each id, where they have one.
    """

    group: EmbeddingGroup
    plan: Plan
    seed: int
    num_bytes: int
    error: float | None
    judged: float = 0.0
    untrained: bool = False
    numbers: NDArray[np.int64] | None = None


def _keep(table: Table, own: Trained, plan: Plan, seed: int) -> dict[str, _Done]:
    """A group that stands for a trained table."""
    part = plan.parts[0]
    group = _build(plan, table, seed)
    kept = part.method.keep(own, part.format, seed)
    load_kept(group, kept)
    group.requires_grad_(table.weight.requires_grad)
    name, numbers = table.spec.name, None if kept.order is None else np.argsort(kept.order)
    vectors, plain = group.unfold(name).to("cpu", torch.float32), replace(own, metric=None)
    errors = own.values - (vectors if numbers is None else vectors[torch.from_numpy(numbers)])
    lost, judged = (each.error(errors) / (each.error(own.values) or 1.0) for each in (plain, own))
    return {name: _Done(group, plan, seed, group.num_bytes, lost, judged, look_untrained(own), numbers)}


def _start(tables: Sequence[Table], plan: Plan, seed: int) -> dict[str, _Done]:
    """A group that starts afresh, with vectors of the deviation that the tables had."""
    group = _build(plan, tables[0], seed)
    deviations = [_deviation(table) for table in tables]
    if group.device.type != "meta":
        scale_start(group, sum(deviations) / len(deviations) / FULL_START.std)
    return {
        table.spec.name: _Done(group, plan, seed, 0 if number else group.num_bytes, None)
        for number, table in enumerate(tables)
    }


def _build(plan: Plan, table: Table, seed: int) -> EmbeddingGroup:
    own = all(part.format == FP32 for part in plan.parts)  # codes have masters in float32
    dtype = table.weight.dtype if own else torch.float32
    group = plan.build(seed=seed, device=table.weight.device, dtype=dtype)
    group.sparse = any(module.sparse for module, _ in table.readers)
    return group


@torch.no_grad()
def load_kept(group: EmbeddingGroup, kept: Kept) -> None:
    """Write what a method found for a trained table into a group of it."""
    for array, memory in zip(group.address_map.arrays, group.arrays, strict=True):
        memory.copy_(torch.cat([kept.regions[number].reshape(-1, array.width) for number in array.regions]))
    if group.lookup is not None:
        found = np.concatenate(kept.lookups)
        group.lookup.copy_(torch.from_numpy(found).to(group.lookup.dtype))
    if kept.edges and group.edges is not None:
        group.edges.copy_(torch.from_numpy(np.concatenate(kept.edges)).to(group.edges.dtype))


def _deviation(table: Table) -> float:
    """Of the weights that are replaced; 1, that of N(0, 1), where there are none."""
    if table.weight.is_meta:
        return 1.0
    values = table.weight.detach().flatten()[: 1 << 22].float()
    found = float(values.square().mean().sqrt())
    return found if 0 < found < math.inf else FULL_START.std


def _replace(model: nn.Module, table: Table, done: _Done, keeps: bool) -> None:
    for module, names in table.readers:
        drop_in = make_drop_in(module, done.group, table.spec.name, done.numbers)
        drop_in.plan, drop_in.seed = done.plan, done.seed
        drop_in.keeps_padding = keeps and _has_padding_vector(module)
        put(model, names, carry_over(module, drop_in))


def _has_padding_vector(module: TableModule) -> bool:
    """Whether its padding id has a vector other than zero, which torch's module returns."""
    if module.padding_idx is None or isinstance(module, nn.EmbeddingBag):
        return False
    return bool(module.weight.detach()[module.padding_idx].any())


def make_drop_in(
    like: TableModule, group: EmbeddingGroup, table: str, numbers: NDArray[np.int64] | None = None
) -> Folded:
    """The drop-in of a table of a group that does what a module of torch's does, of ids that may have new numbers."""
    padding, dtype = like.padding_idx, like.weight.dtype
    if padding is not None and numbers is not None:
        padding = int(numbers[padding])
    if isinstance(like, nn.EmbeddingBag):
        mode = cast(PoolMode, like.mode)
        return EmbeddingBag.over(group, table, padding, mode, like.include_last_offset, dtype=dtype)
    return Embedding.over(group, table, padding, dtype=dtype)


def _torchs(module: Folded, weight: nn.Parameter) -> nn.Module:
    """Torch's module of a drop-in, over a weight."""
    options: dict[str, Any] = {"padding_idx": module.padding_idx, "sparse": module.sparse, "device": "meta"}
    if isinstance(module, EmbeddingBag):
        options |= {"mode": module.mode, "include_last_offset": module.include_last_offset}
        made: nn.Module = nn.EmbeddingBag(module.num_embeddings, module.embedding_dim, **options)
    else:
        made = nn.Embedding(module.num_embeddings, module.embedding_dim, **options)
    made.weight = weight
    return carry_over(module, made)


def carry_over(old: nn.Module, new: nn.Module) -> nn.Module:
    """Hooks and the training flag: the very dicts, so that handles that were given out still remove their hooks."""
    for name in _HOOKS:
        setattr(new, name, getattr(old, name))
    return new.train(old.training)


def put(model: nn.Module, names: Sequence[str], module: nn.Module) -> None:
    """Set a module under every one of its names."""
    for name in names:
        parent, _, own = name.rpartition(".")
        model.get_submodule(parent)._modules[own] = module


def _tuned(
    model: nn.Module,
    named: dict[str, Table],
    done: dict[str, _Done],
    data: Iterable[Any] | None,
    loss: Loss | None,
    steps: int,
    judge: Iterable[Any] | None,
) -> Tuned | None:
    """What training the folded model a little did, where it was asked for."""
    if not steps or data is None or loss is None:
        return None
    numbers = {}
    for name, each in done.items():
        if each.numbers is not None:
            own = torch.from_numpy(each.numbers).to(each.group.device)
            for _, names in named[name].readers:
                numbers[cast(Folded, model.get_submodule(names[0]))] = own
    return tune_model(model, data, loss, steps, judge=judge, numbers=numbers)


def _numbering(tables: Sequence[Table], done: dict[str, _Done], ids: Ids) -> dict[str, NDArray[np.int64]]:
    """By every name of a table the new number of each id."""
    found: dict[str, NDArray[np.int64]] = {}
    for table in tables if ids == "renumber" else ():
        own = done.get(table.spec.name)
        numbers = None if own is None else own.numbers
        kept = np.arange(table.spec.vocabulary, dtype=np.int64) if numbers is None else numbers
        found.update(dict.fromkeys(table.names, kept))
    return found


def _rows(tables: Sequence[Table], plan: Plan, done: dict[str, _Done]) -> tuple[FoldedTable, ...]:
    parts = {spec.name: part for part in plan.parts for spec in part.tables}
    found = []
    for table in tables:
        spec, part, own = table.spec, parts[table.spec.name], done.get(table.spec.name)
        num_bytes = table.num_bytes if own is None else own.num_bytes
        shown = (
            ("as it is", str(table.weight.dtype).removeprefix("torch."))
            if own is None
            else (str(part.method), part.format.name)
        )
        error = 0.0 if own is None else own.error
        found.append(
            FoldedTable(table.names, spec.vocabulary, spec.dim, table.num_bytes, num_bytes, *shown, error, part.why)
        )
    return tuple(found)


def _warnings(done: dict[str, _Done]) -> Iterator[str]:
    if untrained := [name for name, each in done.items() if each.untrained]:
        yield (
            f"{', '.join(untrained[:5])}: the rows are noise, as before a training, and a fold that keeps noise leaves "
            "little to learn with: take weights='new' for a model that is yet to be trained"
        )
    far = [name for name, each in done.items() if each.judged > MUCH and not each.untrained]
    if far:
        yield f"{', '.join(far[:5])}: lost more than {MUCH:.0%} of the squared norm: tune the model, or take more bytes"
