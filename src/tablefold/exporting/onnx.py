"""ONNX: for onnxruntime, and for whatever else reads it. Standard operators only.

Measured on int4 rows of 16 floats, a batch of 512 x 26 (one thread of an AMD EPYC): bytes of rows with their scales,
taken apart as floats, 0.87 ms; by a table of values per byte 1.0 ms; by shifts in uint32 1.9 ms; onnxruntime's own
GatherBlockQuantized 3.3 ms, and its scales would take two to four bytes where ours take one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from tablefold.exporting.exporter import Captured, Exporter, Runner
from tablefold.exporting.signature import axis_names
from tablefold.extras import require
from tablefold.fields import whole_number
from tablefold.quoting import one_line

if TYPE_CHECKING:
    import onnxruntime

OPSETS = (18, 25)
"""The first and the last version of ONNX's operators that files can be written in."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@torch.library.custom_op("tablefold::shifted", mutates_args=())
def shifted(words: Tensor, bits: int) -> Tensor:
    """int64 words shifted right, zeros coming in: torch needs two operations for it, and ONNX six for those."""
    return words >> bits & ((1 << 64 - bits) - 1)


@shifted.register_fake
def _(words: Tensor, bits: int) -> Tensor:
    return torch.empty_like(words)


@torch.library.custom_op("tablefold::quotient", mutates_args=())
def quotient(numbers: Tensor, divisor: Tensor) -> Tensor:
    """Integers divided, towards zero: as ONNX divides them, while torch's exporter would go by way of floats."""
    return torch.div(numbers, divisor, rounding_mode="trunc")


@quotient.register_fake
def _(numbers: Tensor, divisor: Tensor) -> Tensor:
    return torch.empty_like(numbers + divisor)


@torch.library.custom_op("tablefold::quotient_by", mutates_args=())
def quotient_by(numbers: Tensor, divisor: int) -> Tensor:
    """`quotient` by one number."""
    return torch.div(numbers, divisor, rounding_mode="trunc")


@quotient_by.register_fake
def _(numbers: Tensor, divisor: int) -> Tensor:
    return torch.empty_like(numbers)


@dataclass(frozen=True)
class Onnx(Exporter):
    """Option `opset`: the version of ONNX's operators; torch's choice unless given."""

    def check(self, options: Mapping[str, Any]) -> None:
        """See `Exporter`."""
        super().check(options)
        require("ONNX files need", "onnx", *_PACKAGES)
        if options.get("opset") is not None:
            opset, (first, last) = whole_number(options["opset"], "opset"), OPSETS
            if not first <= opset <= last:
                raise ValueError(f"opset={opset} must be {first} .. {last}")

    def write(self, captured: Captured, path: Path, **options: Any) -> None:
        """By torch's exporter; checked by ONNX's own checker."""
        import onnx
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateInitializersPass

        program = _in_integers(captured.program)
        with _quiet():
            try:
                written = torch.onnx.export(
                    program,
                    output_names=captured.outputs,
                    opset_version=options.get("opset"),
                    custom_translation_table=_translations(),
                    dynamo=True,
                    verbose=False,
                )
            except Exception as error:  # torch's, onnxscript's, and what its passes raise
                raise ValueError(f"ONNX cannot say what the model does: {_reason(error)}") from error
        assert written is not None
        DeduplicateInitializersPass(size_limit=1 << 16)(written.model)
        ClearMetadataAndDocStringPass()(written.model)
        _forget_inner_types(written.model.graph)
        _name_axes(written.model)
        written.save(path)
        onnx.checker.check_model(path)

    def runner(self, path: Path, **options: Any) -> Runner:
        """By onnxruntime, on the CPU."""
        session = open_session(path)
        names = [each.name for each in session.get_inputs()]

        def outputs(inputs: Sequence[Tensor]) -> list[Tensor]:
            found = session.run(None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})
            return [torch.from_numpy(each) for each in found]

        return outputs


ONNX = Onnx("onnx", ".onnx", ("opset",))


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """A file in onnxruntime on the CPU, with so many threads; 0 takes a core each."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _reason(error: BaseException) -> str:
    """What the first error says: those that torch wraps it in say where its reports are."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(" ".join(str(error).split()), 300)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on packages that nobody needs here, and on itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget_inner_types(graph: Any) -> None:
    """Types and shapes between the ends follow from the operators: every reader infers them again."""
    inner = [value for node in graph for value in node.outputs if not value.is_graph_output()]
    for value in [*inner, *graph.initializers.values()]:
        value.shape = value.type = None
        value.metadata_props.clear()


def _name_axes(model: Any) -> None:
    """Call sizes that are free as the signature does."""
    import onnx_ir

    ends = [*model.graph.inputs, *model.graph.outputs]
    renamed = axis_names([str(axis) for end in ends for axis in end.shape or () if not isinstance(axis, int)])
    for end in ends:
        end.shape = onnx_ir.Shape([axis if isinstance(axis, int) else renamed[str(axis)] for axis in end.shape or ()])


def _in_integers(program: ExportedProgram) -> ExportedProgram:
    """The program with `words >> bits & mask`, and quotients of integers, as one operation each."""
    for node in list(program.graph.nodes):
        target, args = _integer_operation(node)
        if target is None:
            continue
        with program.graph.inserting_before(node):
            one = program.graph.call_function(target, args)
        one.meta = dict(node.meta)
        node.replace_all_uses_with(one)
    program.graph.eliminate_dead_code()
    return program


def _integer_operation(node: Node) -> tuple[Any, tuple[Any, ...]]:
    """Which of our operations stands for a node, and what it is called with; None for most."""
    aten, ours = torch.ops.aten, torch.ops.tablefold
    if node.target is aten.div.Tensor_mode and node.kwargs["rounding_mode"] == "trunc" and _is_int64(node):
        by_tensor = isinstance(node.args[1], Node)
        return (ours.quotient if by_tensor else ours.quotient_by).default, node.args
    if node.target is not aten.__and__.Scalar or not _is_int64(node):
        return None, ()
    shift = node.args[0]
    if not isinstance(shift, Node) or shift.target is not aten.__rshift__.Scalar:
        return None, ()
    keeps_all = node.args[1] == (1 << 64 - cast(int, shift.args[1])) - 1
    return (ours.shifted.default, shift.args) if keeps_all else (None, ())


def _is_int64(node: Node) -> bool:
    return isinstance(node.meta["val"], Tensor) and node.meta["val"].dtype == torch.int64


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Our operations in operators of ONNX."""
    import onnxscript

    op: Any = onnxscript.opset18
    int64, uint64 = 7, 13  # as ONNX numbers types

    def shift_right(words: Any, bits: int) -> Any:
        by = op.Cast(op.Constant(value_int=bits), to=uint64)
        return op.Cast(op.BitShift(op.Cast(words, to=uint64), by, direction="RIGHT"), to=int64)

    def divide(numbers: Any, divisor: Any) -> Any:
        return op.Div(numbers, divisor)

    def divide_by(numbers: Any, divisor: int) -> Any:
        return op.Div(numbers, op.Constant(value_int=divisor))

    ours = torch.ops.tablefold
    return {ours.shifted.default: shift_right, ours.quotient.default: divide, ours.quotient_by.default: divide_by}
