"""The batcher: a queue, and batches that form when a core is free for one.

What comes while a core is free is begun at once, so a lone request waits for nothing; while all are
busy, requests gather, and are then divided among the cores that are free. What nobody waits for any
more, or what is too late, leaves the queue and is not computed. A batch that fails is tried again item
by item, so that it fails nobody but whom it must.
Knows no tensor, no model and no HTTP: it hands items of type T to a coroutine and results of type R
back to those who brought the items.
"""

import asyncio
import functools
import itertools
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from model.errors import EngineTimeout, InferenceFailed
from service.admission import Admission
from service.cores import Cores
from service.costs import CostCurve
from service.deadline import Deadline
from service.errors import ServiceError

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_TIMER_SECONDS = 0.005  # a timer may ring so much before the moment that it was set to


class Dropped(StrEnum):
    """Why an item left the queue without being computed."""

    CALLER_LEFT = "caller_left"
    DEADLINE = "deadline"


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

    def batch_finished(self, waits: Sequence[float]) -> None:
        """Note that a batch was computed; `waits` are its items' times in the queue, in seconds."""

    def batch_failed(self, error: Exception) -> None:
        """Note that the engine failed on a batch, or on one item of it alone."""

    def entries_dropped(self, reason: Dropped, count: int) -> None:
        """Note that entries left the queue without being computed."""

    def queue_changed(self, length: int) -> None:
        """Note how many entries are in the queue now."""


