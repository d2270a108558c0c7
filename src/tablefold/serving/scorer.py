"""Raw values in, probabilities out, in memory: what `predict`, `ClickModel` and the service stand on.

scorer = Scorer("run")
scorer.score([{"user": "ann", "ad": 7, "age": 31}])     # float32 [1], NaN for a row that is malformed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from jaxtyping import Float32
from numpy.typing import NDArray

from tablefold.data.encoder import Encoded, Encoder
from tablefold.data.rejects import RejectRow
from tablefold.data.schema import TableSchema
from tablefold.quoting import quoted
from tablefold.serving.packed_layers import packed_bytes, with_packed_layers
from tablefold.train.loop import choose_device
from tablefold.train.precision import matrix_products, nearest_precision
from tablefold.train.run import ENCODER, Run, load_run

BATCH = 1024
"""Rows that the model takes at a time: what its layers compute then stays in a core's cache."""

_ONE_KIND = ({str}, {int}, {float}, {bool})
_INT64 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True)
class Scores:
    """Scores of a piece of a file.

    Args:
        probability: float32 [lines]: predicted probability of label 1; NaN where a line is malformed.
        fits: bool [lines]: which are not.
        rejects: file, line, reason and text of those that are.
    """

    probability: NDArray[np.float32]
    fits: NDArray[np.bool_]
    rejects: list[RejectRow]


