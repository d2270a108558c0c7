"""From a model to a graph of plain torch operations, packed memory and all."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tablefold.exporting.constants import fold_constants
from tablefold.exporting.exporter import Captured
from tablefold.group import EmbeddingGroup
from tablefold.ops.gather import Outside
from tablefold.ops.lowering import folding_constants
from tablefold.quoting import one_line
from tablefold.spec import check_choice

Inputs = Mapping[str, Tensor]
"""What a model is called with, by the names of its arguments, in their order."""


def named_inputs(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    """The arguments of a call as `Inputs`: of a tensor, a sequence of them, or a mapping by name.

    Raises:
        ValueError: for what is no tensor of two rows or more, or does not fit the model's `forward`.
    """
    given = [inputs] if isinstance(inputs, Tensor) else inputs
    args, kwargs = ((), given) if isinstance(given, Mapping) else (given, {})
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"inputs do not fit the forward of {type(model).__name__}: {error}") from error
    if bound.kwargs:
        raise ValueError(f"input {next(iter(bound.kwargs))!r} must be given by its place, not by its name alone")
    for name, value in bound.arguments.items():
        if not isinstance(value, Tensor) or not value.ndim:
            found = "a single number" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"input {name!r} must be a tensor whose first dimension is the batch; it is {found}")
        if len(value) < 2:
            raise ValueError(f"input {name!r} has {len(value)} rows: give 2 or more, torch takes 1 for a constant")
    return {name: value.detach().cpu() for name, value in bound.arguments.items()}


def shipped(model: nn.Module, outside: Outside | None = None) -> nn.Module:
    """A copy of the model as it ships: on the CPU, in `eval()`, its groups frozen. It shares all other weights.

    Args:
        model: any, with a group or a drop-in in it.
        outside: what its groups answer for ids outside their tables; None leaves it to each group.

    Raises:
        ValueError: for a model without a group, or another `outside`.
    """
    if outside is not None:
        check_choice("export", "outside", outside, get_args(Outside))
    if not any(isinstance(module, EmbeddingGroup) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} has no folded table: nothing is to be packed; take torch.export or torch.onnx"
        )
    shared = {id(each): nn.Parameter(each.detach().cpu(), requires_grad=False) for each in model.parameters()}
    buffers = {id(each): each.detach().cpu() for each in model.buffers()}
    own = copy.deepcopy(model, {**shared, **buffers}).eval()
    for module in own.modules():
        if isinstance(module, EmbeddingGroup):
            module.freeze()
            module.outside = module.outside if outside is None else outside
    return own


def capture(model: nn.Module, inputs: Inputs, outputs: Sequence[str] | None = None) -> Captured:
    """A shipped model as a graph, for any batch.

    Args:
        model: what `shipped` gave.
        inputs: as an example; their first dimensions may be of any size afterwards.
        outputs: names for what the model returns; `output`, or `output_0` and on, unless given.

    Raises:
        ValueError: where torch cannot record the model, or the model fixes the size of a batch.
    """
    free = tuple({0: Dim.DYNAMIC} for _ in inputs)
    with torch.no_grad(), folding_constants(), warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)  # torch's, of torch
        program = _exported(model, inputs, free)
        folded = fold_constants(program.module(check_guards=False))
        program = _exported(folded, inputs, free)
    count = len(program.graph_signature.user_outputs)
    if outputs is None:
        outputs = ["output"] if count == 1 else [f"output_{number}" for number in range(count)]
    if len(outputs) != count:
        raise ValueError(f"the model returns {count} tensors; {len(outputs)} names were given: {', '.join(outputs)}")
    return Captured(_stripped(program), tuple(inputs), tuple(outputs))


def _exported(model: nn.Module, inputs: Inputs, free: tuple[Any, ...]) -> ExportedProgram:
    try:
        return torch.export.export(model, tuple(inputs.values()), dynamic_shapes=free)
    except Exception as error:  # torch raises what it likes: its own, the model's, and those of its symbols
        reason = one_line(" ".join(str(error).split()), 300)
        raise ValueError(f"torch.export cannot record {type(model).__name__} for any batch: {reason}") from error


def _stripped(program: ExportedProgram) -> ExportedProgram:
    """Without the traces of our machine: where in which file each operation was asked for."""
    for node in program.graph.nodes:
        for word in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom"):
            node.meta.pop(word, None)
    return program
