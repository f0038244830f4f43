"""Shadow traffic: what `production` was asked is asked of another version too, and the answers are compared.

Only while no image waits for either of the two, and only once the caller has its answer: what would
delay a caller is dropped and counted.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack

from model.types import PRODUCTION, ModelRef
from service.hosting import ModelHost
from service.metrics import Metrics
from service.served import Answers, ClassifiedImage, ServedModel, Upload
from service.traffic import falls_to

_log = logging.getLogger(__name__)


class ShadowCaller:
    """Asks shadows, one request at a time."""

    def __init__(self, host: ModelHost, metrics: Metrics, max_images: int) -> None:
        """Make a caller; requests with more than `max_images` images are dropped."""
        self._host = host
        self._metrics = metrics
        self._max_images = max_images
        self._asking: asyncio.Task[None] | None = None

    def offer(
        self, ref: ModelRef, served: ServedModel, uploads: Sequence[Upload], answers: Answers, request_id: str
    ) -> None:
        """Ask the model's shadow as well, if it has one, this request belongs to its share, and nobody waits."""
        model = self._host.models.get(ref.name)
        share = model.wanted.traffic.shadow if model is not None and ref.alias == PRODUCTION else None
        if model is None or share is None or share.version == served.version.number:
            return
        if served.version.number != model.aliases.get(PRODUCTION):  # the canary has answered
            return
        if not falls_to(share.percent, ref.name, share.version, request_id, "shadow"):
            return
        version = model.ready(share.version)
        shadow = version.served if version is not None else None
        if shadow is None:
            self._drop(ref.name, share.version, "not loaded")
        elif len(uploads) > self._max_images:
            self._drop(ref.name, share.version, "many images")
        elif self._asking is not None or not served.idle or not shadow.idle:
            self._drop(ref.name, share.version, "busy")
        else:
            held = ExitStack()  # from now on, so that neither of the two is unloaded meanwhile
            held.enter_context(served)
            held.enter_context(shadow)
            self._asking = asyncio.get_running_loop().create_task(self._ask(served, shadow, uploads, answers))
            self._asking.add_done_callback(lambda _: held.close())

    async def close(self) -> None:
        """Give up what is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self, served: ServedModel, shadow: ServedModel, uploads: Sequence[Upload], answers: Answers) -> None:
        labels = (shadow.version.name, str(shadow.version.number))
        try:
            theirs = await shadow.predict(uploads)
            if failure := theirs.failure:
                raise failure
            self._compare(served, shadow, answers, theirs)
        except Exception as error:  # a shadow's failure is nobody's but its own
            self._drop(shadow.version.name, shadow.version.number, "failed")
            _log.warning("shadow %s failed: %s", ":".join(labels), error)
        finally:
            self._asking = None

    def _compare(self, served: ServedModel, shadow: ServedModel, ours: Answers, theirs: Answers) -> None:
        labels = (shadow.version.name, str(shadow.version.number))
        for our, their in zip(ours.results, theirs.results, strict=True):
            if not isinstance(our, ClassifiedImage) or not isinstance(their, ClassifiedImage):
                continue
            (top,) = served.classifier.top(our.probabilities, 1)
            (other,) = shadow.classifier.top(their.probabilities, 1)
            self._metrics.shadow_images.labels(*labels).inc()
            self._metrics.shadow_agreements.labels(*labels).inc(top.label == other.label)
            difference = abs(top.probability - shadow.classifier.probability(their.probabilities, top.label))
            self._metrics.shadow_difference.labels(*labels).observe(difference)
        self._metrics.shadow_seconds.labels(*labels).inc(theirs.inference_seconds)
        self._metrics.shadowed_seconds.labels(*labels).inc(ours.inference_seconds)

    def _drop(self, model: str, version: int, reason: str) -> None:
        self._metrics.shadow_dropped.labels(model, str(version), reason).inc()
