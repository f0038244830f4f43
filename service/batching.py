"""The batcher: admission, a queue, and batches that form when the engine asks for one.

An idle engine starts at once on what is there, so a lone request waits for nothing; while it
is busy, requests gather. Entries whose caller has gone are dropped when they are met. Knows
no tensor, no model and no HTTP: it hands items of type T to a coroutine and results of type R
back to those who brought the items.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from model.errors import InferenceFailed, Limit
from service.errors import QueueFull

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_RATE_MEMORY = 0.2  # how much of the last batch goes into the running mean


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch that has run: how many items it had, and how long it took."""

    size: int
    seconds: float


@dataclass(frozen=True)
class Answer(Generic[R]):
    """The result of one item, how long the item waited, and the batch it went through in."""

    value: R
    queue_seconds: float
    batch: Batch


class BatchObserver(Protocol):
    """What is told of every batch."""

    def batch_finished(self, size: int, seconds: float, waits: Sequence[float]) -> None:
        """Note that a batch was computed; `waits` are its items' times in the queue, in seconds."""

    def entries_dropped(self, count: int) -> None:
        """Note that entries were met in the queue whose caller had gone."""

    def queue_changed(self, length: int) -> None:
        """Note how many entries are in the queue now."""


@dataclass(eq=False)
class _Entry(Generic[T, R]):
    item: T
    arrived: float
    answer: asyncio.Future[Answer[R]]


class Batcher(Generic[T, R]):
    """One queue in front of one engine. To be used from one event loop."""

    def __init__(
        self,
        run_batch: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        max_batch_size: int,
        max_queue_size: int,
        observer: BatchObserver,
    ) -> None:
        """Make a batcher; `start` sets it going.

        Args:
            run_batch: computes a batch; returns a result for each item, in the items' order.
            max_batch_size: items in one batch at the most.
            max_queue_size: items admitted and not yet answered, at the most.
            observer: is told of every batch.
        """
        self._run_batch = run_batch
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size
        self._observer = observer
        self._queue: deque[_Entry[T, R]] = deque()
        self._arrival = asyncio.Event()
        self._admitted = 0
        self._seconds_per_item = 0.0
        self._worker: asyncio.Task[None] | None = None

    @property
    def admitted(self) -> int:
        """Items that are being answered."""
        return self._admitted

    def start(self) -> None:
        """Begin to take batches off the queue."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Stop; what is still in the queue is cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        while self._queue:
            self._queue.popleft().answer.cancel()

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Hold room for `count` items from before they are decoded until they are answered.

        Raises:
            QueueFull: there is no room for all of them; nothing is held then.
        """
        if self._admitted + count > self._max_queue_size:
            raise QueueFull(
                f"{self._admitted} images are being answered, and {count} more would be over the limit of "
                f"{self._max_queue_size}",
                Limit("max_queue_size", self._max_queue_size),
                retry_after_seconds=max(1, math.ceil(self._admitted * self._seconds_per_item)),
            )
        self._admitted += count
        try:
            yield
        finally:
            self._admitted -= count

    async def submit(self, items: Sequence[T]) -> list[Answer[R]]:
        """Queue items and wait for their answers, which come in the items' order.

        A caller that is cancelled while it waits takes its items out of the queue.

        Raises:
            InferenceFailed: the batch that one of the items was in failed.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        entries = [_Entry[T, R](item, now, loop.create_future()) for item in items]
        self._queue.extend(entries)
        self._observer.queue_changed(len(self._queue))
        self._arrival.set()
        try:
            return await asyncio.gather(*(entry.answer for entry in entries))
        finally:
            for entry in entries:
                entry.answer.cancel()  # of no effect where the answer is there
            if any(entry.answer.cancelled() for entry in entries):
                self._drop_abandoned()

    def _drop_abandoned(self) -> None:
        """Take entries out of the queue whose caller has gone."""
        waiting = deque(entry for entry in self._queue if not entry.answer.done())
        if len(waiting) < len(self._queue):
            self._observer.entries_dropped(len(self._queue) - len(waiting))
            self._queue = waiting
            self._observer.queue_changed(len(self._queue))

    async def _work(self) -> None:
        while True:
            await self._arrival.wait()
            try:
                entries = self._next_entries()
                if entries:
                    await self._answer(entries)
            except Exception:  # a fault here must not end the work for all who come later
                _log.exception("the batcher failed")

    def _next_entries(self) -> list[_Entry[T, R]]:
        """Take the next batch off the queue, passing over entries whose caller has gone."""
        entries: list[_Entry[T, R]] = []
        dropped = 0
        while self._queue and len(entries) < self._max_batch_size:
            entry = self._queue.popleft()
            if entry.answer.done():  # given up so lately that its caller has not cleared it away yet
                dropped += 1
            else:
                entries.append(entry)
        if not self._queue:
            self._arrival.clear()
        if dropped:
            self._observer.entries_dropped(dropped)
        self._observer.queue_changed(len(self._queue))
        return entries

    async def _answer(self, entries: list[_Entry[T, R]]) -> None:
        """Run a batch and hand each caller its own result, or each the failure."""
        started = time.monotonic()
        try:
            results = await self._run_batch([entry.item for entry in entries])
            if len(results) != len(entries):
                raise InferenceFailed(f"the engine gave {len(results)} results for {len(entries)} images")
        except asyncio.CancelledError:
            for entry in entries:
                entry.answer.cancel()
            raise
        except Exception as cause:  # whatever the engine raises belongs to the callers; the queue goes on
            for entry in entries:
                if not entry.answer.done():
                    failure = InferenceFailed("the engine failed on this batch")
                    failure.__cause__ = cause
                    entry.answer.set_exception(failure)
            return
        batch = Batch(len(entries), time.monotonic() - started)
        self._learn_rate(batch)
        waits = [started - entry.arrived for entry in entries]
        for entry, result, wait in zip(entries, results, waits, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(Answer(result, wait, batch))
        self._observer.batch_finished(batch.size, batch.seconds, waits)

    def _learn_rate(self, batch: Batch) -> None:
        latest = batch.seconds / batch.size
        weight = _RATE_MEMORY if self._seconds_per_item else 1.0
        self._seconds_per_item += weight * (latest - self._seconds_per_item)
