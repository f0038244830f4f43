"""Hosting: the versions that this process serves, each with its thread and its batcher.

What is served is read from the registry when the process starts: every version that an alias
points at. Loading goes on beside the event loop, so health checks are answered meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from model.classifier import Classifier, Probabilities, load_classifier
from model.engines.selection import EngineChoice
from model.errors import (
    AliasNotFound,
    InvalidImage,
    Limit,
    ModelError,
    ModelNotFound,
    RegistryUnavailable,
    VersionNotFound,
)
from model.preprocessing import ImageFacts, ImageLimits, Pixels, PreparedImage
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from service.batching import Batcher
from service.errors import DeadlineExceeded, ModelNotReady
from service.metrics import Metrics, ModelMetrics
from service.settings import Settings

_log = logging.getLogger(__name__)

Upload = bytes | InvalidImage
"""An image file's bytes, or why there are none (base64 that is not base64, say)."""


class LoadState(StrEnum):
    """Where a version stands in this process."""

    STORED = "stored"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


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
    """A loaded version: decoding, one thread for its engine, a batcher between them."""

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
        self._engine_thread = engine_thread
        self._decoders = decoders
        self._limits = ImageLimits(settings.max_image_pixels, settings.max_image_aspect_ratio)
        self._request_timeout_ms = settings.request_timeout_ms
        self._metrics = metrics
        self._batcher: Batcher[Pixels, Probabilities] = Batcher(
            self._run_batch,
            max_batch_size=settings.max_batch_size,
            max_queue_size=settings.max_queue_size,
            observer=metrics,
        )
        self._batcher.start()

    async def predict(self, uploads: Sequence[Upload], timeout_ms: int | None) -> Answers:
        """Decode and classify a request's images; a bad image is an error in its own place.

        `timeout_ms` is what the caller asked for; it may shorten the service's own, not lengthen it.

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
                async with asyncio.timeout(limit.value / 1000):
                    return await self._predict(uploads)
            except TimeoutError:
                raise DeadlineExceeded(f"there was no answer within {limit.value} ms", limit) from None

    async def close(self) -> None:
        """Stop serving; the engine's thread ends after the batch that it is in."""
        await self._batcher.close()
        self._engine_thread.shutdown(wait=False, cancel_futures=True)

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


@dataclass
class HostedVersion:
    """A version of the registry and where it stands here; `reason` says why it failed."""

    number: int
    state: LoadState
    stored: StoredVersion | None = None
    reason: str = ""
    served: ServedModel | None = None


@dataclass
class HostedModel:
    """A model of the registry: its aliases as of this process's start, and its versions."""

    name: str
    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, HostedVersion] = field(default_factory=dict)
    reason: str = ""


