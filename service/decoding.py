"""Decoding off the event loop: a few threads, and a bound on the memory that they hold together.

Small images pass at once. Large ones take room for what they are about to hold, and wait for it in
the order of their arrival without a thread of their own: the largest is never passed over for ever,
and the small never wait for it. An image alone may be larger than the room. Knows no request.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from model.classifier import Classifier
from model.preprocessing import ImageLimits, PreparedImage

BYTES_PER_PIXEL = 4
_SMALL_BYTES = 1_000_000 * BYTES_PER_PIXEL  # is not counted: as many as there are threads are not much


def _ignore(_: float) -> None:
    """Note nothing."""


@dataclass(eq=False)
class _Job:
    """An image on its way: its steps, the room that its next step needs, and its answer."""

    steps: Generator[int, None, PreparedImage] | None
    observe: Callable[[float], None]
    answer: "Future[PreparedImage]" = field(default_factory=Future)
    seconds: float = 0.0
    held: int = 0
    wanted: int = 0


class Decoders:
    """The threads that decode images, and the room that they share."""

    def __init__(self, threads: int, limits: ImageLimits, max_decoding_pixels: int) -> None:
        """Start the threads; `max_decoding_pixels` is what large images may hold together, in pixels of 4 bytes."""
        self._limits = limits
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._room = max_decoding_pixels * BYTES_PER_PIXEL
        self._held = 0
        self._waiting: deque[_Job] = deque()
        self._working: dict[int, float] = {}  # since when, by thread
        self._lock = threading.RLock()

    async def decode(
        self, classifier: Classifier, data: bytes, observe: Callable[[float], None] = _ignore
    ) -> PreparedImage:
        """Decode one image as a version wants it.

        Args:
            classifier: the version.
            data: the image file.
            observe: is told how many seconds a thread has worked on it.

        Raises:
            InvalidImage: as `prepare_image` says.
        """
        job = _Job(classifier.prepare_in_steps(data, self._limits), observe)
        job.answer.add_done_callback(lambda _: self._forget(job))
        self._submit(job)
        return await asyncio.wrap_future(job.answer)

    def decode_here(
        self, classifier: Classifier, data: bytes, observe: Callable[[float], None] = _ignore
    ) -> PreparedImage | None:
        """Decode one image on the calling thread, or return None where there is no room for it now.

        Raises:
            InvalidImage: as `prepare_image` says.
        """
        steps = classifier.prepare_in_steps(data, self._limits)
        job = _Job(steps, observe)
        started = time.perf_counter()
        thread = threading.get_ident()
        self._working[thread] = started
        try:
            while True:
                job.wanted = next(steps)
                if not self._take(job, waits=False):
                    job.observe = _ignore  # it will be decoded, and counted, elsewhere
                    return None
        except StopIteration as stop:
            prepared: PreparedImage = stop.value
            return prepared
        finally:
            del self._working[thread]
            steps.close()
            if job.held:
                with self._lock:
                    self._give_back(job)
            job.observe(time.perf_counter() - started)

    @property
    def longest_seconds(self) -> float:
        """For how long a thread has been at one step of an image; whoever waited for it may have left."""
        since = min(tuple(self._working.values()), default=math.inf)
        return max(0.0, time.perf_counter() - since)

    def close(self) -> None:
        """Begin no other image."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.answer.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _submit(self, job: _Job) -> None:
        turn = self._threads.submit(self._advance, job)
        turn.add_done_callback(lambda turn: job.answer.cancel() if turn.cancelled() else None)

    def _forget(self, job: _Job) -> None:
        """Let go of an image that is done with, or that nobody waits for any more."""
        with self._lock:
            job.steps = None
            if job in self._waiting:
                self._waiting.remove(job)
                self._give_back(job)

    def _advance(self, job: _Job) -> None:
        """Work on an image until it is prepared or has to wait for room."""
        started = time.perf_counter()
        with self._lock:
            self._working[threading.get_ident()] = started
        try:
            self._work_on(job, started)
        finally:
            with self._lock:
                del self._working[threading.get_ident()]

    def _work_on(self, job: _Job, started: float) -> None:
        prepared: PreparedImage | None = None
        failure: BaseException | None = None
        steps = job.steps
        if steps is None:
            with self._lock:
                self._give_back(job)
            return
        try:
            while not job.answer.cancelled():  # what is abandoned goes no further
                job.wanted = next(steps)
                if not self._take(job):
                    job.seconds += time.perf_counter() - started
                    return
        except StopIteration as stop:
            prepared = stop.value
        except BaseException as error:  # for whoever waits for the answer
            failure = error
        steps.close()
        with self._lock:
            self._give_back(job)
        job.observe(job.seconds + time.perf_counter() - started)
        if not job.answer.set_running_or_notify_cancel():
            return
        if failure is not None:
            job.answer.set_exception(failure)
        elif prepared is not None:
            job.answer.set_result(prepared)

    def _take(self, job: _Job, *, waits: bool = True) -> bool:
        """Take the room that a job wants in place of what it held; where there is none, let it wait if it can."""
        if job.wanted <= _SMALL_BYTES and not job.held:
            return True
        with self._lock:
            self._give_back(job)
            if job.wanted <= _SMALL_BYTES:
                return True
            if not self._waiting and self._fits(job):
                self._held += job.wanted
                job.held = job.wanted
                return True
            if waits:
                self._waiting.append(job)
            return False

    def _give_back(self, job: _Job) -> None:
        """Give back what a job held, and let those go on for whom there is room now."""
        self._held -= job.held
        job.held = 0
        while self._waiting and (self._waiting[0].answer.cancelled() or self._fits(self._waiting[0])):
            following = self._waiting.popleft()
            if not following.answer.cancelled():
                self._held += following.wanted
                following.held = following.wanted
                self._submit(following)

    def _fits(self, job: _Job) -> bool:
        return not self._held or self._held + job.wanted <= self._room
