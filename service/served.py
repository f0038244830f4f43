"""A loaded version: from image files to probabilities, in batches.

For an engine whose runs stay on one core, images are decoded where they are computed: nothing is handed from
thread to thread. For any other one they are decoded beside it, before they are queued. Knows no registry and no
other version; who may still need it is counted in leases.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.classifier import Classifier, Probabilities
from model.errors import EngineTimeout, InferenceFailed, InvalidImage, Limit
from model.preprocessing import ImageFacts, PreparedImage
from model.registry import StoredVersion
from service.admission import Admission
from service.batching import Answer, Batcher
from service.cores import Cores
from service.costs import CostCurve
from service.deadline import Deadline
from service.decoding import Decoders
from service.errors import ModelNotReady, QueueFull
from service.memory import release_memory
from service.metrics import ModelMetrics
from service.settings import Settings

Upload = bytes | InvalidImage
"""An image file's bytes, or why there are none (base64 that is not base64, say)."""

Item = bytes | PreparedImage
"""What a batch is made of: image files, or what they have become."""

REST_SECONDS = 5.0  # without a request, and a version is at rest
STOP_SECONDS = 5.0  # an engine that goes on for longer after it was asked to stop will not stop
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifiedImage:
    """One image's probabilities (K,) and what the image was."""

    probabilities: Probabilities
    facts: ImageFacts


Result = ClassifiedImage | InvalidImage | InferenceFailed
"""What becomes of one image: its probabilities, what is wrong with it, or what the engine failed with."""


@dataclass(frozen=True)
class _Computed:
    """What became of an image in a batch (None where there was no room to decode it), and what it took."""

    result: ClassifiedImage | InvalidImage | None
    decode_seconds: float
    inference_seconds: float  # of the whole batch


@dataclass(frozen=True)
class Answers:
    """A request's results in its images' order, and where its time went, in seconds."""

    results: list[Result]
    decode_seconds: float
    queue_seconds: float
    inference_seconds: float

    @property
    def failure(self) -> InferenceFailed | None:
        """What the engine failed with on the first image that it failed on, if there is one."""
        return next((result for result in self.results if isinstance(result, InferenceFailed)), None)

    @property
    def stages(self) -> dict[str, float]:
        """Where the time went, in seconds, in the stages' order."""
        return {"decode": self.decode_seconds, "queue": self.queue_seconds, "inference": self.inference_seconds}


