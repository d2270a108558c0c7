"""Requests that wait together are scored together: what arrives while a batch is computed is the next one.

One thread of a process reads requests and computes: the event loop stays free to take and to refuse. A batch waits for
nobody; a request alone is scored at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tablefold.data.encoder import Encoded
from tablefold.serving.plain_requests import Columns
from tablefold.serving.refusals import RefusedError, bad
from tablefold.serving.scorer import BATCH, Scorer, Scores

Answer = tuple[bytes, dict[str, str]]
"""Body and headers."""


@dataclass
class Job:
    """A request that waits for its scores.

    Args:
        scorer: the one that was served when it came.
        read: its columns; raises `RefusedError`.
        show: its answer, given its scores.
    """

    scorer: Scorer
    read: Callable[[], Columns]
    show: Callable[[Scores], Answer]
    given_up: bool = False
    rows: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, answer: Answer | BaseException) -> Callable[[], None]:
        """What the event loop shall do to give the answer to who waits for it."""

        def give() -> None:
            if self._answer.done():
                return
            if isinstance(answer, BaseException):
                self._answer.set_exception(answer)
            else:
                self._answer.set_result(answer)

        return give


class Batcher:
    """Scores jobs in a thread of its own.

    Args:
        most_waiting: jobs; more are refused.
        seconds: that a job may wait for its answer.
        tell_batch: called with the rows of each batch.
    """

    def __init__(
        self, most_waiting: int, seconds: float, tell_batch: Callable[[int], object] = lambda rows: None
    ) -> None:
        self._most, self._seconds, self._tell_batch = most_waiting, seconds, tell_batch
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tablefold-scores", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that nobody has begun."""
        return self._jobs.qsize()

    async def answer(self, job: Job) -> Answer:
        """The answer to a job.

        Raises:
            RefusedError: for a job that cannot be read, has no finite score, finds too many before it, or waits too
                long.
        """
        if self.waiting >= self._most:
            raise RefusedError(503, f"{self._most:,} requests are waiting already; try again", {"retry-after": "1"})
        self._jobs.put(job)
        try:
            return await asyncio.wait_for(job._answer, self._seconds)
        except TimeoutError:
            job.given_up = True
            raise RefusedError(503, f"no scores within {self._seconds:g} s; try again", {"retry-after": "1"}) from None

    def close(self) -> None:
        """End the thread when all that waits is answered."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        open_ = True
        while open_:
            batch: list[tuple[Job, Encoded]] = []
            done: list[tuple[Job, Answer | BaseException]] = []
            job = self._jobs.get()
            while job is not None:
                self._read(job, batch, done)
                if sum(len(piece.ids) for _, piece in batch) >= BATCH or self._jobs.empty():
                    break
                job = self._jobs.get()
            open_ = job is not None
            self._score(batch, done)
            for loop in {job._loop for job, _ in done}:
                loop.call_soon_threadsafe(_give, [job.settle(answer) for job, answer in done if job._loop is loop])

    def _read(self, job: Job, batch: list[tuple[Job, Encoded]], done: list[tuple[Job, Answer | BaseException]]) -> None:
        if job.given_up:
            return
        try:
            batch.append((job, job.scorer.encoder.read_values(job.read(), "the request")))
        except RefusedError as refusal:
            done.append((job, refusal))
        except ValueError as error:  # a value that is no text, number or truth
            done.append((job, bad(str(error))))
        except BaseException as error:
            done.append((job, error))

    def _score(self, batch: Sequence[tuple[Job, Encoded]], done: list[tuple[Job, Answer | BaseException]]) -> None:
        """Score what was read, a scorer's jobs together: while a new run is taken over there are two scorers."""
        for scorer in {id(job.scorer): job.scorer for job, _ in batch}.values():
            own = [(job, piece) for job, piece in batch if job.scorer is scorer]
            try:
                found = scorer.probabilities(
                    np.concatenate([piece.dense for _, piece in own]), np.concatenate([piece.ids for _, piece in own])
                )
                self._tell_batch(len(found))
            except BaseException as error:
                done.extend((job, error) for job, _ in own)
                continue
            at = 0
            for job, piece in own:
                done.append((job, _answer_of(job, piece, found[at : at + len(piece.ids)])))
                at += len(piece.ids)


def _give(settled: Sequence[Callable[[], None]]) -> None:
    for give in settled:
        give()


def _answer_of(job: Job, piece: Encoded, found: Any) -> Answer | BaseException:
    wild = np.flatnonzero(~np.isfinite(found))
    if len(wild):
        row = int(np.flatnonzero(piece.fits)[wild[0]])
        return bad(f"row {row:,} has no finite score: a number in it is far beyond those that the model was trained on")
    probability = found
    if piece.rejects:
        probability = np.full(len(piece.fits), np.nan, dtype=np.float32)
        probability[piece.fits] = found
    try:
        return job.show(Scores(probability, piece.fits, piece.rejects))
    except BaseException as error:
        return error
