"""Load a prepared dataset in batches of torch tensors.

    dataset = Dataset("criteo")
    for batch in dataset.part("train").batches(2048, seed=0, epoch=epoch):
        logits = model(batch.dense, batch.ids)

Shards are memory-mapped; shuffling is by blocks (`tablefold.data.order`); the next window of rows is read ahead in a
thread. The batches of an epoch depend on `(batch_size, seed, epoch)` alone: not on ranks, loader workers or resuming.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from tablefold.data.dictionary_file import read_counts
from tablefold.data.numbering import IdMap, Numbering, digest_of_maps
from tablefold.data.order import BLOCK_ROWS, EpochOrder
from tablefold.data.schema import PartSchema, Schema, TableSchema
from tablefold.data.shards import Examples, ShardLayout, read_shard
from tablefold.quoting import one_line, quoted
from tablefold.tables import NOTHING

MAX_OPEN_SHARDS = 128


class Batch(NamedTuple):
    """One batch: `dense` float32 [batch, dense_columns], `ids` int64 [batch, ids], `label` float32 [batch].

    `ids` has the columns that `schema.id_columns` lists: one for each single id, then those of lists, which hold
    `tablefold.tables.NOTHING` where a list is shorter. Where rows have weights, `weight` float32 [batch] says how much
    each counts in training.
    """

    dense: Float32[Tensor, "batch dense"]
    ids: Int64[Tensor, "batch ids"]
    label: Float32[Tensor, " batch"]

    @property
    def weight(self) -> Float32[Tensor, " batch"] | None:
        """How much each row counts in training; None: all alike."""
        return getattr(self, "_weight", None)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        dense, ids, label = (each.to(device, non_blocking=True) for each in self)
        if self.weight is None:
            return Batch(dense, ids, label)
        return WeightedBatch.of(dense, ids, label, self.weight.to(device, non_blocking=True))


class WeightedBatch(Batch):
    """A batch whose rows have weights; as a tuple it is like any other."""

    _weight: Tensor

    @classmethod
    def of(cls, dense: Tensor, ids: Tensor, label: Tensor, weight: Tensor) -> WeightedBatch:
        """A batch of these."""
        batch = cls(dense, ids, label)
        batch._weight = weight
        return batch


class Dataset:
    """A prepared dataset: `dataset.schema` and `dataset.part("train" | "test" | "validation")`.

    `numbered` and `head` give views of it: nothing is copied.

    Attributes:
        folder: where it is.
        schema: of what is read; in a view it may differ from the folder's.
        numbering: the order of the ids, where it is not that of the folder's dictionaries.
        encoder: the dictionaries of a run whose ids these are (`tablefold.data.joined`), if they are.

    Raises:
        ValueError: if the folder holds no prepared dataset.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.schema = Schema.load(folder)
        self.numbering: Numbering | None = None
        self.encoder: Path | None = None
        self._given = self.schema  # as the folder has it, the rows of a head aside
        self._is_head = False
        self._maps: tuple[IdMap | None, ...] = (None,) * len(self.schema.tables)
        self._parts: dict[str, Part] = {}

    def part(self, name: str) -> Part:
        """One part of the split."""
        if name not in self.schema.parts:
            raise ValueError(f"{self.folder} has no part {quoted(name)}; choose one of {', '.join(self.schema.parts)}")
        if name not in self._parts:  # kept, so that its shards are checked once
            places = self.id_tables
            singles = sum(column.length is None for column in self.schema.id_columns)
            tables = tuple(self._given.tables[place].rows for place in places)
            layout = ShardLayout(len(self.schema.dense), tables, singles, self.schema.weighted)
            maps = tuple(self._maps[place] for place in places)
            self._parts[name] = Part(self.folder / name, self.schema.parts[name], layout, maps)
        return self._parts[name]

    @cached_property
    def id_tables(self) -> list[int]:
        """For every column of the matrix of ids, the number of its table."""
        names = [table.name for table in self.schema.tables]
        return [names.index(column.table) for column in self.schema.id_columns for _ in range(column.width)]

    def numbered(self, numbering: Numbering) -> Dataset:
        """The same rows, their ids in another order.

        Raises:
            ValueError: for a numbering of other tables, or one that moves ids that stand for no value.
        """
        if self.encoder is not None:
            raise ValueError(f"{self.folder} is read with the ids of {self.encoder.parent}: it cannot be numbered anew")
        numbering.check(self.schema.tables, self.schema.first_id)
        maps = _compose(self._maps, numbering.new_ids)
        view = self._view(maps, self.schema.tables)
        view.numbering = Numbering(maps)
        return view

    def translated(self, maps: Sequence[IdMap | None], tables: Sequence[TableSchema], encoder: Path) -> Dataset:
        """The same rows, their ids those of the run with the dictionaries `encoder`; see `tablefold.data.joined`."""
        view = self._view(_compose(self._maps, maps), tables)
        view.encoder = encoder
        return view

    def head(self, train_rows: int) -> Dataset:
        """The first `train_rows` rows of the training part; the other parts shrink alike."""
        share = min(1.0, train_rows / max(1, self.schema.parts["train"].rows))
        view = self._view(self._maps, self.schema.tables)
        view._is_head, view.numbering, view.encoder, parts = True, self.numbering, self.encoder, {}
        view.__dict__.pop("_first_counts", None)
        for name, part in self.schema.parts.items():
            rows = round(part.rows * share)
            labels = [int(examples.label.sum()) for examples in self.part(name).examples(0, rows)]
            parts[name] = replace(part, rows=rows, positives=sum(labels))
        view.schema, view._given = replace(view.schema, parts=parts), replace(view._given, parts=parts)
        return view

    def counts(self, table: str) -> NDArray[np.int64]:
        """How often training shows each id of a table, `[rows]`, in this dataset's order.

        The counts of values are those of the table's dictionary (of positives, where negatives are drawn). Ids that
        stand for no value are counted in the training part, and so is a table without a dictionary.

        Raises:
            ValueError: for a name that no table has, or a table of hashed ids.
        """
        names = [each.name for each in self.schema.tables]
        if table not in names:
            raise ValueError(f"{self.folder} has no table {quoted(table)}; it has {one_line(', '.join(names), 300)}")
        number = names.index(table)
        counts, into = self._own_counts(number), self._maps[number]
        if into is None:
            return counts
        mapped: NDArray[np.int64] = np.zeros(self.schema.tables[number].rows or 0, dtype=np.int64)
        np.add.at(mapped, into, counts)
        return mapped

    def new_ids(self, number: int) -> NDArray[np.int64]:
        """For every id that a table has in the folder, the one that is read."""
        own = self._maps[number]
        return np.arange(self._given.tables[number].rows or 0) if own is None else own.astype(np.int64)

    @property
    def digest(self) -> str | None:
        """Of what the ids of the folder are read as; None where they are read as they are."""
        return None if all(each is None for each in self._maps) else digest_of_maps(self._maps)

    def dictionary(self, number: int) -> Path | None:
        """The dictionary of a table, whose values are in the order that they have in the folder; None without one."""
        path = self.folder / self._given.dictionary_file(self._given.tables[number].name)
        return path if self._given.has_dictionaries and path.is_file() else None

    def _own_counts(self, number: int) -> NDArray[np.int64]:
        """The counts of the ids that the folder has."""
        table, first, path = self._given.tables[number], self._given.first_id, self.dictionary(number)
        if table.rows is None:
            raise ValueError(
                f"table {quoted(table.name)} has hashed ids, which nobody counts: prepare --ids dictionary"
            )
        if path is not None and not self._is_head and not self._given.is_attribute(number):
            return np.append(self._first_counts[:first, number], read_counts(path, table.rows - first))
        counts = np.zeros(table.rows, dtype=np.int64)
        for examples in self._own_training():
            ids = examples.ids[:, self._places(number)]
            counts += np.bincount(ids[ids != NOTHING], minlength=table.rows)
        return counts

    def _places(self, number: int) -> list[int]:
        """The columns of ids that say how often a table's ids occur: its own, else those of lists."""
        places = [place for place, table in enumerate(self.id_tables) if table == number]
        singles = sum(column.length is None for column in self.schema.id_columns)
        return [place for place in places if place < singles] or places

    @cached_property
    def _first_counts(self) -> NDArray[np.int64]:
        """How often training shows each id that stands for no value, [first ids, tables]."""
        counts = np.zeros((self._given.first_id, len(self._given.tables)), dtype=np.int64)
        for examples in self._own_training() if len(counts) else ():
            for each, count in enumerate(counts):
                shown = (examples.ids == each).sum(axis=0)
                count += [shown[self._places(number)].sum() for number in range(len(count))]
        return counts

    def _own_training(self) -> Iterator[Examples]:
        """The training part with the ids that the folder has."""
        part = self.part("train").unmapped()
        for start in range(0, part.rows, BLOCK_ROWS):
            yield from part.examples(start, start + BLOCK_ROWS)

    def _view(self, maps: tuple[IdMap | None, ...], tables: Sequence[TableSchema]) -> Dataset:
        view = copy.copy(self)
        view.numbering, view.encoder, view._maps, view._parts = None, None, maps, {}
        view.schema = replace(self.schema, tables=tuple(tables))
        return view


