"""Hosting: which versions this process serves, following what the registry says is wanted.

The registry is looked at again and again. A version that is newly wanted is loaded beside the one
that serves; an alias switches to it once it is loaded, checked and warm, and the old one is drained and
unloaded. What cannot be loaded stays out, and what served goes on serving. Versions that nobody keeps
loaded are loaded when they are asked for.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from model.checkpoint import WEIGHTS
from model.classifier import Classifier, load_classifier
from model.engines.selection import EngineChoice
from model.errors import Limit, ModelError, ModelNotFound, RegistryUnavailable, VersionNotFound
from model.manifest import Manifest
from model.registry import ModelSnapshot, Registry, StoredVersion, check_version, resolve_alias
from model.state import State
from model.types import PRODUCTION, ModelRef
from service.errors import ModelNotReady, NoRoom
from service.metrics import Metrics
from service.served import ServedModel
from service.settings import Settings
from service.traffic import falls_to

_log = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS = 5.0
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 5.0, 300.0


class LoadState(StrEnum):
    """Where a version stands in this process."""

    STORED = "stored"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass
class HostedVersion:
    """A version of the registry and where it stands here; `reason` says why it failed."""

    number: int
    state: LoadState = LoadState.STORED
    manifest: Manifest | None = None
    reason: str = ""
    served: ServedModel | None = None
    asked_for: bool = False  # loaded because a request needed it, and kept until the room is needed
    gone: bool = False  # no longer in the registry
    task: asyncio.Task[None] | None = None  # loads it, or drains it
    waiting: int = 0  # requests that wait for it to be loaded
    failures: int = 0
    retry_at: float = 0.0

    @property
    def loading(self) -> bool:
        """Whether it is on its way to be ready."""
        return self.state in (LoadState.LOADING, LoadState.WARMING)

    @property
    def takes_room(self) -> bool:
        """Whether it counts among the loaded ones."""
        return self.loading or self.served is not None

    @property
    def takes_back(self) -> bool:
        """Whether it is about to go, and could still stay."""
        return self.state is LoadState.DRAINING and self.served is not None

    @property
    def size(self) -> int:
        """Bytes of its weights; 0 while they are not known."""
        return self.manifest.files[WEIGHTS].bytes if self.manifest is not None else 0


@dataclass
class HostedModel:
    """A model of the registry.

    Attributes:
        name: the model's name.
        wanted: what the registry says.
        aliases: the versions that the aliases mean here: those wanted, or those before while these are not loaded.
        versions: every version that is known, by number.
        reason: why the registry's word on it cannot be understood.
    """

    name: str
    wanted: State = field(default_factory=State)
    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, HostedVersion] = field(default_factory=dict)
    reason: str = ""

    def share(self, number: int | None) -> ServedModel | None:
        """Return a version that has a share of the traffic, if it is loaded."""
        version = self.versions.get(number or 0)
        return version.served if version is not None and version.state is LoadState.READY else None


class ModelHost:
    """All models that this process knows, loaded or not."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics) -> None:
        self.registry = registry
        self.models: dict[str, HostedModel] = {}
        self.reason = ""  # why the registry cannot be read
        self.changed = asyncio.Event()  # set whenever a version's state changes
        self._settings = settings
        self._default = ModelRef.parse(settings.default_model)
        self._awaited = list(dict.fromkeys([self._default, *settings.preloaded]))
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(settings.decoding_threads, thread_name_prefix="decode")
        self._choice = EngineChoice(settings.engine, settings.device, settings.compute_threads)
        self._looking = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Look at the registry, and begin to load what is wanted; a slow registry is not waited for."""
        look = self._spawn(self.look())
        await asyncio.wait({look}, timeout=_FIRST_LOOK_SECONDS)
        if lacking := self._lacking():
            _log.warning("not ready: %s", lacking)

    async def close(self) -> None:
        """Stop loading and serving."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, version in self._versions():
            if version.served is not None:
                await version.served.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def look(self) -> None:
        """Read what the registry has and wants, and set about it."""
        async with self._looking:
            try:
                found = await asyncio.to_thread(self.registry.snapshot)
            except RegistryUnavailable as error:
                self._note_registry(str(error))
                return
            if self.models and not found:  # a volume that is not mounted looks like this
                self._note_registry(f"{self.registry.address} has no model any more")
                return
            self._note_registry(self.registry.away)
            self._take_over(found)

    def find(self, ref: ModelRef) -> HostedVersion:
        """Return the version that a reference means in this process.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: the model's aliases could not be read.
        """
        model = self._model(ref.name)
        there = [number for number, version in model.versions.items() if not version.gone]
        if ref.version is not None:
            return model.versions[check_version(ref.name, ref.version, there)]
        if model.reason and not model.aliases:
            raise ModelNotReady(f"the aliases of model {ref.name!r} cannot be read; GET /health says why")
        return model.versions[resolve_alias(ref, model.aliases, there)]

    def route(self, ref: ModelRef, header: str, request_id: str) -> HostedVersion:
        """Return the version that is to answer a request: what the reference means, or the canary.

        Args:
            ref: what the request asks for.
            header: the value of the header that the model's canary goes by; empty where the request has none.
            request_id: decides where there is no header.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: the model's aliases could not be read.
        """
        version = self.find(ref)
        canary = self.models[ref.name].wanted.traffic.canary
        if canary is None or ref.alias != PRODUCTION:
            return version
        share = self.models[ref.name].share(canary.version)
        if share and falls_to(canary.percent, ref.name, canary.version, header or request_id, "canary"):
            return self.models[ref.name].versions[canary.version]
        return version

    def canary_header(self, name: str) -> str:
        """Return the header that a model's canary goes by; empty where there is no canary."""
        model = self.models.get(name)
        canary = model.wanted.traffic.canary if model else None
        return canary.header if canary else ""

    @asynccontextmanager
    async def lease(self, name: str, version: HostedVersion) -> AsyncIterator[ServedModel]:
        """Hold a version for a request, loading it first where nobody keeps it loaded.

        Raises:
            ModelNotReady: it is not loaded and will not be soon; the message says what to do.
            NoRoom: as many versions are in use as may be loaded.
        """
        served = version.served
        if served is None or version.state is LoadState.DRAINING:
            served = await self._load_for_request(self.models[name], version)
        with served.lease():
            yield served

    async def load(self, name: str, number: int) -> HostedVersion:
        """Load a version if it is not loaded, and wait until it is ready.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: it cannot be loaded.
        """
        version = self.find(ModelRef(name, version=number))
        await self._load_for_request(self.models[name], version, patient=True)
        return version

    def check_known(self, name: str) -> None:
        """Make sure that there is a model of that name.

        Raises:
            ModelNotFound: there is none.
        """
        self._model(name)

    def state(self, name: str) -> State:
        """Read what the registry wants of a model, as it is now.

        Raises:
            ModelNotFound: there is no such model.
            CorruptCheckpoint: its state is not understood.
        """
        self.check_known(name)
        return self.registry.state(name)

    async def manifest(self, name: str, version: HostedVersion) -> Manifest:
        """Return a version's manifest.

        Raises:
            CorruptCheckpoint: it cannot be read or is not a manifest.
        """
        if version.manifest is None:
            version.manifest = await asyncio.to_thread(self.registry.manifest, name, version.number)
        return version.manifest

    def unload(self, name: str, number: int) -> None:
        """Let go of a version that was loaded because a request named it."""
        version = self.find(ModelRef(name, version=number))
        version.asked_for = False
        self._settle()

    def waiting_for(self) -> list[str]:
        """Return what keeps the service from being ready: nothing when all that is to be there is loaded."""
        if lacking := self._lacking():
            return [lacking]
        waiting = []
        for ref in self._awaited:
            try:
                version = self.find(ref)
            except (ModelError, ModelNotReady) as error:
                waiting.append(f"{ref} (HUBEL_PRELOAD): {error}")
                continue
            if version.state is not LoadState.READY:
                reason = f": {version.reason}" if version.reason else ""
                waiting.append(f"{ref.name}:{version.number}: {version.state}{reason}")
        return waiting

    def _model(self, name: str) -> HostedModel:
        model = self.models.get(name)
        if model is not None:
            return model
        if self.reason:
            raise ModelNotReady("the registry cannot be read; GET /readyz says why")
        known = ", ".join(self.models) or "no model: fill its registry with 'hubel setup'"
        raise ModelNotFound(f"there is no model {name!r}; this server has {known}")

    def _lacking(self) -> str:
        """Return what is missing that no waiting will bring; nothing where the default model is known."""
        if self.reason and not self.models:
            return self.reason
        try:
            self.find(self._default)
        except (ModelError, ModelNotReady) as error:
            return f"the default model (HUBEL_DEFAULT_MODEL): {error}"
        return ""

    def _note_registry(self, reason: str) -> None:
        if reason and reason != self.reason:
            _log.error("the registry is away, what is loaded goes on serving: %s", reason)
        elif self.reason and not reason:
            _log.info("the registry %s is back", self.registry.address)
        if reason != self.reason:
            self.changed.set()
        self.reason = reason
        self._metrics.registry_available.set(0 if reason else 1)

    # ---- what is wanted

    def _take_over(self, found: dict[str, ModelSnapshot]) -> None:
        for name, snapshot in found.items():
            model = self.models.setdefault(name, HostedModel(name))
            if snapshot.reason and snapshot.reason != model.reason:
                _log.error("%s", snapshot.reason)
            model.reason = snapshot.reason
            if snapshot.state is not None:
                model.wanted = snapshot.state
            # A listing may be older than what an alias means: the version's own files decide.
            there = {*snapshot.numbers, *model.wanted.wanted()} - {*model.wanted.removed}
            for number in sorted(there - model.versions.keys()):
                model.versions[number] = HostedVersion(number)
            for version in list(model.versions.values()):
                version.gone = version.number not in there
                if version.gone:
                    self._forget(model, version)
        for name in self.models.keys() - found.keys():
            self.models[name].wanted = State()
            self.models[name].aliases = {}
            for version in list(self.models[name].versions.values()):
                version.gone = True
                self._forget(self.models[name], version)
            if not self.models[name].versions:
                del self.models[name]
        self._settle()

    def _settle(self) -> None:
        """Switch aliases to what is ready, load what is to be loaded, let go of what nobody needs."""
        for model in self.models.values():
            _switch(model)
            self._load_companions(model)
        kept = self._kept()
        now = time.monotonic()
        for model, version in self._versions():
            if (model.name, version.number) in kept:
                version.asked_for = False
                if version.takes_back:
                    self._take_back(version)
                elif version.state is LoadState.STORED or (
                    version.state is LoadState.FAILED and now >= version.retry_at
                ):
                    self._begin_to_load(model, version)
            elif version.state is LoadState.READY and not version.asked_for:
                self._drain(model, version)
            if version.state is LoadState.FAILED:
                self._metrics.failed.labels(model.name, str(version.number)).set((model.name, version.number) in kept)
        self.changed.set()

    def _kept(self) -> set[tuple[str, int]]:
        """Return the versions that are to be loaded without being asked for, as far as there is room.

        What serves, or has a share of the traffic, stays while its successor is loaded beside it.
        """
        numbers: dict[tuple[str, int], None] = {}
        for ref in self._awaited:
            for number in self._meant(ref):
                numbers[ref.name, number] = None
        if self._settings.preloads_everything:
            for model in self.models.values():
                numbers.update(dict.fromkeys((model.name, number) for number in sorted(model.wanted.wanted())))
        limit = self._settings.max_loaded_models or len(numbers)
        kept = set(list(numbers)[:limit])
        for model in self.models.values():
            for alias, number in model.aliases.items():
                version = model.versions.get(number)
                target = model.wanted.aliases.get(alias, number)
                if target != number and version is not None and version.served is not None:
                    kept |= {(model.name, number), (model.name, target)}
        return kept

    def _load_companions(self, model: HostedModel) -> None:
        """Where `production` was loaded for a request, load what has a share of its traffic as well."""
        production = model.versions.get(model.aliases.get(PRODUCTION, 0))
        if production is None or production.served is None or not production.asked_for:
            return
        for number in {model.wanted.aliases[PRODUCTION], *model.wanted.traffic.versions()} & model.versions.keys():
            version = model.versions[number]
            if version.state is LoadState.STORED:
                version.asked_for = True
                self._begin_to_load(model, version)

    def _meant(self, ref: ModelRef) -> list[int]:
        """Return the versions that requests with this reference may reach."""
        model = self.models.get(ref.name)
        if model is None:
            return []
        if ref.version is not None:
            return [ref.version] if ref.version in model.versions else []
        number = model.wanted.aliases.get(ref.alias or PRODUCTION)
        shares = sorted(model.wanted.traffic.versions()) if ref.alias == PRODUCTION else []
        return [each for each in (number, *shares) if each in model.versions]

    # ---- loading

    def _begin_to_load(self, model: HostedModel, version: HostedVersion) -> None:
        version.state, version.reason = LoadState.LOADING, ""
        version.task = self._spawn(self._load(model, version))

    async def _load(self, model: HostedModel, version: HostedVersion) -> None:
        """Load a version in a thread of its own, which then is the engine's."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{model.name}-{version.number}")
        self._metrics.ready.labels(model.name, str(version.number)).set(0)
        started = time.monotonic()
        try:
            stored, classifier = await loop.run_in_executor(thread, self._open, model.name, version.number)
            version.state = LoadState.WARMING
            self.changed.set()
            await loop.run_in_executor(thread, self._warm_up, classifier)
        except asyncio.CancelledError:
            thread.shutdown(wait=False)
            version.state = LoadState.STORED
            raise
        except Exception as error:  # whatever is wrong with one version must not keep the others from serving
            thread.shutdown(wait=False)
            self._note_failure(model, version, error)
        else:
            version.manifest = stored.manifest
            version.served = ServedModel(
                stored,
                classifier,
                engine_thread=thread,
                decoders=self._decoders,
                settings=self._settings,
                metrics=self._metrics.for_model(model.name, version.number),
            )
            version.state, version.failures = LoadState.READY, 0
            self._metrics.ready.labels(model.name, str(version.number)).set(1)
            self._metrics.failed.labels(model.name, str(version.number)).set(0)
            _log.info(
                "%s:%s is ready: %s on %s, loaded in %.2f s",
                model.name, version.number, classifier.engine.name, classifier.engine.device,
                time.monotonic() - started,
            )  # fmt: skip
        self._settle()

    def _open(self, name: str, number: int) -> tuple[StoredVersion, Classifier]:
        stored = self.registry.version(ModelRef(name, version=number))
        return stored, load_classifier(stored, self._choice)

    def _warm_up(self, classifier: Classifier) -> None:
        """Run the smallest and the largest batch, so that no request pays for what a first one costs."""
        for count in (1, self._settings.max_batch_size):
            classifier.classify(np.zeros((count, *classifier.manifest.preprocessing.shape), np.uint8))

    def _note_failure(self, model: HostedModel, version: HostedVersion, error: Exception) -> None:
        version.state, version.reason = LoadState.FAILED, str(error)
        wait = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2**version.failures)
        version.failures += 1
        version.retry_at = time.monotonic() + wait
        self._metrics.load_failures.labels(model.name, str(version.number), type(error).__name__).inc()
        _log.error(
            "%s:%s could not be loaded: %s", model.name, version.number, error,
            exc_info=not isinstance(error, ModelError),
        )  # fmt: skip

    async def _load_for_request(
        self, model: HostedModel, version: HostedVersion, *, patient: bool = False
    ) -> ServedModel:
        """Load a version because it was named, and wait for it; `patient` waits for what is loading anyway."""
        name = f"{model.name}:{version.number}"
        if version.state is LoadState.STORED:
            await self._try_manifest(model, version)
        if version.gone:
            raise VersionNotFound(f"{name} was removed")
        if version.takes_back:
            self._take_back(version)
            version.asked_for = True
        elif version.state is LoadState.DRAINING and version.task is not None:
            await asyncio.wait({version.task})
        if version.state is LoadState.FAILED and (patient or time.monotonic() >= version.retry_at):
            version.state = LoadState.STORED
        if version.state is LoadState.STORED:
            self._make_room(name, version.size)
            version.asked_for = True
            self._begin_to_load(model, version)
        if version.loading and not version.asked_for and not patient:
            raise ModelNotReady(f"{name} is being loaded; try again in a moment", retry_after_seconds=1)
        if version.task is not None and version.loading:
            await self._wait_for(name, version, version.task)
        if version.served is not None:
            return version.served
        if version.loading:
            raise ModelNotReady(f"{name} is still being loaded; try again in a moment", retry_after_seconds=1)
        raise ModelNotReady(f"{name} could not be loaded; GET /health says why")

    async def _wait_for(self, name: str, version: HostedVersion, task: asyncio.Task[None]) -> None:
        if version.waiting >= self._settings.max_queue_size:
            raise ModelNotReady(f"{name} is being loaded, and many wait for it; try again", retry_after_seconds=1)
        version.waiting += 1
        try:
            await asyncio.wait({task}, timeout=self._settings.request_timeout_ms / 1000)
        finally:
            version.waiting -= 1

    async def _try_manifest(self, model: HostedModel, version: HostedVersion) -> None:
        """Learn a version's size, so that there is room for it; loading will say what is wrong with it."""
        with suppress(ModelError):
            await self.manifest(model.name, version)

    def _make_room(self, name: str, size: int) -> None:
        """Let go of versions that were asked for, the least recently used first, until one more fits.

        Raises:
            NoRoom: too much of what is loaded is in use or wanted.
        """
        kept = self._kept()
        loaded = [version for _, version in self._versions() if version.takes_room and not version.takes_back]
        spare = [
            (version.served.last_used, model, version)
            for model, version in self._versions()
            if version.served is not None
            and version.state is LoadState.READY
            and not version.served.in_use
            and (model.name, version.number) not in kept
        ]
        spare.sort(key=lambda each: each[0])
        going: list[tuple[HostedModel, HostedVersion]] = []
        while limit := self._limit_reached(loaded, size):
            if not spare:
                raise NoRoom(
                    f"{name} is not loaded, and there is no room for it: what is loaded is in use or kept loaded",
                    limit,
                )
            _, model, version = spare.pop(0)
            loaded.remove(version)
            going.append((model, version))
        for model, version in going:
            self._drain(model, version)

    def _limit_reached(self, loaded: list[HostedVersion], size: int) -> Limit | None:
        """Return the limit that one more version, of `size` bytes of weights, would pass."""
        count, total = self._settings.max_loaded_models, self._settings.max_loaded_bytes
        if count and len(loaded) >= count:
            return Limit("max_loaded_models", count)
        if total and sum(version.size for version in loaded) + size > total:
            return Limit("max_loaded_bytes", total)
        return None

    # ---- letting go

    def _drain(self, model: HostedModel, version: HostedVersion) -> None:
        version.state, version.asked_for = LoadState.DRAINING, False
        version.task = self._spawn(self._unload(model, version))

    def _take_back(self, version: HostedVersion) -> None:
        """Serve on with a version that was to go."""
        if version.task is not None:
            version.task.cancel()
        version.state = LoadState.READY

    def _forget(self, model: HostedModel, version: HostedVersion) -> None:
        """Drop a version that is no longer in the registry, once nobody uses it."""
        if version.state is LoadState.READY:
            self._drain(model, version)
        elif version.state in (LoadState.STORED, LoadState.FAILED):
            model.versions.pop(version.number, None)

    async def _unload(self, model: HostedModel, version: HostedVersion) -> None:
        served = version.served
        assert served is not None
        await served.drain()
        version.served = None  # from here on nobody can lease it
        self._metrics.ready.labels(model.name, str(version.number)).set(0)
        await served.unload()
        version.state = LoadState.STORED
        _log.info("%s:%s is unloaded", model.name, version.number)
        if version.gone:
            self._forget(model, version)
        self._settle()  # it may be wanted again by now

    def _versions(self) -> list[tuple[HostedModel, HostedVersion]]:
        return [(model, version) for model in self.models.values() for version in model.versions.values()]

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _switch(model: HostedModel) -> None:
    """Let each alias mean what is wanted as soon as that is loaded; until then, what it meant before."""
    for alias, target in model.wanted.aliases.items():
        current = model.versions.get(model.aliases.get(alias, 0))
        if model.share(target) is None and current is not None and current.state is LoadState.READY:
            continue
        if model.aliases.get(alias) != target and model.share(target) is not None:
            _log.info("%s@%s is version %s now", model.name, alias, target)
        model.aliases[alias] = target
    for alias in model.aliases.keys() - model.wanted.aliases.keys():
        del model.aliases[alias]