class ModelHost:
    """All models that this process knows, loaded or not."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics) -> None:
        self.models: dict[str, HostedModel] = {}
        self.reason = ""
        self._registry = registry
        self._settings = settings
        self._default = ModelRef.parse(settings.default_model)
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(settings.decoding_threads, thread_name_prefix="decode")
        self._choice = EngineChoice(settings.engine, settings.device, settings.compute_threads)
        self._loading: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Read what the registry has, and begin to load every version that an alias points at.

        What cannot be read is logged, and told by `waiting_for`; the rest is served.
        """
        try:
            names = self._registry.names()
        except RegistryUnavailable as error:
            self.reason = str(error)
            names = []
        for name in names:
            model = self.models[name] = HostedModel(name)
            try:
                model.aliases = dict(self._registry.state(name).aliases)
            except ModelError as error:
                model.reason = str(error)
                _log.error("%s", error)
            wanted = set(model.aliases.values())
            for number in self._registry.numbers(name):
                state = LoadState.LOADING if number in wanted else LoadState.STORED
                model.versions[number] = HostedVersion(number, state)
                if state is LoadState.LOADING:
                    self._loading.append(asyncio.get_running_loop().create_task(self._load(model, number)))
        if lacking := self._lacking():
            _log.warning("not ready: %s", lacking)

    async def close(self) -> None:
        """Stop loading and serving."""
        for task in self._loading:
            task.cancel()
        await asyncio.gather(*self._loading, return_exceptions=True)
        for model in self.models.values():
            for version in model.versions.values():
                if version.served is not None:
                    await version.served.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def find(self, ref: ModelRef) -> HostedVersion:
        """Return the version that a reference means in this process.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: the model's aliases could not be read.
        """
        if self.reason:
            raise ModelNotReady("the registry cannot be read; GET /readyz says why")
        model = self.models.get(ref.name)
        if model is None:
            known = ", ".join(self.models) or "no model: fill its registry with 'hubel setup'"
            raise ModelNotFound(f"there is no model {ref.name!r}; this server has {known}")
        if ref.version is not None:
            if ref.version not in model.versions:
                known = ", ".join(map(str, model.versions))
                raise VersionNotFound(f"model {ref.name!r} has no version {ref.version}; it has {known}")
            return model.versions[ref.version]
        if model.reason:
            raise ModelNotReady(f"the aliases of model {ref.name!r} cannot be read; GET /health says why")
        number = model.aliases.get(ref.alias or "")
        if number is None:
            known = ", ".join(sorted(model.aliases)) or "none"
            raise AliasNotFound(f"model {ref.name!r} has no alias {ref.alias!r}; it has {known}")
        if number not in model.versions:
            raise VersionNotFound(
                f"alias {ref.alias!r} of model {ref.name!r} means version {number}, which is not there"
            )
        return model.versions[number]

    def ready(self, ref: ModelRef) -> ServedModel:
        """Return a loaded version.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: it is not loaded; the message says what to do.
        """
        version = self.find(ref)
        if version.served is not None:
            return version.served
        name = f"{ref.name}:{version.number}"
        match version.state:
            case LoadState.LOADING:
                raise ModelNotReady(f"{name} is being loaded; try again in a moment", retry_after_seconds=1)
            case LoadState.FAILED:
                raise ModelNotReady(f"{name} could not be loaded; GET /health says why")
            case _:
                raise ModelNotReady(
                    f"{name} is in the registry but not loaded, because no alias points at it: "
                    f"run 'hubel models promote {name} --alias NAME' and restart the service"
                )

    def waiting_for(self) -> list[str]:
        """Return what keeps the service from being ready: nothing when the default model is loaded."""
        if lacking := self._lacking():
            return [lacking]
        version = self.find(self._default)
        if version.state is LoadState.READY:
            return []
        reason = f": {version.reason}" if version.reason else ""
        return [f"{self._default.name}:{version.number}: {version.state}{reason}"]

    def _lacking(self) -> str:
        """Return what is missing that no waiting will bring; nothing where the default model is known."""
        if self.reason:
            return self.reason
        try:
            self.find(self._default)
        except (ModelError, ModelNotReady) as error:
            return f"the default model (HUBEL_DEFAULT_MODEL): {error}"
        return ""

    async def _load(self, model: HostedModel, number: int) -> None:
        """Load a version in a thread of its own, which then is the engine's."""
        entry = model.versions[number]
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{model.name}-{number}")
        gauge = self._metrics.ready.labels(model.name, str(number))
        gauge.set(0)
        started = time.monotonic()
        try:
            entry.stored = self._registry.version(ModelRef(model.name, version=number))
            classifier = await asyncio.get_running_loop().run_in_executor(
                thread, load_classifier, entry.stored, self._choice
            )
        except Exception as error:  # whatever is wrong with one version must not keep the others from serving
            thread.shutdown(wait=False)
            entry.state, entry.reason = LoadState.FAILED, str(error)
            _log.error(
                "%s:%s could not be loaded: %s", model.name, number, error, exc_info=not isinstance(error, ModelError)
            )
            return
        metrics = self._metrics.for_model(model.name, number)
        entry.served = ServedModel(
            entry.stored,
            classifier,
            engine_thread=thread,
            decoders=self._decoders,
            settings=self._settings,
            metrics=metrics,
        )
        entry.state = LoadState.READY
        gauge.set(1)
        _log.info(
            "%s:%s is ready: %s on %s, loaded in %.2f s",
            model.name, number, classifier.engine.name, classifier.engine.device, time.monotonic() - started,
        )  # fmt: skip
