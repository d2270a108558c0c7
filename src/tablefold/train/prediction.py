"""Score raw lines with a finished run: as many scores as lines, in their order.

with Scorer(load_run("run")) as scorer:
    for scores in scorer.score("today.txt"):
        scores.probability      # float32 [lines], NaN for a line that is malformed
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from tablefold.data import Batch
from tablefold.data.encoder import Encoded, Encoder
from tablefold.data.rejects import RejectRow
from tablefold.data.schema import TableSchema
from tablefold.files import new_file
from tablefold.train.loop import EVALUATION_BATCH
from tablefold.train.run import ENCODER, Run, load_run

_SCHEMA = pa.schema([("score", pa.float32()), ("reject", pa.string())])


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


@dataclass
class Summary:
    """What scoring a file came to: its lines, how many of them are malformed, and the first of these."""

    lines: int = 0
    rejected: int = 0
    first_reject: RejectRow | None = None

    def add(self, scores: Scores) -> None:
        """Count one more piece."""
        self.lines += len(scores.probability)
        self.rejected += len(scores.rejects)
        if self.first_reject is None and scores.rejects:
            self.first_reject = scores.rejects[0]

    def check(self, file: str) -> None:
        """Refuse a file in which no line fits: it is another format, not a bad line."""
        if not self.lines:
            raise ValueError(f"{file}: no line in it")
        if self.first_reject and self.rejected == self.lines:
            _, line, reason, _ = self.first_reject
            raise ValueError(
                f"{file}, line {line}: {reason} (no line is of the format that the run's data was prepared from)"
            )


class Scorer:
    """Scores files of raw lines; memory stays bounded whatever their length. Use it in a `with` block.

    Args:
        run: a finished run whose data was prepared from raw lines.
        device: "auto", "cpu" or "cuda".
        beside: the folder in which look-up tables are kept while it is open; None takes the system's for such.
        in_memory: keep look-up tables in memory instead, and write no file.

    Raises:
        ValueError: for a run that cannot read raw lines, or a device that is not there.
    """

    def __init__(self, run: Run, device: str = "auto", beside: Path | None = None, *, in_memory: bool = False) -> None:
        self._trainer = run.trainer(device)
        self._work = None if in_memory else TemporaryDirectory(prefix=".tablefold-predict.", dir=beside)
        try:
            tables = [TableSchema(table.name, table.rows) for table in run.recipe.tables]
            work = None if self._work is None else Path(self._work.name)
            self._encoder = Encoder(run.folder / ENCODER, run.recipe.dense, tables, work)
        except BaseException:
            self._clean()
            raise

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def _clean(self) -> None:
        if self._work is not None:
            self._work.cleanup()

    def score(self, file: str | Path) -> Iterator[Scores]:
        """Scores of all lines (or records) of a file, piece by piece.

        Raises:
            ValueError: for a file that is missing, empty, or of another format, or where the model gives a score that
                is not finite.
        """
        yield from self._score_pieces(self._encoder.read(str(file)), str(file))

    def score_frame(self, frame: pl.DataFrame, origin: str = "the data frame") -> Iterator[Scores]:
        """Scores of all rows of a data frame, piece by piece; no file is written.

        Args:
            frame: with the columns that the run's data had; the label may be missing.
            origin: what errors and rejects call it.

        Raises:
            ValueError: as `score`, and for a run whose data was no Parquet or CSV.
        """
        yield from self._score_pieces(self._encoder.read_frame(frame, origin), origin)

    def _score_pieces(self, pieces: Iterator[Encoded], origin: str) -> Iterator[Scores]:
        lines = 0
        for piece in pieces:
            yield self._score(piece, f"{origin}, row", first=lines + 1)
            lines += len(piece.fits)

    def _score(self, piece: Encoded, where: str, first: int) -> Scores:
        """Scores of encoded rows; `where` and the number of the first say to whom it was given which row is meant."""
        logits: list[Tensor] = []
        self._trainer.predict(_batches(piece), lambda batch, _: logits.append(batch.cpu()))
        scores: NDArray[np.float32] = torch.cat([torch.empty(0), *logits]).sigmoid().numpy()
        probability = np.full(len(piece.fits), np.nan, dtype=np.float32)
        probability[piece.fits] = scores
        wild = np.flatnonzero(piece.fits & ~np.isfinite(probability))
        if len(wild):
            found = f"{len(wild):,} of {len(scores):,} scores are not finite, the first: {where} {first + wild[0]:,}"
            raise ValueError(f"{found}: the model's weights are damaged, or its training diverged; train it again")
        return Scores(probability, piece.fits, piece.rejects)


def predict_file(run: str | Path, file: str | Path, out: str | Path, device: str = "auto") -> Summary:
    """Score a file of raw lines with the run in folder `run`; write `out`, a Parquet file with a row per line.

    Its columns: `score`, the predicted probability of label 1, null where a line is malformed; `reject`, then why.
    It appears whole or not at all, and replaces a file of that name.

    Raises:
        ValueError: for a run that cannot read raw lines, a file that is missing, empty, or of another format, an `out`
            that is that file or in the run's folder, or where the model gives a score that is not finite.
        OSError: when `out` cannot be written.
    """
    out, summary = Path(out), Summary()
    _check_target(out, Path(run), Path(file))
    loaded = load_run(run)
    with new_file(out) as target, Scorer(loaded, device, out.absolute().parent) as scorer:
        with target.open("wb") as stream, pq.ParquetWriter(stream, _SCHEMA) as writer:  # Arrow opens UTF-8 names only
            for scores in scorer.score(file):
                summary.add(scores)
                writer.write_table(_to_arrow(scores))
        summary.check(str(file))
    return summary


def _check_target(out: Path, run: Path, file: Path) -> None:
    """Refuse to write what is read: the file of lines, under whatever name, and anything in the run's folder."""
    if out.exists() and file.exists() and out.samefile(file):
        raise ValueError(f"{out} is the file to read; name another one to write")
    place = Path(os.path.realpath(out))  # which takes a link to itself as it stands
    if run.exists() and any(folder.exists() and folder.samefile(run) for folder in (place, *place.parents)):
        raise ValueError(f"{out} lies in the run {run}, which is read and never written; name a file elsewhere")


def _to_arrow(scores: Scores) -> pa.Table:
    reasons: NDArray[np.object_] = np.full(len(scores.fits), None, dtype=object)
    reasons[~scores.fits] = [reason for _, _, reason, _ in scores.rejects]
    return pa.table([pa.array(scores.probability, mask=~scores.fits), pa.array(reasons, pa.string())], schema=_SCHEMA)


def _batches(piece: Encoded) -> Iterator[Batch]:
    for start in range(0, len(piece.ids), EVALUATION_BATCH):
        rows = slice(start, start + EVALUATION_BATCH)
        ids = torch.from_numpy(piece.ids[rows].astype(np.int64))
        yield Batch(torch.from_numpy(piece.dense[rows]), ids, torch.zeros(len(ids)))
