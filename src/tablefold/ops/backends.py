"""Which implementation computes: the reference in plain torch, Numba's on a CPU, Triton's on a CUDA device."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

Backend = Literal["reference", "cpu", "triton"]
"""`reference`: plain torch, on every device; it defines what the others compute. `cpu`: compiled by Numba.
`triton`: for CUDA devices."""

_PACKAGES = {"cpu": "numba", "triton": "triton"}
_DEVICES = {"cpu": "cpu", "triton": "cuda"}
_INSTALLED = {name: importlib.util.find_spec(package) is not None for name, package in _PACKAGES.items()}
_COMPUTED = (torch.float32, torch.float64)
_PLAIN = (Tensor, torch.nn.Parameter)
_chosen: ContextVar[Backend | None] = ContextVar("tablefold backend", default=None)


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Compute with the named implementation inside this context.

    Without it the fastest one for the memory's device computes: `cpu` or `triton` for float32 and float64 memory where
    it is available, else `reference`. Exported and traced programs and the transforms of `torch.func` always consist of
    the reference's plain torch operations; what `torch.compile` makes calls the fastest.

    Raises:
        ValueError: for an unknown name, or an implementation that is not available here, with the reason. Inside the
            context, a group whose memory is on another device, or of another type, than the implementation's raises it
            too.

    >>> from tablefold import TableSpec, backend, parse
    >>> group = parse("qr:combine=mul").build([TableSpec("user", rows=1000, dim=16)])
    >>> with backend("reference"):
    ...     vectors = group(torch.tensor([[3], [999]]))
    """
    if name not in get_args(Backend):
        raise ValueError(f"no backend {name!r}; backends: {', '.join(get_args(Backend))}")
    reason = missing(name)
    if reason:
        raise ValueError(f"backend {name!r} is not available: {reason}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@cache
def missing(name: Backend) -> str | None:
    """Why an implementation is not available here; None where it is."""
    if name == "reference":
        return None
    if name == "triton" and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        importlib.import_module(_PACKAGES[name])
    except ImportError as error:
        return f"{_PACKAGES[name]} cannot be imported ({error})"
    return None


def is_exported() -> bool:
    """Whether `torch.export` (or `torch.jit.trace`) writes down what is computed, for somebody without tablefold."""
    return bool(torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None)


def is_recorded() -> bool:
    """Whether somebody writes down what is computed, to compute it again on other data: no look at the data then."""
    return torch.compiler.is_compiling() or is_exported()


def is_transformed() -> bool:
    """Whether `torch.func`'s transforms or forward-mode differentiation are at work, which know plain torch alone."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_plain(*tensors: Tensor) -> bool:
    """Whether a kernel may be called without torch's dispatcher, whose way through Python costs more than the lookups
    of a small batch: tensors on a CPU, and nobody who traces or profiles what is computed.
    """
    for tensor in tensors:
        if type(tensor) not in _PLAIN or not tensor.is_cpu:
            return False
    return (
        not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._autograd._profiler_enabled()
    )


def is_fused(memory: Sequence[Tensor], packed: Sequence[torch.dtype | None]) -> bool:
    """Whether a compiled kernel reads `memory` rather than the reference.

    Args:
        memory: the arrays.
        packed: for each array the type in which its format keeps it; None for float32.
    """
    if torch.compiler.is_exporting() or torch._C._get_tracing_state() or is_transformed():
        return False
    name = None if torch.compiler.is_compiling() else _chosen.get()
    if name == "reference":
        return False
    if name is not None:
        _check_chosen(name, memory, packed)
        return True
    if not _is_computed(memory, packed):
        return False
    if memory[0].is_cpu:
        return _INSTALLED["cpu"]
    return memory[0].device.type == "cuda" and _INSTALLED["triton"]


def _is_computed(memory: Sequence[Tensor], packed: Sequence[torch.dtype | None]) -> bool:
    """Whether the kernels know the arrays' types, and compute in one of them."""
    are_known, packed_floats = _known_types(tuple([array.dtype for array in memory]), tuple(packed))
    if not are_known or any(memory[number].requires_grad for number in packed_floats):
        return False
    return are_contiguous(memory)


def are_contiguous(memory: Sequence[Tensor]) -> bool:
    """Whether all arrays are."""
    return all([array.is_contiguous() for array in memory])  # noqa: C419  (a generator takes twice as long)


@cache
def _known_types(types: tuple[torch.dtype, ...], packed: tuple[torch.dtype | None, ...]) -> tuple[bool, list[int]]:
    """(whether the kernels compute arrays of these types, which of them are packed as floats, that could learn)."""
    kind = types[0] if types[0] in _COMPUTED else torch.float32
    packed_floats = []
    for number, (found, packed_kind) in enumerate(zip(types, packed, strict=True)):
        learns = kind if packed_kind is None else torch.float32  # of few bits: in no other type
        if found not in (learns, packed_kind):
            return False, []
        if found != learns and found.is_floating_point:
            packed_floats.append(number)
    return True, packed_floats


def _check_chosen(name: Backend, memory: Sequence[Tensor], packed: Sequence[torch.dtype | None]) -> None:
    for array in memory:
        if array.device.type != _DEVICES[name]:
            raise ValueError(f"backend {name!r} reads memory on {_DEVICES[name]}; this memory is on {array.device}")
    if not _is_computed(memory, packed):
        kinds = " and ".join(sorted({str(array.dtype).removeprefix("torch.") for array in memory}))
        raise ValueError(
            f"backend {name!r} reads contiguous float32 and float64 memory, or what freeze() packed; this one is "
            f"{kinds}: convert it, or take the reference"
        )
