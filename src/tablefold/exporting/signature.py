"""signature.json: what a file takes and gives, for who calls it without tablefold. docs/export.md has its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tablefold.exporting.carried import Columns
from tablefold.exporting.exporter import Captured
from tablefold.tables import TableSpec

FORMAT = 1
"""Version of the schema."""

SIGNATURE = "signature.json"


def describe(
    captured: Captured,
    tables: Mapping[str, Columns],
    *,
    model: str,
    outside: Sequence[str],
    columns: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
    known_ids: Mapping[str, int] | None = None,
    lists: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """What the file says of itself.

    Args:
        captured: the model.
        tables: which inputs carry the ids of which tables.
        model: its name.
        outside: what its groups answer for ids outside their tables.
        columns: of inputs that carry no ids: each column's `name`, and `from_raw`, how raw numbers become it.
        lists: of inputs whose last columns are lists of ids, which those are.
        known_ids: ids with a meaning of their own: `missing_id` and `unknown_id` of dictionaries.
    """
    placeholders, results = _ends(captured)
    axes = _axes([*placeholders, *results])
    inputs = []
    for name, value in zip(captured.inputs, placeholders, strict=True):
        entry = _tensor(name, value, axes)
        if columns and name in columns:
            entry["columns"] = list(columns[name])
        if name in tables:
            entry["tables"] = [_table(table, known_ids or {}) for table in tables[name]]
        if lists and name in lists:
            entry["lists"] = list(lists[name])
        inputs.append(entry)
    outputs = [_tensor(name, value, axes) for name, value in zip(captured.outputs, results, strict=True)]
    policies = sorted(set(outside))
    return {
        "format": FORMAT,
        "model": model,
        "ids_outside_their_table": policies[0] if len(policies) == 1 else policies,
        "inputs": inputs,
        "outputs": outputs,
    }


def _ends(captured: Captured) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs as torch recorded them."""
    program = captured.program
    nodes = {node.name: node for node in program.graph.nodes}
    named = program.graph_signature
    return (
        [nodes[name].meta["val"] for name in named.user_inputs if isinstance(name, str)],
        [nodes[name].meta["val"] for name in named.user_outputs if isinstance(name, str)],
    )


def axis_names(found: Sequence[str]) -> dict[str, str]:
    """Names of the sizes that are free: `batch`, or `size_0` and on where there are several."""
    distinct = list(dict.fromkeys(found))
    names = ["batch"] if len(distinct) == 1 else [f"size_{number}" for number in range(len(distinct))]
    return dict(zip(distinct, names, strict=True))


def _axes(values: Sequence[Tensor]) -> dict[str, str]:
    return axis_names([str(size) for value in values for size in value.shape if not isinstance(size, int)])


def _tensor(name: str, value: Tensor, axes: Mapping[str, str]) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else axes[str(size)] for size in value.shape]
    return {"name": name, "type": str(value.dtype).removeprefix("torch."), "shape": shape}


def _table(table: TableSpec | None, known_ids: Mapping[str, int]) -> dict[str, Any] | None:
    if table is None:
        return None
    return {"name": table.name, "rows": table.rows, **({} if table.rows is None else known_ids)}
