"""Bringing versions in and taking them out again, each with a thread of its own. Does not decide which."""

import asyncio
import functools
import logging
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from model.classifier import Classifier, load_classifier
from model.errors import ModelError
from model.preprocessing import ImageLimits
from model.registry import Registry, StoredVersion
from model.types import ModelRef
from service.core_threads import CoreThreads
from service.cores import Cores
from service.costs import CostCurve, fastest
from service.decoding import Decoders
from service.errors import ModelNotReady
from service.hosted import HostedVersion, LoadState
from service.memory import release_memory
from service.metrics import Metrics
from service.served import ServedModel
from service.settings import Settings
from service.worker_counts import WorkerCounts

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 300.0
_LOADING_SECONDS = 300.0
_AT_ONCE = 2  # more would only share the cores, and add up their memory

_log = logging.getLogger(__name__)


class Loader:
    """Loads, drains and unloads versions."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        metrics: Metrics,
        *,
        on_change: Callable[[HostedVersion], None],
        on_hang: Callable[[str], None],
    ) -> None:
        """Make a loader.

        Args:
            registry: where versions come from.
            settings: of the service.
            metrics: of the service.
            on_change: is called when a version has come to another state by itself.
            on_hang: is told why when an engine neither answers nor stops.
        """
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._on_change = on_change
        self._on_hang = on_hang
        self._choice = settings.engine_choice
        limits = ImageLimits(
            settings.max_image_pixels, settings.max_image_aspect_ratio, settings.max_image_decoded_bytes
        )
        self._decoders = Decoders(settings.decoding_threads, limits, settings.max_decoding_pixels)
        counts = WorkerCounts(settings.worker_folder / "cores") if settings.worker_folder else None
        self._cores = Cores(settings.cores, settings.share_of_cores, counts)
        self._threads = CoreThreads(settings.cores)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def longest_decode_seconds(self) -> float:
        """For how long a thread has been at one image."""
        return self._decoders.longest_seconds

    def load(self, version: HostedVersion) -> None:
        """Begin to load a stored version, or one that has failed."""
        version.state, version.reason = LoadState.LOADING, ""
        version.task = self._spawn(self._load(version))

    def drain(self, version: HostedVersion) -> None:
        """Unload a ready version once no request holds it."""
        version.state, version.asked_for = LoadState.DRAINING, False
        version.task = self._spawn(self._unload(version))

    def take_back(self, version: HostedVersion) -> None:
        """Serve on with a version that is leaving."""
        if version.task is not None:
            version.task.cancel()
        version.state = LoadState.READY

    def fail(self, version: HostedVersion, error: Exception) -> None:
        """Note that a version cannot be loaded, and when it is worth another attempt."""
        version.state, version.reason = LoadState.FAILED, str(error) or type(error).__name__
        version.retry_at = time.monotonic() + min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**version.failures)
        version.failures = min(version.failures + 1, 16)
        self._metrics.load_failures.labels(*version.labels, type(error).__name__).inc()
        _log.error("%s could not be loaded: %s", version, error, exc_info=not isinstance(error, ModelError))

    async def close(self) -> None:
        """Stop loading and draining."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._decoders.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _load(self, version: HostedVersion) -> None:
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{version.name}-{version.number}")
        self._metrics.ready.labels(*version.labels).set(0)
        try:
            await self._load_in(thread, version)
        except TimeoutError:
            thread.shutdown(wait=False)
            self.fail(version, ModelNotReady(f"it was not loaded and warm within {_LOADING_SECONDS:g} s: it hangs"))
            version.retry_at = math.inf  # each attempt costs a thread, and the memory of a network
        except asyncio.CancelledError:
            thread.shutdown(wait=False)
            version.state = LoadState.STORED
            raise
        except Exception as error:  # whatever is wrong with one version must not keep the others from serving
            thread.shutdown(wait=False)
            self.fail(version, error)
        self._on_change(version)

    async def _load_in(self, thread: ThreadPoolExecutor, version: HostedVersion) -> None:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        stored = await loop.run_in_executor(thread, self._fetch, version)  # a slow store takes nobody's turn
        version.manifest = stored.manifest
        async with self._turns, asyncio.timeout(_LOADING_SECONDS):
            classifier = await loop.run_in_executor(thread, load_classifier, stored, self._choice)
            version.state = LoadState.WARMING
            self._on_change(version)
            costs = await loop.run_in_executor(thread, self._warm_up, classifier)
        one_core = classifier.engine.one_core
        version.served = ServedModel(
            stored,
            classifier,
            own_thread=thread,
            threads=self._threads if one_core else thread,
            cores=self._cores if one_core else Cores(1),
            decoders=self._decoders,
            settings=self._settings,
            metrics=self._metrics.for_model(version.name, version.number),
            costs=costs,
            on_hang=self._on_hang,
        )
        version.state, version.failures = LoadState.READY, 0
        self._metrics.ready.labels(*version.labels).set(1)
        self._metrics.failed.labels(*version.labels).set(0)
        engine, seconds = classifier.engine, time.monotonic() - started
        _log.info("%s is ready: %s on %s, loaded in %.2f s", version, engine.name, engine.device, seconds)

    def _fetch(self, version: HostedVersion) -> StoredVersion:
        return self._registry.version(ModelRef(version.name, version=version.number))

    def _warm_up(self, classifier: Classifier) -> CostCurve:
        """Run batches of 1, 2, 4 .. images, as long as larger ones are worth a try.

        No request pays then for what a first run costs, nor for the memory of batches that would gain nothing.
        """
        costs = CostCurve()
        size = 1
        classifier.classify(classifier.blank(size), spread=True)
        while size <= self._settings.max_batch_size:
            seconds = fastest(functools.partial(classifier.classify, classifier.blank(size)))
            if not costs.begin_with(size, seconds):
                break
            size *= 2
        classifier.settle()  # what the largest batches have needed may never be needed again
        release_memory()
        return costs

    async def _unload(self, version: HostedVersion) -> None:
        served = version.served
        assert served is not None
        await served.drain()
        version.served = None  # from here on nobody can lease it
        self._metrics.ready.labels(*version.labels).set(0)
        try:
            await served.unload()
            _log.info("%s is unloaded", version)
        finally:
            version.state = LoadState.STORED
            self._on_change(version)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("loading or unloading failed unforeseen", exc_info=error)
