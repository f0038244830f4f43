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
from contextlib import asynccontextmanager, suppress

from model.errors import ModelError, ModelNotFound, RegistryUnavailable, VersionNotFound
from model.manifest import Manifest
from model.registry import ModelSnapshot, Registry, check_version, resolve_alias
from model.state import State
from model.types import PRODUCTION, ModelRef
from service.errors import ModelNotReady
from service.hosted import HostedModel, HostedVersion, LoadState
from service.loading import Loader
from service.metrics import Metrics
from service.room import choose_leaving
from service.served import ServedModel
from service.settings import Settings
from service.traffic import falls_to

_log = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS = 5.0


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
        self._loader = Loader(registry, settings, metrics, self._version_changed)
        self._looking = asyncio.Lock()
        self._first_look: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look at the registry, and begin to load what is wanted; a slow registry is not waited for."""
        self._first_look = asyncio.get_running_loop().create_task(self.look())
        await asyncio.wait({self._first_look}, timeout=_FIRST_LOOK_SECONDS)
        if lacking := self._lacking():
            _log.warning("not ready: %s", lacking)

    async def close(self) -> None:
        """Stop loading and serving."""
        if self._first_look is not None:
            self._first_look.cancel()
        await self._loader.close()
        for version in self._versions():
            if version.served is not None:
                await version.served.close()

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
        trial = self.models[ref.name].ready(canary.version)
        if trial and falls_to(canary.percent, ref.name, canary.version, header or request_id, "canary"):
            return trial
        return version

    def canary_header(self, name: str) -> str:
        """Return the header that a model's canary goes by; empty where there is no canary."""
        model = self.models.get(name)
        canary = model.wanted.traffic.canary if model else None
        return canary.header if canary else ""

    @asynccontextmanager
    async def lease(self, version: HostedVersion) -> AsyncIterator[ServedModel]:
        """Hold a version for a request, loading it first where nobody keeps it loaded.

        Raises:
            ModelNotReady: it is not loaded and will not be soon; the message says what to do.
            NoRoom: as many versions are in use as may be loaded.
        """
        served = version.served
        if served is None or version.state is LoadState.DRAINING:
            served = await self._load_for_request(version)
        with served.lease():
            yield served

    async def load(self, name: str, number: int) -> HostedVersion:
        """Load a version if it is not loaded, and wait until it is ready.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: it cannot be loaded.
        """
        version = self.find(ModelRef(name, version=number))
        await self._load_for_request(version, patient=True)
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

    async def manifest(self, version: HostedVersion) -> Manifest:
        """Return a version's manifest.

        Raises:
            CorruptCheckpoint: it cannot be read or is not a manifest.
        """
        if version.manifest is None:
            version.manifest = await asyncio.to_thread(self.registry.manifest, version.name, version.number)
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
                waiting.append(f"{version}: {version.state}{reason}")
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
        """Note what the registry has and wants, and settle."""
        for name, snapshot in found.items():
            model = self.models.setdefault(name, HostedModel(name))
            if snapshot.reason and snapshot.reason != model.reason:
                _log.error("%s", snapshot.reason)
            model.reason = snapshot.reason
            if snapshot.state is not None:
                model.wanted = snapshot.state
            # A listing may be older than what an alias means: the version's own files decide.
            self._know(model, {*snapshot.numbers, *model.wanted.wanted()} - {*model.wanted.removed})
        for name in self.models.keys() - found.keys():
            model = self.models[name]
            model.wanted = State()
            self._know(model, set())
            if not model.versions:
                del self.models[name]
        self._settle()

    def _know(self, model: HostedModel, there: set[int]) -> None:
        """Learn which versions there are; those that are gone are forgotten once nobody uses them."""
        for number in sorted(there - model.versions.keys()):
            model.versions[number] = HostedVersion(model.name, number)
        for version in list(model.versions.values()):
            version.gone = version.number not in there
            if version.gone and version.state in (LoadState.STORED, LoadState.FAILED):
                del model.versions[version.number]

    def _settle(self) -> None:
        """Switch aliases to what is ready, load what is to be loaded, let go of what nobody needs."""
        for model in self.models.values():
            model.switch()
            for version in model.companions():
                if version.state is LoadState.STORED:
                    version.asked_for = True
                    self._loader.load(version)
        kept = self._kept()
        for version in kept:
            version.asked_for = False
            if version.leaving:
                self._loader.take_back(version)
            elif version.state is LoadState.STORED or _may_be_tried_again(version):
                self._loader.load(version)
        for version in self._versions():
            if version.state is LoadState.READY and version not in kept and (version.gone or not version.asked_for):
                self._loader.drain(version)
            if version.state is LoadState.FAILED:
                self._metrics.failed.labels(*version.labels).set(version in kept)
        self.changed.set()

    def _kept(self) -> dict[HostedVersion, None]:
        """Return the versions that are to be loaded without being asked for, the most important first.

        As far as there is room; but what serves stays while its successor is loaded beside it.
        """
        wanted: dict[HostedVersion, None] = {}
        for ref in self._awaited:
            wanted.update(dict.fromkeys(self._meant(ref)))
        if self._settings.preloads_everything:
            for model in self.models.values():
                for number in sorted(model.wanted.wanted() & model.versions.keys()):
                    wanted[model.versions[number]] = None
        kept = dict.fromkeys(list(wanted)[: self._settings.max_loaded_models or None])
        for model in self.models.values():
            kept.update(dict.fromkeys(model.changing()))
        return kept

    def _meant(self, ref: ModelRef) -> list[HostedVersion]:
        """Return the versions that requests with this reference may reach."""
        model = self.models.get(ref.name)
        if model is None:
            return []
        numbers = [ref.version or model.wanted.aliases.get(ref.alias or PRODUCTION)]
        if ref.alias == PRODUCTION:
            numbers += sorted(model.wanted.traffic.versions())
        return [model.versions[number] for number in numbers if number in model.versions]

    def _version_changed(self, version: HostedVersion) -> None:
        """Settle again, since a version is ready, has failed or is unloaded."""
        if version.gone and version.state in (LoadState.STORED, LoadState.FAILED):
            self.models[version.name].versions.pop(version.number, None)
        self._settle()

    # ---- what a request names

    async def _load_for_request(self, version: HostedVersion, *, patient: bool = False) -> ServedModel:
        """Load a version because it was named, and wait for it; `patient` waits for what is loading anyway."""
        if version.state is LoadState.STORED:
            with suppress(ModelError):  # it is for the size; loading will say what is wrong
                await self.manifest(version)
        elif version.state is LoadState.DRAINING and not version.leaving and version.task is not None:
            await asyncio.wait({version.task})
        if version.gone:
            raise VersionNotFound(f"{version} was removed")
        if version.leaving:
            self._loader.take_back(version)
            version.asked_for = True
        elif version.state is LoadState.STORED or _may_be_tried_again(version, now=patient):
            for other in choose_leaving(self._versions(), version, self._kept(), self._settings):
                self._loader.drain(other)
            version.asked_for = True
            self._loader.load(version)
        if version.loading:
            await self._wait_for(version, patient=patient)
        if version.served is None:
            raise ModelNotReady(f"{version} could not be loaded; GET /health says why")
        return version.served

    async def _wait_for(self, version: HostedVersion, *, patient: bool) -> None:
        """Wait for a version that is being loaded, in a bounded crowd, as long as a request may take."""
        if not version.asked_for and not patient:
            raise ModelNotReady(f"{version} is being loaded; try again in a moment", retry_after_seconds=1)
        if version.waiting >= self._settings.max_queue_size:
            raise ModelNotReady(f"{version} is being loaded, and many wait for it; try again", retry_after_seconds=1)
        assert version.task is not None
        version.waiting += 1
        try:
            await asyncio.wait({version.task}, timeout=self._settings.request_timeout_ms / 1000)
        finally:
            version.waiting -= 1
        if version.loading:
            raise ModelNotReady(f"{version} is still being loaded; try again in a moment", retry_after_seconds=1)

    def _versions(self) -> list[HostedVersion]:
        return [version for model in self.models.values() for version in model.versions.values()]


def _may_be_tried_again(version: HostedVersion, *, now: bool = False) -> bool:
    return version.state is LoadState.FAILED and (now or time.monotonic() >= version.retry_at)