class ServedModel:
    """A version that answers."""

    def __init__(
        self,
        version: StoredVersion,
        classifier: Classifier,
        *,
        own_thread: ThreadPoolExecutor,
        threads: Executor,
        cores: Cores,
        decoders: Decoders,
        settings: Settings,
        metrics: ModelMetrics,
        costs: CostCurve,
        on_hang: Callable[[str], None],
    ) -> None:
        """Serve a version that is loaded and warm.

        Args:
            version: what is served.
            classifier: decodes and computes.
            own_thread: where it was loaded.
            threads: where its batches run: the threads of all versions, or its own.
            cores: what its batches run on.
            decoders: where images are decoded that are not decoded in their batches.
            settings: of the service.
            metrics: of this version.
            costs: what the engine took for batches while it was warmed up.
            on_hang: is told why when the engine neither answers nor stops; the process must be replaced then.
        """
        self.version = version
        self.classifier = classifier
        self.last_used = self._rested = time.monotonic()
        self._own_thread = own_thread
        self._threads = threads
        self._decodes_in_batches = classifier.engine.one_core
        self._decoders = decoders
        self._settings = settings
        self._engine_limit = Limit("engine_timeout_ms", settings.engine_timeout_ms)
        self._metrics = metrics
        self._on_hang = on_hang
        self._closing: asyncio.Task[None] | None = None
        self._under_way: set[Future[Any]] = set()
        self._leases = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._admission = Admission(
            Limit("max_queue_size", settings.max_queue_size),
            Limit("max_queue_bytes", settings.max_queue_bytes),
            math.prod(classifier.manifest.preprocessing.shape),
            seconds_per_item=costs.seconds_per_item,
        )
        self._batcher: Batcher[Item, _Computed] = Batcher(
            self._run_batch,
            max_batch_size=settings.max_batch_size,
            admission=self._admission,
            observer=metrics,
            cores=cores,
            costs=costs,
        )

    @property
    def in_use(self) -> bool:
        """Whether a request holds it."""
        return self._leases > 0

    @property
    def idle(self) -> bool:
        """Whether no image is being decoded, waits or is computed."""
        return self._admission.admitted == 0

    def __enter__(self) -> "ServedModel":
        """Keep it from being closed until a request has its answer: a lease."""
        self._leases += 1
        self._unused.clear()
        return self

    def __exit__(self, *error: object) -> None:
        """End a lease."""
        self._leases -= 1
        self.last_used = time.monotonic()
        if not self._leases:
            self._unused.set()

    def check_room(self, deadline: Deadline) -> None:
        """Refuse a request now that would be refused in any case once its body is read.

        Raises:
            QueueFull: there is no room for a single image.
        """
        try:
            self._admission.check(1, deadline)
        except QueueFull:
            self._metrics.request_refused()
            raise

    async def predict(self, uploads: Sequence[Upload], deadline: Deadline | None = None) -> Answers:
        """Decode and classify a request's images; a bad image is an error in its own place.

        Args:
            uploads: the images.
            deadline: by when; by default, what the settings give a request that begins now.

        Raises:
            QueueFull: there is no room for the request's images, or their answers would come too late.
            TooManyImages: there could never be room for so many.
            DeadlineExceeded: the answers were not there in time.
        """
        deadline = deadline or Deadline.of(self._settings, time.monotonic())
        try:
            admitted = self._admission.admit(len(uploads), deadline)
        except QueueFull:
            self._metrics.request_refused()
            raise
        try:
            async with asyncio.timeout(deadline.seconds_left):
                return await self._predict(uploads, deadline, admitted)
        except TimeoutError:
            raise deadline.exceeded() from None
        finally:
            self._admission.release(len(uploads))

    def rest(self) -> None:
        """Give back the memory that a crowd's batches have taken, once nothing was asked for a while."""
        if self._rested != self.last_used and self.idle and time.monotonic() - self.last_used > REST_SECONDS:
            self._rested = self.last_used
            self._note(self._threads.submit(self._settle))

    async def drain(self) -> None:
        """Wait until no request holds it."""
        while self._leases:
            await self._unused.wait()

    async def close(self) -> None:
        """Stop serving; what is computed goes to nobody."""
        await self._batcher.close(ModelNotReady(f"{self.version} is not served here any more", retry_after_seconds=1))
        self._own_thread.shutdown(wait=False, cancel_futures=True)

    async def unload(self) -> None:
        """Stop serving and give back the engine's memory, on the thread where it was loaded."""
        await self._batcher.close(ModelNotReady(f"{self.version} is not served here any more", retry_after_seconds=1))
        loop = asyncio.get_running_loop()
        self.classifier.engine.stop()  # nobody needs what it still computes
        reason = f"the engine of {self.version} does not stop, and cannot be unloaded"
        overdue = loop.call_later(self._engine_limit.value / 1000 + STOP_SECONDS, self._on_hang, reason)
        try:
            await asyncio.gather(*map(asyncio.wrap_future, self._under_way), return_exceptions=True)
            await loop.run_in_executor(self._own_thread, self._release)
        finally:
            overdue.cancel()
        self._own_thread.shutdown(wait=False)

    def _release(self) -> None:
        try:
            self.classifier.engine.release()
        finally:
            del self.classifier
            release_memory()

    async def _predict(self, uploads: Sequence[Upload], deadline: Deadline, admitted: float) -> Answers:
        started = time.perf_counter()
        images: Sequence[Upload | PreparedImage] = uploads
        if not self._decodes_in_batches:
            images = await asyncio.gather(*map(self._decode, uploads))
        decoded = time.perf_counter()
        answers = await self._submit(images, deadline, admitted)
        crowded = [i for i, answer in enumerate(answers) if isinstance(answer, Answer) and answer.value.result is None]
        if crowded:
            images = await asyncio.gather(*(self._decode(uploads[i]) for i in crowded))
            for i, answer in zip(crowded, await self._submit(images, deadline, admitted), strict=True):
                answers[i] = answer
        seconds = time.perf_counter() - started
        computed = [answer for answer in answers if isinstance(answer, Answer)]
        decoding = decoded - started + sum(answer.value.decode_seconds for answer in computed)
        inference = sum({answer.batch: answer.value.inference_seconds for answer in computed}.values())
        results = [_result(answer) for answer in answers]
        for result in results:
            if isinstance(result, InvalidImage):
                self._metrics.image_rejected(type(result).__name__)
        return Answers(results, decoding, max(seconds - decoding - inference, 0.0), inference)

    async def _submit(
        self, images: Sequence[Upload | PreparedImage], deadline: Deadline, admitted: float
    ) -> list[Answer[_Computed] | InferenceFailed | InvalidImage]:
        """Have images computed, but for those that are none, which stay in their places."""
        items = [image for image in images if not isinstance(image, InvalidImage)]
        answers = iter(await self._batcher.submit(items, deadline, admitted))
        return [image if isinstance(image, InvalidImage) else next(answers) for image in images]

    async def _decode(self, upload: Upload) -> PreparedImage | InvalidImage:
        if isinstance(upload, InvalidImage):
            return upload
        try:
            return await self._decoders.decode(self.classifier, upload, self._metrics.decode_seconds.observe)
        except InvalidImage as error:
            return error

    async def _run_batch(self, items: Sequence[Item], spread: bool) -> Sequence[_Computed]:
        """Compute a batch.

        Raises:
            EngineTimeout: the engine took too long, and was stopped or will not stop.
        """
        watch = _Watch(self._engine_limit.value / 1000, self._stop_engine, self._give_up)
        run = self._threads.submit(self._compute, items, spread)
        self._note(run)
        try:
            return await asyncio.wrap_future(run)
        except Exception as error:
            if not watch.has_stopped:  # it has failed by itself
                raise
            raise EngineTimeout(
                f"the engine did not answer within {self._engine_limit.value:g} ms", self._engine_limit
            ) from error
        finally:
            watch.end()

    def _note(self, run: "Future[Any]") -> None:
        """Note what goes on on the threads that compute, until it has ended."""
        self._under_way.add(run)
        run.add_done_callback(self._under_way.discard)

    def _stop_engine(self) -> None:
        """Ask the engine to stop what takes too long."""
        _log.error("%s: a batch takes over %g ms; its engine is asked to stop", self.version, self._engine_limit.value)
        self.classifier.engine.stop()

    def _give_up(self) -> None:
        """Tell those who wait that an engine that does not stop will not answer."""
        reason = f"{self.version} neither answers nor stops"
        _log.critical("%s", reason)
        self._on_hang(reason)
        error = ModelNotReady(f"{reason}; its process is being replaced", retry_after_seconds=2)
        self._closing = asyncio.get_running_loop().create_task(self._batcher.close(error))

    # ---- on the threads that compute

    def _settle(self) -> None:
        self.classifier.settle()
        release_memory()

    def _compute(self, items: Sequence[Item], spread: bool) -> list[_Computed]:
        images = [self._prepare(item) for item in items]
        pixels = [image.pixels for image, _ in images if isinstance(image, PreparedImage)]
        started = time.perf_counter()
        probabilities = iter(self.classifier.classify(np.stack(pixels), spread=spread) if pixels else ())
        seconds = time.perf_counter() - started
        if pixels:
            self._metrics.engine_ran(len(pixels), seconds)
        return [
            _Computed(
                ClassifiedImage(next(probabilities), image.facts) if isinstance(image, PreparedImage) else image,
                decode_seconds,
                seconds,
            )
            for image, decode_seconds in images
        ]

    def _prepare(self, item: Item) -> tuple[PreparedImage | InvalidImage | None, float]:
        if isinstance(item, PreparedImage):
            return item, 0.0
        started = time.perf_counter()
        image: PreparedImage | InvalidImage | None
        try:
            image = self._decoders.decode_here(self.classifier, item, self._metrics.decode_seconds.observe)
        except InvalidImage as error:
            image = error
        return image, time.perf_counter() - started


class _Watch:
    """The time that a run may take: then it is to be stopped, and is given up where it does not stop."""

    def __init__(self, seconds: float, stop: Callable[[], None], give_up: Callable[[], None]) -> None:
        self.has_stopped = False
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self._give_up = give_up
        self._timer = self._loop.call_later(seconds, self._ring)

    def end(self) -> None:
        """Note that the run has ended."""
        self._timer.cancel()

    def _ring(self) -> None:
        self.has_stopped = True
        self._timer = self._loop.call_later(STOP_SECONDS, self._give_up)
        self._stop()


def _result(answer: Answer[_Computed] | InferenceFailed | InvalidImage) -> Result:
    if not isinstance(answer, Answer):
        return answer
    assert answer.value.result is not None  # what was decoded elsewhere is computed in any case
    return answer.value.result
