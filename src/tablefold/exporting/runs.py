"""A run as files that run without tablefold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tablefold.data.encoder_folder import EncoderFolder
from tablefold.data.schema import MISSING_ID, UNSEEN_ID
from tablefold.exporting.capture import capture, shipped
from tablefold.exporting.carried import tables_of
from tablefold.exporting.publish import Exported, Target, publish, target_of
from tablefold.exporting.signature import describe
from tablefold.files import check_unused
from tablefold.models import Network
from tablefold.ops.gather import Outside
from tablefold.tables import NOTHING, Column
from tablefold.train.run import ENCODER, load_run

_EXAMPLE_ROWS = 5


class ClickRate(nn.Module):
    """A model's click rate, which is what `tablefold predict` writes: the sigmoid of its logit."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        """The probability of a click, `[batch]`."""
        logits: Tensor = self.network(dense, ids)
        return logits.sigmoid()


class ClickRateOfIds(ClickRate):
    """That of a model without dense columns."""

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        """The probability of a click, `[batch]`."""
        return super().forward(ids.new_zeros(ids.shape[0], 0, dtype=torch.float32), ids)


def export_run(
    run: str | Path,
    paths: Mapping[str, str | Path],
    *,
    outside: Outside | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Exported]:
    """Write a run's model; beside each file `signature.json`, and `encoder/` where the run reads raw lines.

    Args:
        run: a folder written by `tablefold train`.
        paths: a new file by the name of its exporter.
        outside: what the file answers for ids outside their table: `nan` unless given, `zero` or `unchecked`.
        options: of each exporter, by its name.

    Raises:
        ValueError: as `tablefold.export`, and for a folder that holds no run.
        OSError: where a file cannot be written.
    """
    if not paths:
        raise ValueError("nothing to write: name a file, such as --onnx model.onnx")
    targets = [target_of(path, name, (options or {}).get(name, {})) for name, path in paths.items()]
    for target in targets:
        check_unused(target.path.parent / ENCODER)
    loaded = load_run(run)
    recipe = loaded.recipe
    by_name = {table.name: table for table in recipe.tables}
    of_ids = [by_name[column.table] for column in recipe.columns for _ in range(column.width)]
    ids = torch.stack([torch.arange(_EXAMPLE_ROWS) % (table.rows or 1) for table in of_ids], dim=1)
    inputs = {"dense": torch.zeros(_EXAMPLE_ROWS, len(recipe.dense)), "ids": ids}
    if not recipe.dense:
        del inputs["dense"]
    model = shipped((ClickRate if recipe.dense else ClickRateOfIds)(loaded.model), outside)
    lists = [column for column in recipe.columns if column.length is not None]
    singles = len(recipe.columns) - len(lists)
    ids[-1, singles:] = NOTHING  # an empty list
    tables = tables_of(model, inputs) | {"ids": list(of_ids)}
    captured = capture(model, inputs, ["probability"])
    encoder = loaded.folder / ENCODER
    read = EncoderFolder.read(encoder, recipe.dense, recipe.tables) if encoder.is_dir() else None
    signature = describe(
        captured,
        tables,
        model=recipe.config.model,
        outside=[outside or loaded.model.group.outside],
        columns={"dense": _dense_columns(recipe.dense, read)},
        known_ids={"missing_id": MISSING_ID, "unknown_id": UNSEEN_ID} if read and not read.is_closed else {},
        lists={"ids": _lists(lists, singles)} if lists else None,
    )
    parts = (targets, model, inputs, tables, captured, signature)
    return _by_folder(*parts, encoder if encoder.is_dir() else None)


def _lists(lists: Sequence[Column], first: int) -> list[dict[str, Any]]:
    """Which columns of ids are a list each, and what its end is filled with."""
    entries = []
    for column in lists:
        places = {"first_column": first, "columns": column.width}
        entries.append({"name": column.name, **places, "pool": column.pool, "no_id": NOTHING})
        first += column.width
    return entries


def _dense_columns(names: Sequence[str], encoder: EncoderFolder | None) -> list[dict[str, str]]:
    if encoder is None:
        return [{"name": name} for name in names]
    ways = encoder.ways_of_numbers(names)
    return [{"name": name, "from_raw": way} for name, way in zip(names, ways, strict=True)]


def _by_folder(targets: Sequence[Target], *parts: Any) -> list[Exported]:
    """Publish the files of each folder together."""
    folders = dict.fromkeys(target.path.absolute().parent for target in targets)
    found = []
    for folder in folders:
        found += publish([target for target in targets if target.path.absolute().parent == folder], *parts)
    return found
