"""A loaded version: decoding, one thread for its engine, a batcher between them.

Knows no registry and no other version; who may still need it is counted in leases.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from model.classifier import Classifier, Probabilities
from model.errors import InvalidImage, Limit
from model.preprocessing import ImageFacts, ImageLimits, Pixels, PreparedImage
from model.registry import StoredVersion
from service.batching import Batcher
from service.errors import DeadlineExceeded
from service.memory import release_memory
from service.metrics import ModelMetrics
from service.settings import Settings

Upload = bytes | InvalidImage
"""An image file's bytes, or why there are none (base64 that is not base64, say)."""


@dataclass(frozen=True)
class ClassifiedImage:
    """One image's probabilities (K,) and what the image was."""

    probabilities: Probabilities
    facts: ImageFacts


@dataclass(frozen=True)
class Answers:
    """A request's results in its images' order, and where its time went, in seconds."""

    results: list[ClassifiedImage | InvalidImage]
    decode_seconds: float
    queue_seconds: float
    inference_seconds: float


class ServedModel:
    """A version that answers."""

    def __init__(
        self,
        version: StoredVersion,
        classifier: Classifier,
        *,
        engine_thread: ThreadPoolExecutor,
        decoders: ThreadPoolExecutor,
        settings: Settings,
        metrics: ModelMetrics,
    ) -> None:
        self.version = version
        self.classifier = classifier
        self.last_used = time.monotonic()
        self._engine_thread = engine_thread
        self._decoders = decoders
        self._limits = ImageLimits(settings.max_image_pixels, settings.max_image_aspect_ratio)
        self._request_timeout_ms = settings.request_timeout_ms
        self._metrics = metrics
        self._leases = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._batcher: Batcher[Pixels, Probabilities] = Batcher(
            self._run_batch,
            max_batch_size=settings.max_batch_size,
            max_queue_size=settings.max_queue_size,
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
        return self._batcher.admitted == 0

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

    async def predict(
        self, uploads: Sequence[Upload], timeout_ms: int | None = None, spent_seconds: float = 0.0
    ) -> Answers:
        """Decode and classify a request's images; a bad image is an error in its own place.

        Args:
            uploads: the images.
            timeout_ms: what the caller asked for; it may shorten the service's own, not lengthen it.
            spent_seconds: what of that time has gone by.

        Raises:
            QueueFull: there is no room for the request's images.
            DeadlineExceeded: the answers were not there in time.
            InferenceFailed: the engine failed.
        """
        limit = Limit("request_timeout_ms", self._request_timeout_ms)
        if timeout_ms is not None and timeout_ms < limit.value:
            limit = Limit("timeout_ms", timeout_ms)
        with self._batcher.admit(len(uploads)):
            try:
                async with asyncio.timeout(limit.value / 1000 - spent_seconds):
                    return await self._predict(uploads)
            except TimeoutError:
                raise DeadlineExceeded(f"there was no answer within {limit.value} ms", limit) from None

    async def drain(self) -> None:
        """Wait until no request holds it."""
        while self._leases:
            await self._unused.wait()

    async def close(self) -> None:
        """Stop serving; the engine's thread ends after the batch that it is in."""
        await self._batcher.close()
        self._engine_thread.shutdown(wait=False, cancel_futures=True)

    async def unload(self) -> None:
        """Stop serving and give back the engine's memory, on the engine's own thread."""
        await self._batcher.close()
        await asyncio.get_running_loop().run_in_executor(self._engine_thread, self._release)
        self._engine_thread.shutdown(wait=False)

    def _release(self) -> None:
        del self.classifier
        release_memory()

    async def _predict(self, uploads: Sequence[Upload]) -> Answers:
        started = time.perf_counter()
        decoded = await asyncio.gather(*(self._decode(upload) for upload in uploads))
        queued = time.perf_counter()
        answers = await self._batcher.submit([image.pixels for image in decoded if isinstance(image, PreparedImage)])
        finished = time.perf_counter()
        inference = sum(batch.seconds for batch in {answer.batch for answer in answers})
        rows = iter(answers)
        results: list[ClassifiedImage | InvalidImage] = [
            ClassifiedImage(next(rows).value, image.facts) if isinstance(image, PreparedImage) else image
            for image in decoded
        ]
        return Answers(results, queued - started, max(finished - queued - inference, 0.0), inference)

    async def _decode(self, upload: Upload) -> PreparedImage | InvalidImage:
        if isinstance(upload, InvalidImage):
            self._metrics.image_rejected(type(upload).__name__)
            return upload
        return await asyncio.get_running_loop().run_in_executor(self._decoders, self._decode_now, upload)

    def _decode_now(self, data: bytes) -> PreparedImage | InvalidImage:
        started = time.perf_counter()
        try:
            return self.classifier.prepare(data, self._limits)
        except InvalidImage as error:
            self._metrics.image_rejected(type(error).__name__)
            return error
        finally:
            self._metrics.decode_seconds.observe(time.perf_counter() - started)

    async def _run_batch(self, images: Sequence[Pixels]) -> Sequence[Probabilities]:
        loop = asyncio.get_running_loop()
        probabilities = await loop.run_in_executor(self._engine_thread, self._classify, images)
        return list(probabilities)

    def _classify(self, images: Sequence[Pixels]) -> Probabilities:
        return self.classifier.classify(np.stack(images))
