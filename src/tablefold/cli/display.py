"""Training as it goes: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tablefold.train.progress import Listener, Progress

if TYPE_CHECKING:
    from tqdm import tqdm


class TrainingDisplay(Listener):
    """A listener of the training loop that writes to stderr.

    On a terminal: one bar of all steps, with loss and validation figures. Elsewhere (a log file, CI): one line per
    record, at most about twenty for the training loss.
    """

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None
        self._steps = 0
        self._shown: dict[str, str] = {}
        self._last_line = 0

    def on_start(self, progress: Progress, steps: int) -> None:
        """Training begins, or goes on, at `progress`; `steps` in all."""
        from tqdm import tqdm

        self._steps = steps
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=progress.step, unit="step", dynamic_ncols=True, leave=False)

    def on_step(self, progress: Progress, loss: float) -> None:
        """One step further."""
        if self._bar is not None:
            self._bar.update()

    def on_record(self, record: dict[str, Any]) -> None:
        """Show the latest figures."""
        if record["part"] == "train":
            self._shown["loss"] = f"{record['loss']:.4f}"
        else:
            self._shown["validation"] = f"auc {record['auc']:.4f} logloss {record['logloss']:.4f}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)
            return
        if record["part"] == "train":
            if record["step"] - self._last_line < self._steps / 20:
                return
            self._last_line = record["step"]
            line = f"loss {self._shown['loss']}  {record['samples_per_second']:,.0f} samples/s"
        else:
            line = f"validation {self._shown['validation']}"
        print(f"step {record['step']:,} of {self._steps:,}  {line}", file=sys.stderr, flush=True)

    def on_notice(self, text: str) -> None:
        """Say it, above the bar if there is one."""
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)

    def on_end(self) -> None:
        """Clear the bar."""
        if self._bar is not None:
            self._bar.close()


class Counting:
    """A progress bar of things that are done, on a terminal; nothing elsewhere.

    Args:
        unit: what is counted.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> Counting:
        return self

    def tell(self, done: int, total: int) -> None:
        """So many of all are done."""
        from tqdm import tqdm

        if self._bar is None and sys.stderr.isatty():
            self._bar = tqdm(total=total, unit=self._unit, dynamic_ncols=True, leave=False)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