def _compose(first: Sequence[IdMap | None], second: Sequence[IdMap | None]) -> tuple[IdMap | None, ...]:
    """Per table, one map after the other."""
    return tuple(
        then if before is None else before if then is None else then[before]
        for before, then in zip(first, second, strict=True)
    )


class Part:
    """One part of a dataset, memory-mapped.

    Args:
        folder: where the shard files are.
        schema: rows and checksum of each shard.
        layout: what each shard holds; a file is checked as a whole when it is opened for the first time.
        maps: per column of ids, what each id of the shards is read as; None as it is.
    """

    def __init__(
        self, folder: Path, schema: PartSchema, layout: ShardLayout, maps: tuple[IdMap | None, ...] = ()
    ) -> None:
        self.folder = folder
        self.rows = schema.rows
        self._schema = schema
        self._shards = schema.shards
        self._layout = layout
        self._maps = maps
        self._checked: set[int] = set()
        self._opened: dict[int, Examples] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Part, (self.folder, self._schema, self._layout, self._maps)  # loader workers map the files themselves

    def unmapped(self) -> Part:
        """The same rows, with the ids that the shards have."""
        if all(each is None for each in self._maps):
            return self
        part = copy.copy(self)
        part._maps = ()
        return part

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Row at which each shard ends."""
        return np.cumsum(self._shards, dtype=np.int64)

    @cached_property
    def _paths(self) -> list[Path]:
        paths = sorted(self.folder.glob("*.arrow"))
        if len(paths) != len(self._shards):
            raise ValueError(
                f"{self.folder} holds {len(paths)} shards, its schema lists {len(self._shards)}; prepare the data again"
            )
        return paths

    def _open(self, shard: int) -> Examples:
        """Shard number `shard`; the last ones used stay open (a part may have more than a process may open)."""
        examples = self._opened.get(shard)
        if examples is not None:
            return examples
        path, rows = self._paths[shard], self._shards[shard]
        if shard in self._checked:
            examples = read_shard(path, rows)
        else:
            checksum = self._schema.checksums[shard] if self._schema.checksums else None
            examples = read_shard(path, rows, self._layout, checksum)
            self._checked.add(shard)
        while len(self._opened) >= MAX_OPEN_SHARDS:
            self._opened.pop(next(iter(self._opened)), None)
        self._opened[shard] = examples
        return examples

    def examples(self, start: int, stop: int) -> list[Examples]:
        """Rows `start .. stop - 1` (clipped to the part's end), in order: pieces of one or more shards.

        They are read-only views of the shards, the ids a copy where they are read as others.
        """
        pieces: list[Examples] = []
        stop = min(stop, self.rows)
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            first, end = int(self._ends[shard]) - self._shards[shard], min(stop, int(self._ends[shard]))
            if end > start:
                pieces.append(self._mapped(self._open(shard)[start - first : end - first]))
            start, shard = end, shard + 1
        return pieces

    def _mapped(self, examples: Examples) -> Examples:
        """The rows with ids as they are read."""
        if all(each is None for each in self._maps):
            return examples
        ids = np.array(examples.ids)
        for number, each in enumerate(self._maps):
            if each is not None:
                ids[:, number] = np.where(ids[:, number] == NOTHING, NOTHING, each[ids[:, number]])
        return replace(examples, ids=ids)

    def num_batches(self, batch_size: int, world: int = 1) -> int:
        """Batches per rank and epoch: the last may be short; of several ranks, all take equally many."""
        if batch_size < 1 or world < 1:
            raise ValueError(f"batch_size={batch_size} and world={world} must be at least 1")
        batches = -(-self.rows // batch_size)
        return batches // world if world > 1 else batches

    def batches(
        self,
        batch_size: int,
        seed: int | None = None,
        epoch: int = 0,
        *,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            batch_size: rows of a batch; the last one may be short.
            seed: shuffle by blocks; None keeps the order of the files.
            epoch: each epoch has an order of its own.
            start: first batch to yield, to resume at `(epoch, start)`; counts this rank's batches.
            rank: of `world` ranks, the one that reads: it takes batches rank, rank + world, ... Batches that do not
                fill a last round are left out, so that all ranks take the same number of steps.
            world: how many ranks read this part.

        Raises:
            ValueError: for a batch size below 1, or a rank outside the world.
        """
        if not 0 <= rank < world or start < 0:
            raise ValueError(f"rank={rank} must lie in 0 .. {world - 1} and start={start} not below 0")
        numbers = range(start * world + rank, self.num_batches(batch_size, world) * world, world)
        return self._read(batch_size, EpochOrder(self.rows, seed, epoch), numbers)

    def iterable(self, batch_size: int, seed: int | None = None, *, rank: int = 0, world: int = 1) -> IterableBatches:
        """The same batches as an `IterableDataset`, for `DataLoader(part.iterable(2048), batch_size=None)`."""
        return IterableBatches(self, batch_size, seed, rank, world)

    def _read(self, batch_size: int, order: EpochOrder, numbers: range) -> Iterator[Batch]:
        """The batches `numbers` of one epoch."""
        spans = ((number * batch_size, min((number + 1) * batch_size, self.rows)) for number in numbers)
        if order.seed is None:
            for start, stop in spans:
                yield _to_torch(Examples.concatenate(self.examples(start, stop)))
        else:
            yield from self._read_shuffled(order, spans)

    def _read_shuffled(self, order: EpochOrder, spans: Iterator[tuple[int, int]]) -> Iterator[Batch]:
        """Cut the windows of the epoch into `spans` of positions, reading one window ahead in a thread."""
        windows, ends = order.windows(), order.window_ends()
        with ThreadPoolExecutor(1, thread_name_prefix="tablefold-read") as thread:
            current, window, ahead = -1, _Window.empty(), None
            for position, stop in spans:
                pieces: list[Examples] = []
                while position < stop:
                    needed = int(np.searchsorted(ends, position, side="right"))
                    if needed != current:
                        follows = ahead is not None and needed == current + 1
                        window = ahead.result() if ahead and follows else self._window(order, windows, needed)
                        current = needed
                        ahead = thread.submit(self._window, order, windows, needed + 1)
                    first, end = int(ends[current]) - len(window.permutation), min(stop, int(ends[current]))
                    pieces.append(window.examples[window.permutation[position - first : end - first]])
                    position = end
                yield _to_torch(Examples.concatenate(pieces))

    def _window(self, order: EpochOrder, windows: list[NDArray[np.int64]], number: int) -> _Window:
        """The rows of window `number`, copied together, and the permutation to read them in."""
        if number >= len(windows):
            return _Window.empty()
        starts = windows[number] * BLOCK_ROWS
        pieces = [piece for start in starts for piece in self.examples(int(start), int(start) + BLOCK_ROWS)]
        examples = Examples.concatenate(pieces)
        return _Window(examples, order.within(number, len(examples)))


class _Window(NamedTuple):
    examples: Examples
    permutation: NDArray[np.int64]

    @classmethod
    def empty(cls) -> _Window:
        nothing = np.empty((0, 0))
        return cls(Examples(nothing.astype(np.float32), nothing, np.empty(0, np.uint8)), np.empty(0, np.int64))


class IterableBatches(IterableDataset[Batch]):
    """The batches of a part for a `DataLoader(..., batch_size=None)`; set `epoch` before each epoch.

    With loader workers, worker w of n makes batches w, w + n, ...; the loader takes them in turn, so the order is the
    same for any number of workers.
    """

    def __init__(self, part: Part, batch_size: int, seed: int | None, rank: int, world: int) -> None:
        self.part, self.batch_size, self.seed, self.rank, self.world = part, batch_size, seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return self.part.num_batches(self.batch_size, self.world)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        numbers = range(len(self) * self.world)[self.rank :: self.world][first::step]
        order = EpochOrder(self.part.rows, self.seed, self.epoch)
        return self.part._read(self.batch_size, order, numbers)


def _to_torch(examples: Examples) -> Batch:
    """Copies: shards are read-only views, and a batch belongs to its receiver."""
    batch = Batch(
        torch.from_numpy(np.array(examples.dense)),
        torch.from_numpy(examples.ids.astype(np.int64)),
        torch.from_numpy(examples.label.astype(np.float32)),
    )
    return batch if examples.weight is None else WeightedBatch.of(*batch, torch.from_numpy(np.array(examples.weight)))
