"""A checkpoint folded alone: safetensors in, safetensors out, a piece of a table at a time.

Tables are learned from a sample of their rows, then written a piece at a time; all else is copied. What comes out says
in its header, under `tablefold`, what `save_pretrained` writes to a file of its own: `from_pretrained(FILE, model)`
puts it into a freshly built model. Files are read and written with plain calls, never mapped, so that nothing stays in
memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tablefold.clustering import one_thread_each
from tablefold.files import new_file
from tablefold.folding.planning import AUTO, Weighed, most_bytes, plan_trained, split
from tablefold.folding.pretrained import FORMAT, ITSELF
from tablefold.formats import BF16, FP32
from tablefold.group import FINGERPRINT_VERSION
from tablefold.hashing import HASH_VERSION
from tablefold.json_files import show_json
from tablefold.method import Keeper, Method, Trained
from tablefold.methods.full import Full
from tablefold.partitions import narrowest_integer
from tablefold.plans import Part, Plan
from tablefold.quoting import one_line, quoted
from tablefold.tables import TableSpec, parse_bytes

PIECE = 1 << 17
"""Rows that are in memory at a time, of 16 floats; of wider tables fewer, a multiple of 32."""

SAMPLE = 1 << 18
"""Rows that codebooks are learned from, in stretches from all over the table."""

LEAST_ROWS = 1000
"""A matrix of fewer rows is no table, unless it is named; nor is one with fewer than eight times its columns."""

_STRETCHES = 256
_WEIGHT = ".weight"
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {**{dtype: name for name, dtype in _TYPES.items()}, torch.uint8: "U8", torch.int16: "I16", torch.int32: "I32"}

Tell = Callable[[str, int, int], object]
"""Called with the name of a tensor, how many bytes have been read so far, and of how many."""


@dataclass(frozen=True)
class FoldedFile:
    """What folding a checkpoint did.

    Args:
        plan: of its tables, by the names of their modules.
        bytes_before, num_bytes: of the tables.
        file_bytes: of the file that was written.
    """

    plan: Plan
    bytes_before: int
    num_bytes: int
    file_bytes: int


def fold_checkpoint(
    path: str | Path,
    out: str | Path,
    *,
    compression: float | None = None,
    budget: int | str | None = None,
    method: str | Method = AUTO,
    only: Sequence[str] = (),
    seed: int = 0,
    tell: Tell = lambda *_: None,
) -> FoldedFile:
    """Fold the tables of a safetensors file into a new one, which appears whole or not at all.

    Args:
        path: of a file with trained weights, such as `user.weight`.
        out: of the new file; one that is there is replaced at the end.
        compression, budget, method, seed: as for `fold`.
        only: patterns of tensors' names that are tables; matrices of floats with `LEAST_ROWS` rows and more unless
            given, of eight times as many rows as columns.
        tell: called as it goes on.

    Raises:
        ValueError: for a file that is damaged or has no table, a budget that nothing fits, or weights that are not
            finite.
    """
    path, out = Path(path), Path(out)
    if out.exists() and out.resolve() == path.resolve():
        raise ValueError(f"{out} is the checkpoint itself: name another file")
    with _Checkpoint.open(path) as source:
        tables = source.tables(only)
        full = sum(table.num_bytes for table in tables)
        most = most_bytes(full, parse_bytes(budget) if isinstance(budget, str) else budget, compression)
        with one_thread_each():
            samples = {table.name: source.sample(table) for table in tables}
            weighed = [Weighed(each, table.num_bytes, table.element) for table, each in _paired(tables, samples)]
            plan = plan_trained(weighed, method, most, seed)
            written = [
                _Written.of(source.entries[f"{part.tables[0].name}{_WEIGHT}"], part, seed) for part in _kept(plan)
            ]
            with new_file(out) as target, target.open("wb") as file:
                _write(source, file, written, samples, seed, tell)
        folded = {each.table.name: each.num_bytes for each in written}
        size = sum(folded.get(table.name.removesuffix(_WEIGHT), table.num_bytes) for table in tables)
        return FoldedFile(plan, full, size, out.stat().st_size)


def _paired(tables: Sequence[_Entry], samples: Mapping[str, Trained]) -> Iterator[tuple[_Entry, Trained]]:
    return ((table, samples[table.name]) for table in tables)


def _kept(plan: Plan) -> Iterator[Plan]:
    """The plans of tables that do not stay as they are."""
    return (own for own in split(plan) if own.parts[0].method != Full() or own.parts[0].format not in (FP32, BF16))


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file: `begin` is where its bytes begin."""

    name: str
    type: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int

    @property
    def element(self) -> int:
        """Bytes of one."""
        return _TYPES[self.type].itemsize

    @property
    def spec(self) -> TableSpec:
        """As a table, by the name of its module."""
        return TableSpec(self.name.removesuffix(_WEIGHT), *self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it is the weight of a module, in two dimensions of floats."""
        named = self.name.endswith(_WEIGHT) and len(self.name) > len(_WEIGHT)
        return named and self.type in _TYPES and len(self.shape) == 2 and min(self.shape) > 0

    @property
    def piece(self) -> int:
        """Rows to read at a time."""
        return max(32, PIECE * 16 // self.shape[1] // 32 * 32)


class _Checkpoint:
    """A safetensors file, read in pieces."""

    def __init__(self, file: IO[bytes], entries: dict[str, _Entry], metadata: dict[str, str]) -> None:
        self._file, self.entries, self.metadata = file, entries, metadata

    @classmethod
    def open(cls, path: Path) -> _Checkpoint:
        """A file whose header is checked; `ValueError` where it is damaged."""
        if not path.is_file():
            raise ValueError(f"{path} is no file")
        try:
            with safe_open(path, framework="pt") as checked:
                metadata = checked.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is no safetensors file, or damaged ({one_line(str(error), 200)})") from error
        if ITSELF in metadata:
            raise ValueError(f"{path} is folded already: fold the checkpoint that it was made of")
        file = path.open("rb")
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = {}
        for name, each in header.items():
            begin, end = each["data_offsets"]
            entries[name] = _Entry(name, each["dtype"], tuple(each["shape"]), 8 + length + begin, end - begin)
        return cls(file, entries, metadata)

    def __enter__(self) -> _Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tables(self, only: Sequence[str]) -> list[_Entry]:
        """The tensors that are tables; `ValueError` where there is none, or a pattern fits none."""
        matrices = [entry for entry in self.entries.values() if entry.is_matrix]
        for pattern in only:
            if not any(_fits(entry, pattern) for entry in matrices):
                known = ", ".join(entry.name for entry in matrices[:10]) or "none"
                raise ValueError(f"{quoted(pattern)} fits no weight of a module with rows of floats: {known}")
        if only:
            return [entry for entry in matrices if any(_fits(entry, pattern) for pattern in only)]
        large = [entry for entry in matrices if entry.shape[0] >= max(LEAST_ROWS, 8 * entry.shape[1])]
        if not large:
            raise ValueError(
                f"no weight has {LEAST_ROWS} rows and more, and eight times its columns, as tables have: name them"
            )
        return large

    def rows(self, entry: _Entry, first: int, count: int) -> Tensor:
        """Some rows of a table, float32; `ValueError` where one is not finite."""
        width, last = entry.shape[1], min(first + count, entry.shape[0])
        raw = self.read(entry, first * width * entry.element, (last - first) * width * entry.element)
        found = torch.frombuffer(raw, dtype=_TYPES[entry.type]).view(last - first, width).float()
        finite = torch.isfinite(found).all(dim=1)
        if not bool(finite.all()):
            wild = first + int(torch.nonzero(~finite)[0])
            raise ValueError(f"table {entry.name!r}: row {wild} is not finite: its training has diverged")
        return found

    def read(self, entry: _Entry, first: int, count: int) -> bytearray:
        """Some bytes of a tensor."""
        buffer = bytearray(count)
        self._file.seek(entry.begin + first)
        if self._file.readinto(buffer) != count:  # type: ignore[attr-defined]
            raise ValueError(f"{entry.name!r} ends early: the file was cut while it was read")
        return buffer

    def sample(self, entry: _Entry) -> Trained:
        """Rows of a table from all over it."""
        rows, stretch = entry.shape[0], SAMPLE // _STRETCHES
        if rows <= SAMPLE:
            values = self.rows(entry, 0, rows)
        else:
            firsts = np.linspace(0, rows - stretch, _STRETCHES).astype(np.int64)
            values = torch.cat([self.rows(entry, int(first), stretch) for first in firsts])
        return Trained(entry.spec, values, np.ones(len(values)), singly=True)


def _fits(entry: _Entry, pattern: str) -> bool:
    return fnmatchcase(entry.name, pattern) or fnmatchcase(entry.name.removesuffix(_WEIGHT), pattern)


@dataclass(frozen=True)
class _Written:
    """A folded table as the new file has it: its tensors' shapes, and where each is filled."""

    entry: _Entry
    plan: Plan
    memory: tuple[str, Tensor]
    lookup: Tensor | None
    addresses: tuple[int, ...]

    @classmethod
    def of(cls, entry: _Entry, plan: Plan, seed: int) -> _Written:
        """What the plan of one table comes to."""
        address_map = plan.address_map(seed)
        (array,) = address_map.arrays  # rows of one width, in one format
        lookup = None
        if found := address_map.lookups:
            narrow = torch.from_numpy(np.empty(0, dtype=narrowest_integer(max(each.highest for each in found)))).dtype
            lookup = torch.empty(sum(len(each.buckets) for each in found), dtype=narrow, device="meta")
        addresses = (HASH_VERSION, FINGERPRINT_VERSION, address_map.fingerprint)
        return cls(entry, plan, (array.name, array.format.packed_like(*array.shape)), lookup, addresses)

    @property
    def table(self) -> TableSpec:
        """It."""
        return self.entry.spec

    @property
    def part(self) -> Part:
        """What it becomes."""
        return self.plan.parts[0]

    @property
    def num_bytes(self) -> int:
        """That it takes."""
        return sum(like.nbytes for like in self.tensors.values())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By their names in a state dict, the shapes and types of its memory and pointers."""
        prefix = f"{self.table.name}.group."
        found = {f"{prefix}memory.{self.memory[0]}": self.memory[1]}
        return found if self.lookup is None else {**found, f"{prefix}lookup": self.lookup}

    def pieces(self, source: _Checkpoint, sample: Trained, seed: int) -> Iterator[tuple[int, str, int, bytes]]:
        """(bytes read so far, tensor, where in it, what is there), for all of it."""
        names = list(self.tensors)
        keeper = _keeper(self.part, sample, seed)
        kept = self.part.format
        if keeper.regions:
            yield 0, names[0], 0, _bytes_of(kept.encode(torch.cat(list(keeper.regions))))
        rows, width = self.entry.shape
        for first in range(0, rows, self.entry.piece):
            values = source.rows(self.entry, first, self.entry.piece)
            read = (first + len(values)) * width * self.entry.element
            placed = keeper.place(values)
            if isinstance(placed, Tensor):
                yield read, names[0], kept.num_bytes(first * width), _bytes_of(kept.encode(placed))
                continue
            for stage, pointers in enumerate(placed):
                assert self.lookup is not None
                own = np.ascontiguousarray(pointers).tobytes()
                yield read, names[1], (stage * rows + first) * self.lookup.element_size(), own


def _keeper(part: Part, sample: Trained, seed: int) -> Keeper:
    found = part.method.keeper(sample, part.format, seed)
    if found is None:
        raise ValueError(
            f"{part.method} cannot keep table {part.tables[0].name!r} a piece at a time: take method='auto'"
        )
    return found


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _write(
    source: _Checkpoint,
    file: IO[bytes],
    written: Sequence[_Written],
    samples: Mapping[str, Trained],
    seed: int,
    tell: Tell,
) -> None:
    """The new file: its header, what is copied, then every folded table."""
    folded = {each.entry.name for each in written}
    copied = [entry for entry in source.entries.values() if entry.name not in folded]
    shapes = {entry.name: (entry.type, list(entry.shape), entry.num_bytes) for entry in copied}
    for each in written:
        shapes.update({n: (_NAMES[like.dtype], list(like.shape), like.nbytes) for n, like in each.tensors.items()})
    begins = _write_header(file, shapes, {**source.metadata, ITSELF: show_json(_spec(written, seed))})
    done, total = 0, sum(entry.num_bytes for entry in source.entries.values())
    for entry in copied:
        for first in range(0, entry.num_bytes, 1 << 24):
            file.seek(begins[entry.name] + first)
            file.write(source.read(entry, first, min(1 << 24, entry.num_bytes - first)))
        done += entry.num_bytes
        tell(entry.name, done, total)
    for each in written:
        for read, name, place, content in each.pieces(source, samples[each.entry.name], seed):
            file.seek(begins[name] + place)
            file.write(content)
            tell(each.entry.name, done + read, total)
        done += each.entry.num_bytes


def _write_header(
    file: IO[bytes], shapes: Mapping[str, tuple[str, list[int], int]], metadata: Mapping[str, str]
) -> dict[str, int]:
    """Begin a safetensors file; gives where each tensor's bytes begin. Larger elements lie first: all are aligned."""
    order = sorted(shapes, key=lambda name: -shapes[name][2] // max(1, math.prod(shapes[name][1])))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin, begins = 0, {}
    for name in order:
        kind, shape, size = shapes[name]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, begin + size]}
        begins[name] = begin
        begin += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + begin)
    return {name: 8 + len(text) + first for name, first in begins.items()}


def _spec(written: Sequence[_Written], seed: int) -> dict[str, Any]:
    """What `tablefold.json` of a folder says. A checkpoint does not know its modules: the model does."""
    groups = [
        {"plan": each.plan.to_json(), "seed": seed, "addresses": [str(part) for part in each.addresses]}
        for each in written
    ]
    tables = [
        {"names": [each.table.name], "group": number, "table": each.table.name, "kind": "as built"}
        for number, each in enumerate(written)
    ]
    return {"format": FORMAT, "groups": groups, "tables": tables, "tied": {}}
