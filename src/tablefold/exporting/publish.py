"""Write, check, then publish: what does not compute what torch computes never gets its name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, nn

from tablefold.exporting import EXPORTERS
from tablefold.exporting.capture import Inputs, capture, named_inputs, shipped
from tablefold.exporting.carried import Columns, random_ids, tables_of
from tablefold.exporting.exporter import Captured, Exporter, Runner
from tablefold.exporting.signature import SIGNATURE, describe
from tablefold.files import check_unused, parents_of
from tablefold.group import EmbeddingGroup
from tablefold.json_files import write_json
from tablefold.ops.gather import Outside

TOLERANCE = 1e-5
"""The largest difference to torch, absolute or as a share of the largest output, that a file is published with."""

_ROWS = (1, 2, 37)
"""Batches that a file is checked on."""


@dataclass(frozen=True)
class Target:
    """A file to write, by whom, told what."""

    exporter: Exporter
    path: Path
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Args:
        path: the file.
        num_bytes: its size, and that of the files that belong to it.
        difference: the largest to torch, over random inputs.
    """

    path: Path
    num_bytes: int
    difference: float


def export(
    model: nn.Module,
    path: str | Path,
    inputs: Any,
    *,
    outputs: Sequence[str] | None = None,
    outside: Outside | None = None,
    exporter: str | None = None,
    **options: Any,
) -> Exported:
    """Write a model with folded tables as a file that runs without tablefold, for batches of any size.

    Its groups and drop-ins are frozen in the file, packed as their formats pack them; the model stays as it is. The
    file is compared to torch on random ids, and appears with `signature.json` beside it, whole or not at all.

    Args:
        model: with a group, an `Embedding`, an `EmbeddingBag` or views in it.
        path: the new file; `.onnx` or `.pt2`.
        inputs: what the model is called with, as an example of 2 rows or more: a tensor, a sequence of them, or a
            mapping by argument. The first dimension of each may have any size afterwards.
        outputs: names for what it returns; `output` unless given.
        outside: what the file answers for ids outside their table: `nan`, `zero` or `unchecked`; None leaves it to each
            group's own.
        exporter: its name, where the path's suffix does not say.
        options: of the exporter: `opset` for ONNX; `compile=True` for pt2, which AOTInductor then compiles.

    Raises:
        ValueError: for a model without folded tables, one that torch cannot record, a path that is taken, options that
            the exporter does not have, a package that is missing, or a file that does not compute the same.
        OSError: where the file cannot be written.

    >>> import tempfile, torch, tablefold
    >>> model = torch.nn.Sequential(tablefold.Embedding(1000, 16, method="qr"), torch.nn.Linear(16, 1))
    >>> path = Path(tempfile.mkdtemp()) / "model.pt2"
    >>> export(model, path, torch.tensor([3, 999])).difference < 1e-6
    True
    >>> torch.export.load(path).module()(torch.tensor([5, 6, 7])).shape
    torch.Size([3, 1])
    """
    target = target_of(path, exporter, options)
    given = named_inputs(model, inputs)
    own = shipped(model, outside)
    tables = tables_of(own, given)
    captured = capture(own, given, outputs)
    policies = [module.outside for module in own.modules() if isinstance(module, EmbeddingGroup)]
    signature = describe(captured, tables, model=type(model).__name__, outside=policies)
    (exported,) = publish([target], own, given, tables, captured, signature)
    return exported


def target_of(path: str | Path, name: str | None, options: Mapping[str, Any]) -> Target:
    """Where to write, checked before any work.

    Raises:
        ValueError: for a suffix that no exporter has, or what `Exporter.check` refuses, or a path that is taken.
    """
    path = Path(path)
    by_suffix = {each.suffix: each for each in EXPORTERS.values()}
    exporter = EXPORTERS.get(name) if name is not None else by_suffix.get(path.suffix)
    if exporter is None:
        known = ", ".join(f"{each.name} ({each.suffix})" for each in by_suffix.values())
        asked = f"no exporter {name!r}" if name is not None else f"{path}: no exporter writes {path.suffix or 'that'}"
        raise ValueError(f"{asked}; exporters: {known}")
    if path.suffix != exporter.suffix:
        raise ValueError(f"{path}: name a file that ends in {exporter.suffix}")
    exporter.check(options)
    for taken in (path, path.parent / SIGNATURE):
        check_unused(taken)
    return Target(exporter, path, options)