@dataclass(eq=False)
class _Entry(Generic[T, R]):
    item: T
    admitted: float
    arrived: float
    deadline: Deadline
    answer: asyncio.Future[Answer[R] | InferenceFailed]

    def give(self, answer: Answer[R] | InferenceFailed) -> None:
        """Hand the answer to whoever still waits for it."""
        if not self.answer.done():
            self.answer.set_result(answer)

    def refuse(self, error: ServiceError) -> None:
        """Tell whoever still waits that there will be no answer."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Batcher(Generic[T, R]):
    """One queue in front of one engine. To be used from one event loop."""

    def __init__(
        self,
        run_batch: Callable[[Sequence[T], bool], Awaitable[Sequence[R]]],
        *,
        max_batch_size: int,
        admission: Admission,
        observer: BatchObserver,
        cores: Cores,
        costs: CostCurve,
    ) -> None:
        """Make a batcher.

        Args:
            run_batch: computes a batch, spread over all cores or not; returns a result for each item, in their order.
            max_batch_size: items in one batch at the most.
            admission: the places in the queue, which whoever submits holds; learns how fast they become free.
            observer: is told of every batch.
            cores: what batches run on.
            costs: what they cost; learns it.
        """
        self._run_batch = run_batch
        self._max_batch_size = max_batch_size
        self._admission = admission
        self._observer = observer
        self._cores = cores
        self._costs = costs
        self._batch_size = costs.batch_size(max_batch_size)
        self._queue: OrderedDict[_Entry[T, R], None] = OrderedDict()
        self._is_called = False
        self._closed: ServiceError | None = None
        self._running: dict[asyncio.Task[None], Sequence[_Entry[T, R]]] = {}

    async def close(self, error: ServiceError) -> None:
        """Stop; whoever still waits is told `error`, and so is whoever comes."""
        self._closed = error
        self._admission.close(error)
        waiting = [*itertools.chain(*self._running.values()), *self._queue]
        self._queue.clear()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for entry in waiting:
            entry.refuse(error)

    async def submit(
        self, items: Sequence[T], deadline: Deadline, admitted: float
    ) -> list[Answer[R] | InferenceFailed]:
        """Queue items and wait for their answers, or for what the engine failed with, in the items' order.

        A caller that is cancelled while it waits takes its items out of the queue.

        Args:
            items: what is to be computed.
            deadline: by when.
            admitted: when the admission let them in, monotonic seconds.

        Raises:
            DeadlineExceeded: an item's turn did not come in time.
            ServiceError: the batcher was closed.
        """
        if self._closed is not None:
            raise self._closed
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        entries = [_Entry[T, R](item, admitted, now, deadline, loop.create_future()) for item in items]
        self._queue.update(dict.fromkeys(entries))
        self._observer.queue_changed(len(self._queue))
        if not self._is_called:  # once for all who come in this turn of the loop
            self._is_called = True
            loop.call_soon(self._begin_batches)
        try:
            if len(entries) == 1:
                return [await entries[0].answer]
            return await asyncio.gather(*(entry.answer for entry in entries))
        finally:
            self._take_out([entry for entry in entries if entry in self._queue])

    def _take_out(self, entries: Sequence[_Entry[T, R]]) -> None:
        """Take entries of one caller, who does not wait any more, out of the queue."""
        if not entries:
            return
        for entry in entries:
            entry.answer.cancel()
            del self._queue[entry]
        late = time.monotonic() + _TIMER_SECONDS >= entries[0].deadline.at
        self._observer.entries_dropped(Dropped.DEADLINE if late else Dropped.CALLER_LEFT, len(entries))
        self._observer.queue_changed(len(self._queue))

    def _begin_batches(self) -> None:
        """Begin as many batches as there are cores for; what is queued is divided among them."""
        self._is_called = False
        while self._queue:
            size = min(self._batch_size, math.ceil(len(self._queue) / max(1, self._cores.free)))
            cores = self._cores.take(self._begin_batches, alone=len(self._queue) == 1)
            if not cores:
                return
            entries = self._next_entries(size)
            task = asyncio.get_running_loop().create_task(
                self._answer(entries, spread=cores > 1, crowded=bool(self._queue))
            )
            self._running[task] = entries
            task.add_done_callback(functools.partial(self._end_batch, cores))

    def _end_batch(self, cores: int, task: asyncio.Task[None]) -> None:
        """Let others have the cores of a batch, however it has ended, and if it was never begun."""
        del self._running[task]
        self._cores.give_back(cores)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("the batcher failed", exc_info=fault)

    def _next_entries(self, size: int) -> list[_Entry[T, R]]:
        """Take the next batch off the queue, passing over what nobody waits for and what is too late."""
        entries: list[_Entry[T, R]] = []
        dropped: Counter[Dropped] = Counter()
        now = time.monotonic()
        while self._queue and len(entries) < size:
            entry, _ = self._queue.popitem(last=False)
            if entry.answer.done():  # given up so lately that its caller has not cleared it away yet
                dropped[Dropped.CALLER_LEFT] += 1
            elif entry.deadline.at <= now:
                dropped[Dropped.DEADLINE] += 1
                entry.refuse(entry.deadline.exceeded())
            else:
                entries.append(entry)
        for reason, count in dropped.items():
            self._observer.entries_dropped(reason, count)
        self._observer.queue_changed(len(self._queue))
        return entries

    async def _answer(self, entries: Sequence[_Entry[T, R]], *, spread: bool, crowded: bool) -> None:
        """Run a batch and hand each caller its own result; if it fails, run its items one by one."""
        if not entries:
            return
        try:
            await self._compute(entries, spread=spread, crowded=crowded)
        except EngineTimeout as failure:  # another attempt would only take as long again
            for entry in entries:
                entry.give(failure)
        except Exception as cause:  # whatever the engine raises belongs to the callers; the queue goes on
            _log.warning("a batch of %d failed, and is tried again one by one: %r", len(entries), cause)
            for entry in entries:
                await self._answer_alone(entry, spread=spread)

    async def _answer_alone(self, entry: _Entry[T, R], *, spread: bool) -> None:
        """Run one item of a batch that failed."""
        if entry.deadline.seconds_left <= 0:
            entry.refuse(entry.deadline.exceeded())
        if entry.answer.done():
            return
        try:
            await self._compute([entry], spread=spread)
        except EngineTimeout as late:
            entry.give(late)
        except Exception as cause:  # as in `_answer`
            failure = InferenceFailed("the engine failed on this image")
            failure.__cause__ = cause
            entry.give(failure)

    async def _compute(self, entries: Sequence[_Entry[T, R]], *, spread: bool, crowded: bool = False) -> None:
        """Run a batch and hand out its results; one that is `crowded`, for others waited, tells what batches cost.

        Raises:
            Exception: whatever the engine raises.
        """
        started = time.monotonic()
        try:
            results = await self._run_batch([entry.item for entry in entries], spread)
            if len(results) != len(entries):
                raise InferenceFailed(f"the engine gave {len(results)} results for {len(entries)} images")
        except Exception as error:
            self._admission.failed()
            self._observer.batch_failed(error)
            raise
        self._admission.finished(len(entries), min(entry.admitted for entry in entries))
        batch = Batch(len(entries), time.monotonic() - started)
        if crowded:
            self._costs.learn(batch.size, batch.seconds)
            self._batch_size = self._costs.batch_size(self._max_batch_size)
        waits = [started - entry.arrived for entry in entries]
        for entry, result, wait in zip(entries, results, waits, strict=True):
            entry.give(Answer(result, wait, batch))
        self._observer.batch_finished(waits)
