"""What `metrics.jsonl` will say, as TensorBoard shows it, while training goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tablefold.train.progress import Listener, Progress

POSITION = frozenset({"part", *Progress().position()})
"""What a record says of where it was taken; the rest are figures."""


class TensorBoard(Listener):
    """Writes every record as TensorBoard events: `train/loss`, `validation/auc`, ... by step.

    A training that goes on after a kill goes on in the same folder; what lay beyond its checkpoint is hidden.

    Args:
        folder: where the event files go; `tensorboard --logdir` takes it or any folder above it.

    Raises:
        ValueError: where TensorBoard is not installed.

    >>> TensorBoard("run.tensorboard").folder.name
    'run.tensorboard'
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("TensorBoard is not installed: pip install 'tablefold[tensorboard]'") from error
        self.folder = Path(folder)
        self._open = SummaryWriter
        self._writer: SummaryWriter | None = None

    def on_start(self, progress: Progress, steps: int) -> None:
        """Begin an event file; events of steps that are still to come are those of a training that was killed."""
        self._writer = self._open(str(self.folder), purge_step=progress.step + 1 if progress.step else 0)

    def on_record(self, record: dict[str, Any]) -> None:
        """One point in every curve."""
        assert self._writer is not None, "training has not started"
        for name, value in record.items():
            if name not in POSITION:
                self._writer.add_scalar(f"{record['part']}/{name}", value, record["step"])
        self._writer.flush()

    def on_end(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