def publish(
    targets: Sequence[Target],
    model: nn.Module,
    inputs: Inputs,
    tables: Mapping[str, Columns],
    captured: Captured,
    signature: Mapping[str, Any],
    encoder: Path | None = None,
) -> list[Exported]:
    """Write all files of one folder, check each, and give them their names at the end; see `export`.

    Args:
        targets: of one folder.
        model: what `shipped` gave.
        inputs: an example.
        tables: whose ids the inputs carry.
        captured: the model.
        signature: what goes to `signature.json`.
        encoder: a folder to go along, hard links where the file system has them.
    """
    found = []
    with _staged(targets[0].path.parent) as stage:
        for target in targets:
            path = stage / target.path.name
            target.exporter.write(captured, path, **target.options)
            difference = _difference(target.exporter.runner(path, **target.options), model, inputs, tables)
            num_bytes = sum(each.stat().st_size for each in stage.glob(f"{path.name}*"))
            found.append(Exported(target.path, num_bytes, difference))
        write_json(stage / SIGNATURE, {**signature, "files": [target.path.name for target in targets]})
        if encoder is not None:
            shutil.copytree(encoder, stage / encoder.name, copy_function=_link)
    return found


def _difference(run: Runner, model: nn.Module, inputs: Inputs, tables: Mapping[str, Columns]) -> float:
    """The largest between a file and torch; `ValueError` where it is more than rounding."""
    largest, generator = 0.0, torch.Generator().manual_seed(0)
    for drawn in [dict(inputs), *(_drawn(inputs, tables, rows, generator) for rows in _rows(inputs, tables))]:
        with torch.no_grad():
            expected = model(*drawn.values())
        wanted = [expected] if isinstance(expected, Tensor) else list(expected)
        for given, want in zip(run(list(drawn.values())), wanted, strict=True):
            largest = max(largest, _apart(given, want))
    if largest > TOLERANCE:
        raise ValueError(
            f"the file's outputs differ from torch's by up to {largest:.2g}, more than {TOLERANCE:g}: it was not "
            "written; please report the model"
        )
    return largest


def _apart(given: Tensor, want: Tensor) -> float:
    """The largest difference, as a share of the largest output where that is above 1; inf where one alone has a NaN."""
    if given.shape != want.shape or not torch.equal(given.isnan(), want.isnan()):
        return float("inf")
    wanted, gap = want.double().nan_to_num(), given.double().nan_to_num() - want.double().nan_to_num()
    return float(gap.abs().max() / wanted.abs().max().clamp(min=1)) if gap.numel() else 0.0


def _rows(inputs: Inputs, tables: Mapping[str, Columns]) -> Sequence[int]:
    """Sizes of random batches; none where an input of integers is not known to be ids, and so cannot be drawn."""
    drawable = all(name in tables or value.is_floating_point() for name, value in inputs.items())
    return _ROWS if drawable and len({len(value) for value in inputs.values()}) == 1 else ()


def _drawn(inputs: Inputs, tables: Mapping[str, Columns], rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: random_ids(value, tables[name], rows, generator)
        if name in tables
        else torch.randn(rows, *value.shape[1:], generator=generator).to(value.dtype)
        for name, value in inputs.items()
    }


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files go to `folder` when the block ends, if none of their names is taken."""
    with parents_of(folder / "any") as parent:
        stage = Path(mkdtemp(prefix=".export.", dir=parent))
        try:
            yield stage
            ready = sorted(stage.iterdir(), key=lambda path: path.name == SIGNATURE)
            for path in ready:
                check_unused(parent / path.name)
            for path in ready:  # the signature last: who finds it finds all
                path.rename(parent / path.name)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _link(source: str, copy: str) -> None:
    try:
        os.link(os.path.realpath(source), copy)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, copy)
