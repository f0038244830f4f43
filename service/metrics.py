"""The Prometheus metrics: what is counted and measured, on a registry of their own.

With several workers prometheus_client keeps its values in files of a shared folder, which
`PROMETHEUS_MULTIPROC_DIR` names and which must be set before this module is imported.
"""

import asyncio
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import multiprocess as prometheus_multiprocess
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.batching import Dropped
from service.lifecycle import lives
from service.tallies import GaugeTally, HistogramTally
from service.traffic import Totals

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_MODEL = ("model", "version")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_DIFFERENCES = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_TELL_SECONDS = 0.2  # between what is told to the other workers
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_log = logging.getLogger(__name__)


class Metrics:
    """All collectors of one process."""

    def __init__(self) -> None:
        self._shared = MULTIPROCESS_VARIABLE in os.environ
        if self._shared:
            _forget_the_dead(Path(os.environ[MULTIPROCESS_VARIABLE]))
        self._registry = registry = CollectorRegistry()
        self._of_requests: dict[tuple[str, str, str, int], HistogramTally] = {}
        self._of_models: dict[tuple[str, str], ModelMetrics] = {}
        self._telling = threading.Lock()
        if not self._shared:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
        self.worker_start = Gauge(
            "hubel_worker_start_time_seconds",
            "When the youngest worker was started, in seconds since 1970.",
            registry=registry,
            multiprocess_mode="max",
        )
        self.worker_start.set_to_current_time()
        self.requests = Counter(
            "hubel_requests",
            "Requests by route, model, version and status.",
            ("route", *_MODEL, "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "hubel_request_seconds",
            "Seconds in all, by route and model.",
            ("route", *_MODEL),
            buckets=_SECONDS,
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "hubel_decode_seconds", "Seconds to decode one image.", _MODEL, buckets=_SECONDS, registry=registry
        )
        self.queue_seconds = Histogram(
            "hubel_queue_seconds",
            "Seconds that one image waited for a batch.",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "hubel_inference_seconds",
            "Seconds that the engine took for one batch.",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "hubel_batch_size", "Images in one batch.", _MODEL, buckets=_BATCH_SIZES, registry=registry
        )
        self.images = Counter("hubel_images", "Images that an engine answered.", _MODEL, registry=registry)
        self.batches = Counter("hubel_batches", "Batches that an engine ran.", _MODEL, registry=registry)
        self.rejected_images = Counter(
            "hubel_rejected_images",
            "Images that could not be decoded, by kind of error.",
            (*_MODEL, "error"),
            registry=registry,
        )
        self.dropped = Counter(
            "hubel_dropped_images",
            "Images that left the queue without being computed: caller_left or deadline.",
            (*_MODEL, "reason"),
            registry=registry,
        )
        self.refused = Counter(
            "hubel_refused_requests",
            "Requests refused for their API key, by its name and what it lacked.",
            ("key", "reason"),
            registry=registry,
        )
        self.refused_connections = Counter(
            "hubel_refused_connections",
            "Connections that were closed for what they sent, or did not send or read in time, by reason.",
            ("reason",),
            registry=registry,
        )
        self.keys_readable = Gauge(
            "hubel_keys_readable",
            "1 while the file of API keys can be read, or there is none.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.engine_failures = Counter(
            "hubel_engine_failures",
            "Batches, or images of them alone, on which an engine failed, by kind of error.",
            (*_MODEL, "error"),
            registry=registry,
        )
        self.overload_refusals = Counter(
            "hubel_overload_refusals",
            "Requests refused because the queue was full, or their answer would have come too late.",
            _MODEL,
            registry=registry,
        )
        self.queue_length = Gauge(
            "hubel_queue_length",
            "Images that wait for a batch.",
            _MODEL,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.ready = Gauge(
            "hubel_model_ready",
            "1 for a version that is loaded and warm.",
            _MODEL,
            registry=registry,
            multiprocess_mode="livemin",
        )

        self.failed = Gauge(
            "hubel_model_failed",
            "1 for a version that is wanted and cannot be loaded.",
            _MODEL,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.load_failures = Counter(
            "hubel_model_load_failures",
            "Attempts to load a version that failed, by kind of error.",
            (*_MODEL, "error"),
            registry=registry,
        )
        self.registry_available = Gauge(
            "hubel_registry_available",
            "1 while the registry can be read.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.canary_rollbacks = Counter(
            "hubel_canary_rollbacks", "Canaries that were taken out because they failed.", _MODEL, registry=registry
        )
        self.shadow_images = Counter(
            "hubel_shadow_images", "Images that a shadow was asked, too.", _MODEL, registry=registry
        )
        self.shadow_agreements = Counter(
            "hubel_shadow_agreements",
            "Images for which the shadow's most probable label was the caller's.",
            _MODEL,
            registry=registry,
        )
        self.shadow_dropped = Counter(
            "hubel_shadow_dropped_requests",
            "Requests of the shadow's share that it was not asked, since an engine was busy or it failed.",
            (*_MODEL, "reason"),
            registry=registry,
        )
        self.shadow_difference = Histogram(
            "hubel_shadow_probability_difference",
            "How far the shadow's probability is from the caller's, for the caller's label.",
            _MODEL,
            buckets=_DIFFERENCES,
            registry=registry,
        )
        self.shadow_seconds = Counter(
            "hubel_shadow_inference_seconds", "Seconds that the shadow's engine took.", _MODEL, registry=registry
        )
        self.shadowed_seconds = Counter(
            "hubel_shadowed_inference_seconds",
            "Seconds that the engine of production took for the same requests.",
            _MODEL,
            registry=registry,
        )

    def for_model(self, model: str, version: int) -> "ModelMetrics":
        """Return the collectors of one version, so that no label is looked up on the way of a request."""
        labels = (model, str(version))
        if labels not in self._of_models:
            self._of_models[labels] = self._make_for_model(labels)
        return self._of_models[labels]

    def _make_for_model(self, labels: tuple[str, str]) -> "ModelMetrics":
        return ModelMetrics(
            decode_seconds=HistogramTally(self.decode_seconds.labels(*labels)),
            queue_seconds=HistogramTally(self.queue_seconds.labels(*labels)),
            inference_seconds=self.inference_seconds.labels(*labels),
            batch_size=self.batch_size.labels(*labels),
            images=self.images.labels(*labels),
            batches=self.batches.labels(*labels),
            dropped={reason: self.dropped.labels(*labels, reason) for reason in Dropped},
            overload_refusals=self.overload_refusals.labels(*labels),
            queue_length=GaugeTally(self.queue_length.labels(*labels)),
            engine_failures=self.engine_failures,
            rejected_images=self.rejected_images,
            labels=labels,
        )

    def request_ended(self, route: str, model: str, version: str, status: int, seconds: float) -> None:
        """Count a request; the series of its labels are looked up once."""
        labels = (route, model, version, status)
        tally = self._of_requests.get(labels)
        if tally is None:
            of_route = (route, model, version)
            counter, histogram = self.requests.labels(*of_route, str(status)), self.request_seconds.labels(*of_route)
            tally = self._of_requests[labels] = HistogramTally(histogram, counter)
        tally.observe(seconds)

    async def keep_telling(self) -> None:
        """Tell what has happened every now and then, for the other workers to know it."""
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            try:
                self.tell()
            except OSError as error:  # no room for the workers' files: what was to be told is lost
                _log.error("metrics cannot be written: %s", error)

    def tell(self) -> None:
        """Tell prometheus_client what has happened so far; from any thread."""
        with self._telling:
            for tally in tuple(self._of_requests.values()):
                tally.tell()
            for metrics in tuple(self._of_models.values()):
                metrics.tell()

    def totals(self, model: str) -> dict[int, Totals]:
        """Return what each version of a model has answered so far, summed over the workers."""
        counted: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for family in self._source().collect():
            for sample in family.samples:
                if sample.labels.get("model") != model or not sample.labels.get("version"):
                    continue
                row = counted[int(sample.labels["version"])]
                if sample.name == "hubel_requests_total":
                    row[0] += sample.value
                    row[1] += sample.value * sample.labels["status"].startswith("5")
                elif sample.name == "hubel_request_seconds_sum":
                    row[2] += sample.value
        return {version: Totals(*row) for version, row in counted.items()}

    def forget(self, model: str, version: str) -> None:
        """Drop the series of a version that is gone; several workers' files keep theirs until the service stops."""
        self.tell()
        self._of_models.pop((model, version), None)
        if self._shared:
            self.ready.labels(model, version).set(0)
            self.failed.labels(model, version).set(0)
            return
        for collector in vars(self).values():
            if isinstance(collector, Counter | Gauge | Histogram) and "model" in collector._labelnames:
                collector.remove_by_labels({"model": model, "version": version})
        self._of_requests.clear()

    def exposition(self) -> bytes:
        """Return every value in Prometheus' text form, summed over the workers."""
        return generate_latest(self._source())

    def _source(self) -> CollectorRegistry:
        self.tell()
        if not self._shared:
            return self._registry
        summed = CollectorRegistry()
        prometheus_multiprocess.MultiProcessCollector(summed)  # type: ignore[no-untyped-call]
        return summed

    def close(self) -> None:
        """Tell what is untold, and take this process's gauges out of the sums."""
        self.tell()
        if self._shared:
            prometheus_multiprocess.mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


def _forget_the_dead(folder: Path) -> None:
    """Take the gauges of workers that were killed out of the sums."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not lives(pid):
            prometheus_multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class ModelMetrics:
    """The collectors of one version; the observer of its batcher."""

    decode_seconds: HistogramTally
    queue_seconds: HistogramTally
    inference_seconds: Histogram
    batch_size: Histogram
    images: Counter
    batches: Counter
    dropped: dict[Dropped, Counter]
    overload_refusals: Counter
    queue_length: GaugeTally
    engine_failures: Counter
    rejected_images: Counter
    labels: tuple[str, str]

    def tell(self) -> None:
        """Tell prometheus_client what it was not told at once."""
        self.decode_seconds.tell()
        self.queue_seconds.tell()
        self.queue_length.tell()

    def image_rejected(self, error: str) -> None:
        """Note an image that could not be decoded; `error` is the class of what is wrong with it."""
        self.rejected_images.labels(*self.labels, error).inc()

    def engine_ran(self, size: int, seconds: float) -> None:
        """Note a run of the engine."""
        self.inference_seconds.observe(seconds)
        self.batch_size.observe(size)
        self.images.inc(size)
        self.batches.inc()

    def batch_finished(self, waits: Sequence[float]) -> None:
        """Note a batch that was computed."""
        for wait in waits:
            self.queue_seconds.observe(wait)

    def batch_failed(self, error: Exception) -> None:
        """Note a failure of the engine."""
        self.engine_failures.labels(*self.labels, type(error).__name__).inc()

    def request_refused(self) -> None:
        """Note a request for which there was no room or no time."""
        self.overload_refusals.inc()

    def entries_dropped(self, reason: Dropped, count: int) -> None:
        """Note entries that were not computed."""
        self.dropped[reason].inc(count)

    def queue_changed(self, length: int) -> None:
        """Note the queue's length."""
        self.queue_length.set(length)
