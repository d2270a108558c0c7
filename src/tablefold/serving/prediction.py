"""Files of raw lines to files of scores: as many scores as lines, in their order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tablefold.data.rejects import RejectRow
from tablefold.files import new_file
from tablefold.serving.scorer import Scorer, Scores
from tablefold.train.run import load_run

_SCHEMA = pa.schema([("score", pa.float32()), ("reject", pa.string())])


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
    with new_file(out) as target, TemporaryDirectory(prefix=".tablefold-predict.", dir=out.absolute().parent) as work:
        scorer = Scorer(loaded, device, work=Path(work))  # dictionaries may be larger than memory
        with target.open("wb") as stream, pq.ParquetWriter(stream, _SCHEMA) as writer:  # Arrow opens UTF-8 names only
            for scores in scorer.score_file(file):
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
