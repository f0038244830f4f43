"""A loaded version: decoding, one thread for its engine, a batcher between them.

Knows no registry and no other version; who may still need it is counted in leases.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from model.classifier import Classifier, Probabilities
from model.errors import EngineTimeout, InferenceFailed, InvalidImage, Limit
from model.preprocessing import ImageFacts, Pixels, PreparedImage
from model.registry import StoredVersion
from service.admission import Admission
from service.batching import Answer, Batcher
from service.deadline import Deadline
from service.decoding import Decoders
from service.errors import ModelNotReady, QueueFull
from service.memory import release_memory
from service.metrics import ModelMetrics
from service.settings import Settings

Upload = bytes | InvalidImage
"""An image file's bytes, or why there are none (base64 that is not base64, say)."""

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
        engine_thread: ThreadPoolExecutor,
        decoders: Decoders,
        settings: Settings,
        metrics: ModelMetrics,
        seconds_per_image: float,
        on_hang: Callable[[str], None],
    ) -> None:
        """Serve a version that is loaded and warm.

        Args:
            version: what is served.
            classifier: decodes and computes.
            engine_thread: where the classifier's engine lives.
            decoders: where images are decoded.
            settings: of the service.
            metrics: of this version.
            seconds_per_image: what the engine took for an image while it was warmed up.
            on_hang: is told why when the engine neither answers nor stops; the process must be replaced then.
        """
        self.version = version
        self.classifier = classifier
        self.last_used = time.monotonic()
        self._engine_thread = engine_thread
        self._decoders = decoders
        self._settings = settings
        self._engine_limit = Limit("engine_timeout_ms", settings.engine_timeout_ms)
        self._metrics = metrics
        self._on_hang = on_hang
        self._overdue: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        self._leases = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._admission = Admission(
            Limit("max_queue_size", settings.max_queue_size),
            Limit("max_queue_bytes", settings.max_queue_bytes),
            math.prod(classifier.manifest.preprocessing.shape),
            seconds_per_item=seconds_per_image,
        )
        self._batcher: Batcher[Pixels, Probabilities] = Batcher(
            self._run_batch,
            max_batch_size=settings.max_batch_size,
            admission=self._admission,
            observer=metrics,
        )
        self._batcher.start()

    @property
    def in_use(self) -> bool:
        """Whether a request holds it."""
        return self._leases > 0

    @property
    def idle(self) -> bool:
        """Whether no image is being decoded, waits or is computed."""
        return self._admission.admitted == 0

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keep it from being closed until a request has its answer."""
        self._leases += 1
        self._unused.clear()
        try:
            yield
        finally:
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
        with self._admitted(len(uploads), deadline):
            try:
                async with asyncio.timeout(deadline.seconds_left):
                    return await self._predict(uploads, deadline)
            except TimeoutError:
                raise deadline.exceeded() from None

    @contextmanager
    def _admitted(self, count: int, deadline: Deadline) -> Iterator[None]:
        try:
            with self._admission.admit(count, deadline):
                yield
        except QueueFull:
            self._metrics.request_refused()
            raise

    async def drain(self) -> None:
        """Wait until no request holds it."""
        while self._leases:
            await self._unused.wait()

    async def close(self) -> None:
        """Stop serving; the engine's thread ends after the batch that it is in."""
        await self._batcher.close(ModelNotReady(f"{self.version} is not served here any more", retry_after_seconds=1))
        self._engine_thread.shutdown(wait=False, cancel_futures=True)

    async def unload(self) -> None:
        """Stop serving and give back the engine's memory, on the engine's own thread."""
        await self._batcher.close(ModelNotReady(f"{self.version} is not served here any more", retry_after_seconds=1))
        await asyncio.get_running_loop().run_in_executor(self._engine_thread, self._release)
        self._engine_thread.shutdown(wait=False)

    def _release(self) -> None:
        del self.classifier
        release_memory()

    async def _predict(self, uploads: Sequence[Upload], deadline: Deadline) -> Answers:
        started = time.perf_counter()
        decoded = await asyncio.gather(*(self._decode(upload) for upload in uploads))
        queued = time.perf_counter()
        answers = await self._batcher.submit(
            [image.pixels for image in decoded if isinstance(image, PreparedImage)], deadline
        )
        finished = time.perf_counter()
        inference = sum(batch.seconds for batch in {answer.batch for answer in answers if isinstance(answer, Answer)})
        rows = iter(answers)
        results = [_result(image, next(rows)) if isinstance(image, PreparedImage) else image for image in decoded]
        return Answers(results, queued - started, max(finished - queued - inference, 0.0), inference)

    async def _decode(self, upload: Upload) -> PreparedImage | InvalidImage:
        if isinstance(upload, InvalidImage):
            self._metrics.image_rejected(type(upload).__name__)
            return upload
        try:
            return await self._decoders.decode(self.classifier, upload, self._metrics.decode_seconds.observe)
        except InvalidImage as error:
            self._metrics.image_rejected(type(error).__name__)
            return error

    async def _run_batch(self, images: Sequence[Pixels]) -> Sequence[Probabilities]:
        """Compute a batch.

        Raises:
            EngineTimeout: the engine took too long, and was stopped or will not stop.
        """
        loop = asyncio.get_running_loop()
        run = loop.run_in_executor(self._engine_thread, self._classify, images)
        self._overdue = watch = loop.call_later(self._engine_limit.value / 1000, self._stop_engine)
        try:
            return list(await run)
        except Exception as error:
            if self._overdue is watch:  # it has failed by itself
                raise
            raise EngineTimeout(
                f"the engine did not answer within {self._engine_limit.value:g} ms", self._engine_limit
            ) from error
        finally:
            self._overdue.cancel()

    def _stop_engine(self) -> None:
        """Ask the engine to stop what takes too long."""
        _log.error("%s: a batch takes over %g ms; its engine is asked to stop", self.version, self._engine_limit.value)
        self._overdue = asyncio.get_running_loop().call_later(STOP_SECONDS, self._give_up)
        self.classifier.engine.stop()

    def _give_up(self) -> None:
        """Tell those who wait that an engine that does not stop will not answer."""
        reason = f"the engine of {self.version} neither answers nor stops"
        _log.critical("%s", reason)
        self._on_hang(reason)
        error = ModelNotReady(f"{reason}; its process is being replaced", retry_after_seconds=2)
        self._closing = asyncio.get_running_loop().create_task(self._batcher.close(error))

    def _classify(self, images: Sequence[Pixels]) -> Probabilities:
        return self.classifier.classify(np.stack(images))


def _result(image: PreparedImage, answer: Answer[Probabilities] | InferenceFailed) -> Result:
    return ClassifiedImage(answer.value, image.facts) if isinstance(answer, Answer) else answer