class Scorer:
    """Scores raw values with a finished run, in memory. Any number of threads may call it at once.

    Values become ids as in the run's training. A value that training has not seen, or that is missing, gets the id that
    stands for such; a missing number is 0.

    Args:
        run: a finished run (or its folder) whose data was prepared from raw values: by `ClickModel`, or from a table,
            Criteo's or Avazu's logs.
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        work: an existing folder for files that are unpacked, and for the indexes of dictionaries that runs of earlier
            versions lack; None keeps these in memory, and writes no file.
        built: whether another scorer of the same run has checked its indexes, or made those in `work`.

    Attributes:
        run: the run.
        encoder: what turns values into ids.
        names: of the raw columns that it reads: numbers first.

    Raises:
        ValueError: for a folder that holds no run, a run that cannot read raw values, or a device that is not there.

    Example:
        >>> from tablefold import ClickModel, Scorer
        >>> log = {"ad": list("abcd") * 50, "clicked": [1, 0, 0, 1] * 50}
        >>> sizes = {"dim": 4, "model": "neumf", "model_options": {"top_mlp": [8]}}
        >>> model = ClickModel(**sizes).fit(log, label="clicked", categorical=["ad"])
        >>> scorer = Scorer(model.run)
        >>> scorer.score([{"ad": "a"}, {"ad": "never seen"}, {"ad": None}]).shape
        (3,)
    """

    def __init__(
        self, run: Run | str | Path, device: str = "auto", *, work: Path | None = None, built: bool = False
    ) -> None:
        self.run = run if isinstance(run, Run) else load_run(run)
        self._device = choose_device(device)
        recipe = self.run.recipe
        tables = [TableSchema(table.name, table.rows) for table in recipe.tables]
        self.encoder = Encoder(self.run.folder / ENCODER, recipe.dense, tables, work, built=built)
        self.names = self.encoder.inputs
        wanted = [(column.name, column.table, column.length) for column in recipe.columns]
        if [(column.name, column.table, column.length) for column in self.encoder.id_columns] != wanted:
            raise ValueError(
                f"{self.run.folder} reads what each user took before, and was trained by a version that did not keep "
                "it: train it again, or rank items with `tablefold recommend`"
            )
        precision = nearest_precision(recipe.config.precision, self._device)
        self._in_bf16 = precision == "bf16"
        self._in_tf32 = precision == "tf32"
        model = self.run.model.to(self._device).eval()
        packs = self._device.type == "cpu" and precision == "fp32"
        self._model = with_packed_layers(model) if packs else model

    @property
    def weight_bytes(self) -> int:
        """Bytes of the model in this process: embeddings, network, and the network's layers as they are packed."""
        model = self.run.model
        held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
        return sum(held.values()) + packed_bytes(self._model)

    def score(self, data: Any) -> Float32[np.ndarray, " rows"]:
        """Probabilities of label 1, float32 `[rows]` in the order of the rows; NaN for a malformed row.

        Args:
            data: a list of records (`[{"user": "ann", "ad": 7}]`), each value read by itself; or a table: a dict of
                columns, an Arrow table, a polars or pandas frame. The label may be missing, other columns are ignored;
                None and null are missing values.

        Raises:
            ValueError: for data that lacks a column, has no rows, or values of no known type, or where the model gives
                a score that is not finite.
        """
        where = "record" if isinstance(data, (list, tuple)) else "the data frame, row"
        scores: list[NDArray[np.float32]] = []
        for piece in self.encode(data):
            first = sum(map(len, scores)) + 1
            scores.append(self.score_encoded(piece, where, first).probability)
        return scores[0] if len(scores) == 1 else np.concatenate(scores)

    def score_file(self, file: str | Path) -> Iterator[Scores]:
        """Scores of all lines (or records) of a file, piece by piece; memory stays bounded whatever its length.

        Raises:
            ValueError: for a file that is missing, empty, or of another format, or where the model gives a score that
                is not finite.
        """
        lines = 0
        for piece in self.encoder.read(str(file)):
            yield self.score_encoded(piece, f"{file}, row", lines + 1)
            lines += len(piece.fits)

    def encode(self, data: Any) -> Iterator[Encoded]:
        """The model's inputs for `data`, as `score` takes it, piece by piece."""
        if isinstance(data, (list, tuple)):
            yield self.encoder.read_values(self._of_records(data), "the records")
        elif (columns := self._of_columns(data)) is not None:
            yield self.encoder.read_values(columns, "the data")
        else:
            yield from self.encoder.read_frame(frame_of(data), "the data frame")

    def score_encoded(self, piece: Encoded, where: str, first: int) -> Scores:
        """Scores of encoded rows; `where` and the number of the first say to whom it was given which row is meant."""
        found = self.probabilities(piece.dense, piece.ids)
        wild = np.flatnonzero(~np.isfinite(found))
        if len(wild):
            row = first + np.flatnonzero(piece.fits)[wild[0]]
            said = f"{len(wild):,} of {len(found):,} scores are not finite, the first: {where} {row:,}"
            raise ValueError(f"{said}: the model's weights are damaged, or its training diverged; train it again")
        if not piece.rejects:
            return Scores(found, piece.fits, piece.rejects)
        probability = np.full(len(piece.fits), np.nan, dtype=np.float32)
        probability[piece.fits] = found
        return Scores(probability, piece.fits, piece.rejects)

    def probabilities(self, dense: NDArray[np.float32], ids: NDArray[Any]) -> NDArray[np.float32]:
        """Of rows that fit, float32 `[rows]`."""
        found = np.empty(len(ids), dtype=np.float32)
        for start in range(0, len(ids), BATCH):
            rows = slice(start, start + BATCH)
            inputs = (torch.from_numpy(dense[rows]), torch.from_numpy(ids[rows]))
            found[rows] = self._forward(*(each.to(self._device) for each in inputs)).cpu().numpy()
        return found

    @torch.inference_mode()
    def _forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        bf16 = torch.autocast(self._device.type, torch.bfloat16) if self._in_bf16 else nullcontext()
        with bf16, matrix_products("tf32") if self._in_tf32 else nullcontext():
            logits: torch.Tensor = self._model(dense, ids)
        return logits.float().sigmoid()

    def _of_records(self, records: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """The values of each column."""
        if not records:
            raise ValueError("there is no record to score")
        if not all(issubclass(kind, Mapping) for kind in set(map(type, records))):
            number, record = next(pair for pair in enumerate(records, 1) if not isinstance(pair[1], Mapping))
            raise ValueError(f"record {number:,} is {quoted(record)}; it must be a dict of values by column")
        names = self.names
        try:
            if len(names) == 1:
                return [[record[names[0]] for record in records]]
            return list(zip(*map(itemgetter(*names), records), strict=True))
        except KeyError:
            number, name = next((n, name) for n, row in enumerate(records, 1) for name in names if name not in row)
            raise ValueError(
                f"record {number:,} has no value of {quoted(name)}; give None where it is missing"
            ) from None

    def _of_columns(self, data: Any) -> list[list[Any]] | None:
        """The columns of a dict of lists that hold values of one type each; None where Arrow must find the type."""
        if not isinstance(data, dict) or not data:
            return None
        columns = [data.get(name) for name in self.names]
        lengths = {len(values) if isinstance(values, (list, tuple)) else -1 for values in data.values()}
        if len(lengths) > 1 or lengths <= {-1, 0} or not all(_is_of_one_type(values) for values in columns):
            return None
        return columns  # type: ignore[return-value]


def _is_of_one_type(values: Any) -> bool:
    """Whether a list holds texts, integers, floats or truths alone, or None: what each is as text, all are."""
    if values is None:
        return False
    kinds = set(map(type, values)) - {type(None)}
    return (not kinds or kinds in _ONE_KIND) and (
        kinds != {int} or all(value is None or value in _INT64 for value in values)
    )


def frame_of(data: Any) -> pl.DataFrame:
    """Columns of another library: what exports an Arrow stream of records, any pandas frame, a dict of columns."""
    if isinstance(data, pl.DataFrame):
        return data
    try:
        return pl.DataFrame(pa.table(data))
    except (TypeError, ValueError) as error:  # Arrow's own errors are ValueErrors
        given = f"data is a {type(data).__name__} without columns of equal length"
        raise ValueError(f"{given}; give a polars or pandas DataFrame, or a dict of columns") from error
