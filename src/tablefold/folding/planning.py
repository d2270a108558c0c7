"""What each table of a model gets: one budget over all of them, spent where it saves the most error per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from tablefold.clustering import one_thread_each
from tablefold.folding.finding import Choice, Ids, Table, Weights, find_tables
from tablefold.folding.host import hosts_of
from tablefold.folding.measuring import Costs, Loss, measure
from tablefold.formats import BF16, FP32, Format
from tablefold.method import Method, Rung, Trained, all_methods, parse
from tablefold.methods.full import Full
from tablefold.plans import Part, Plan, Wishes, make_plan
from tablefold.quoting import quoted
from tablefold.spec import check_choice
from tablefold.tables import TableSpec, full_bytes, parse_bytes, show_bytes

AUTO = "auto"

NARROW_UP_TO = 16
"""Compression up to which `auto` gives tables that start afresh narrow rows (`mixed_dimensions`), which at 16x train as
full tables do in four frameworks (`studies/LOG.md`); beyond, ids share rows by `qr`."""

Counts = Mapping[str, ArrayLike]
"""By the name of a table how often each of its ids occurs, `[rows]`."""

UNTRAINED = 1.25
"""A covariance whose largest and smallest deviation differ by less than this times what chance makes them differ."""


def plan(
    model: nn.Module | Sequence[TableSpec],
    budget: int | str | None = None,
    *,
    compression: float | None = None,
    method: str | Method = AUTO,
    weights: Weights = "keep",
    ids: Ids = "stored",
    only: Choice = None,
    skip: Choice = None,
    counts: Counts | None = None,
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Plan:
    """What each table would get and why, and what that takes; nothing is built. `print` shows it as a table.

    Args:
        model: a model, or a list of `TableSpec` for tables that start afresh.
        budget: as for `fold`, and so are all others.

    Raises:
        ValueError: as `fold`.

    >>> import torch
    >>> model = torch.nn.ModuleDict({"user": torch.nn.Embedding(10_000, 16), "day": torch.nn.Embedding(7, 16)})
    >>> for row in plan(model, compression=20, weights="new").rows():
    ...     print(row.table.name, row.method, row.bytes)
    user qr:max_rows=3714,combine=mul 31586
    day full 448
    """
    if not isinstance(model, nn.Module):
        bound = Wishes(_bytes(budget), compression).num_bytes(model)
        return make_plan(_fresh(method, model, bound), model, budget=_bytes(budget), compression=compression)
    check_ids(ids, weights)
    for host in hosts_of(model):
        host.check(model)
    tables, _ = find_tables(model, weights, only, skip)
    costs = replace(find_costs(model, tables, counts, data, loss), renumbers=ids == "renumber")
    return plan_tables(tables, _bytes(budget), compression, method, weights, costs, seed)


def plan_tables(
    tables: Sequence[Table],
    budget: int | None,
    compression: float | None,
    method: str | Method,
    weights: Weights,
    costs: Costs,
    seed: int,
) -> Plan:
    """The plan of tables that were found in a model; `ValueError` where there is none."""
    most = most_bytes(sum(table.num_bytes for table in tables), budget, compression)
    if weights == "new":
        specs = [table.spec for table in tables]
        return _plan_new(specs, _fresh(method, specs, most), most)
    own = [Weighed(trained(table, costs), table.num_bytes, table.weight.element_size()) for table in tables]
    return plan_trained(own, method, most, seed)


@dataclass(frozen=True, eq=False)
class Weighed:
    """A trained table, or a sample of it, and the bytes that the whole takes now, in elements of so many."""

    table: Trained
    num_bytes: int
    element_size: int


def plan_trained(
    tables: Sequence[Weighed], method: str | Method, most: int, seed: int, with_pointers: bool = False
) -> Plan:
    """The plan of trained tables in at most so many bytes, those of pointers among them or not; `ValueError` where
    there is none."""
    specs = [each.table.table for each in tables]
    with one_thread_each():
        ladders = [_options(each, method, most, seed, with_pointers) for each in tables]
    if sum(options[0].num_bytes for options in ladders) > most:
        ladders = [_options(each, method, each.num_bytes, seed, with_pointers) for each in tables]
        smallest = sum(options[0].num_bytes for options in ladders)
        counted = " with pointers" if with_pointers else ""
        raise ValueError(
            f"a budget of {most} bytes is below the smallest possible that keeps these trained tables, {smallest} "
            f"bytes{counted}: raise it to {show_bytes(smallest)}, or start afresh with weights='new'"
        )
    chosen = choose(ladders, most)
    parts = [
        Part((spec,), option.method, option.format, option.why) for spec, option in zip(specs, chosen, strict=True)
    ]
    return Plan(tuple(specs), tuple(parts))


def stays(part: Part, table: Table) -> bool:
    """Whether a plan leaves a table as it is."""
    exact = part.format == FP32 or (part.format == BF16 and table.weight.element_size() == 2)
    return part.method == Full() and exact


def find_costs(
    model: nn.Module,
    tables: Sequence[Table],
    counts: Counts | None,
    data: Iterable[Any] | None,
    loss: Loss | None,
) -> Costs:
    """What errors in tables cost, as far as counts and data tell; `ValueError` where they do not fit."""
    if (data is None) != (loss is None):
        raise ValueError("give data and loss together: batches, and a function of model and batch that gives the loss")
    weights = check_counts(tables, counts)
    if data is None or loss is None:
        return Costs(weights)
    seen, metrics = measure(model, tables, data, loss)
    return Costs({**{name: 1 + each for name, each in seen.items()}, **weights}, metrics)


def trained(table: Table, costs: Costs) -> Trained:
    """A table as methods that keep it see it."""
    spec = table.spec
    values = table.weight.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        wild = int(torch.nonzero(~torch.isfinite(values).all(dim=1))[0])
        raise ValueError(f"table {spec.name!r}: row {wild} is not finite: its training has diverged")
    weights = costs.weights.get(spec.name, np.ones(spec.vocabulary))
    pinned = () if table.padding is None else (table.padding,)
    return Trained(spec, values, weights, costs.metrics.get(spec.name), costs.renumbers, pinned)


def check_ids(ids: Ids, weights: Weights) -> None:
    """`ValueError` where ids cannot be treated so."""
    check_choice("fold", "ids", ids, get_args(Ids))
    if ids == "renumber" and weights == "new":
        raise ValueError("ids='renumber' numbers ids by what was learned of them: take weights='keep', after training")


def check_counts(tables: Sequence[Table], counts: Counts | None) -> dict[str, NDArray[np.float64]]:
    """By the name of a table how much each of its rows counts: once, and once for each time that it occurs.

    Raises:
        ValueError: for the counts of a table that is not there, of another length, or that are none.
    """
    found, own = {}, {name: table.spec for table in tables for name in table.names}
    for name, given in (counts or {}).items():
        if name not in own:
            raise ValueError(f"counts of {name!r}, which is no table to fold: {', '.join(own)}")
        array = np.asarray(given, dtype=np.float64)
        if array.shape != (own[name].rows,):
            raise ValueError(f"counts of {name!r} have shape {list(array.shape)}; it has {own[name].rows} rows")
        if not (np.isfinite(array).all() and array.min() >= 0):
            raise ValueError(f"counts of {name!r} must be finite numbers of 0 or more")
        found[own[name].name] = 1 + array
    return found


def look_untrained(table: Trained) -> bool:
    """Whether its rows are noise alike in all directions, as those that nobody has trained are."""
    rows, dim = table.values.shape
    if dim < 4 or rows < 16 * dim:
        return False
    values = table.sample(1 << 16).values.double()
    deviations = torch.linalg.svdvals(values - values.mean(dim=0))
    chance = math.sqrt(dim / len(values))
    return float(deviations[0] / deviations[-1].clamp(min=1e-30)) < UNTRAINED * (1 + chance) / (1 - chance)


@dataclass(frozen=True)
class Option:
    """A representation that a table may get."""

    method: Method
    format: Format
    num_bytes: int
    error: float
    why: str


def choose(ladders: Sequence[Sequence[Option]], most: int) -> list[Option]:
    """An option for each table, the cheapest first: then always the step that saves the most error per byte."""
    hulls = [_hull(options) for options in ladders]
    chosen, left = [hull[0] for hull in hulls], most - sum(hull[0].num_bytes for hull in hulls)
    steps = [(_gain(*step), number, step) for number, hull in enumerate(hulls) for step in pairwise(hull)]
    for _, number, (below, above) in sorted(steps, key=lambda step: (-step[0], step[1])):
        if chosen[number] is below and above.num_bytes - below.num_bytes <= left:
            left -= above.num_bytes - below.num_bytes
            chosen[number] = above
    for number, options in enumerate(ladders):  # what is left over, where a table has a use for it
        fitting = [each for each in options if each.num_bytes - chosen[number].num_bytes <= left]
        best = min(fitting, key=lambda each: (each.error, each.num_bytes))
        if best.error < chosen[number].error:
            left -= best.num_bytes - chosen[number].num_bytes
            chosen[number] = best
    return chosen


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options that some price of a byte makes the best, the smallest first."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda each: (each.num_bytes, each.error)):
        if hull and option.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _gain(below: Option, above: Option) -> float:
    return (below.error - above.error) / (above.num_bytes - below.num_bytes)


def _options(given: Weighed, request: str | Method, most: int, seed: int, with_pointers: bool) -> list[Option]:
    """What a trained table may get, the smallest first."""
    own = given.table
    whole = own.error(own.values) or 1.0
    exact = FP32 if given.element_size > 2 else BF16
    options = [Option(Full(), exact, given.num_bytes, 0.0, "as it is")]
    for method in _keepers(request):
        for rung in method.ladder(own, min(most, given.num_bytes - 1), seed):
            pointers = rung.method.pointer_bytes([own.table]) if with_pointers else 0
            options.append(_option(rung, pointers, whole))
    return sorted(options, key=lambda each: (each.num_bytes, each.error))


def _option(rung: Rung, pointers: int, whole: float) -> Option:
    why = f"loses about {rung.error / whole:.2g} of its squared norm"
    return Option(rung.method, rung.format, rung.num_bytes + pointers, rung.error, why)


def _keepers(request: str | Method) -> Iterator[Method]:
    """The methods that keep trained tables, as far as they are asked for."""
    if isinstance(request, Method) or request != AUTO:
        method = parse(request) if isinstance(request, str) else request
        if not _keeps(type(method)):
            kept = ", ".join(name for name, kind in all_methods().items() if _keeps(kind))
            raise ValueError(
                f"{method.name} cannot keep trained tables: take method='auto' or one of {kept}, or weights='new'"
            )
        yield method
        return
    for kind in all_methods().values():
        if _keeps(kind):
            yield kind()


def _keeps(kind: type[Method]) -> bool:
    return kind.ladder is not Method.ladder


def _plan_new(specs: Sequence[TableSpec], request: str | Method, most: int) -> Plan:
    """A plan whose tables, each in a group of its own, take at most so many bytes."""
    within = most
    while True:
        found = make_plan(request, specs, budget=within)
        excess = sum(part.num_bytes for part in split(found)) - most
        if excess <= 0:
            return found
        within -= excess  # the last block of every group is whole


def split(whole: Plan) -> list[Plan]:
    """A plan for each group: tables that share memory together, all others alone."""
    sharing, plans = {row.table for row in whole.rows() if row.shared}, []
    for part in whole.parts:
        if any(table in sharing for table in part.tables):
            plans.append(Plan(part.tables, (part,)))
        else:
            plans += [Plan((table,), (Part((table,), part.method, part.format, part.why),)) for table in part.tables]
    return plans


def most_bytes(full: int, budget: int | None, compression: float | None) -> int:
    """Bytes that tables may take, less than they take now."""
    if (budget is None) == (compression is None):
        raise ValueError("give compression=50, or budget='64MB': one of the two sets the size of all tables together")
    if compression is not None and not 1 < compression < math.inf:
        raise ValueError(f"compression={quoted(compression)} must be more than 1 and finite: how many times smaller")
    most = int(full / compression) if compression is not None else int(budget or 0)
    if not 0 < most < full:
        raise ValueError(
            f"a budget of {most} bytes must be above 0 and below the {full} bytes that the tables take now: "
            "else there is nothing to fold"
        )
    return most


def _bytes(budget: int | str | None) -> int | None:
    return parse_bytes(budget) if isinstance(budget, str) else budget


def _fresh(method: str | Method, tables: Sequence[TableSpec], most: int | None) -> str | Method:
    """What is taken for tables that start afresh."""
    if method != AUTO:
        return method
    if most is None or any(table.rows is None for table in tables):
        return "qr"
    return "mixed_dimensions" if full_bytes(tables) <= NARROW_UP_TO * (most + 1) else "qr"
