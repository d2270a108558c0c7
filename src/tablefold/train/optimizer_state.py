"""What an optimiser remembers, as it is kept in a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import Optimizer

from tablefold.json_files import parse_json
from tablefold.optim import RowOptimizer
from tablefold.quoting import one_line
from tablefold.train.optimizer import remembered
from tablefold.train.tensors import check_tensors, save_tensors

OptimizerState = Mapping[int, Mapping[str, Any]]
"""By the number of a parameter: arrays, and counts of steps."""

_NOTE = "numbers"


def save_state(path: Path, optimizer: Optimizer) -> None:
    """Write what an optimiser remembers of each parameter that it has moved."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    save_tensors(path, tensors, {_NOTE: json.dumps(numbers)})


def read_state(path: Path, like: RowOptimizer) -> OptimizerState:
    """What `save_state` wrote of an optimiser that has the parameters and the kind of `like`.

    Raises:
        ValueError: for a file that is missing or damaged, or of another optimiser.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = (file.metadata() or {}).get(_NOTE, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({one_line(str(error), 200)})") from error
    numbers, likes = parse_json(note, str(path)), remembered(like)
    moved = sorted({int(name.partition(".")[0]) for name in tensors} | {int(index) for index in numbers.fields()})
    state: dict[int, dict[str, Any]] = {}
    expected: dict[str, Tensor] = {}
    for index in moved:
        if index >= len(likes):
            raise ValueError(f"{path} is of a model of more than {len(likes)} parameters")
        for name, value in likes[index].items():
            if isinstance(value, Tensor):
                expected[f"{index}.{name}"] = value
            else:
                state.setdefault(index, {})[name] = numbers[str(index)][name].integer(least=1)
    try:
        check_tensors(tensors, expected)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    return state


def place_state(optimizer: Optimizer, state: OptimizerState) -> None:
    """Let an optimiser remember this."""
    if state:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
