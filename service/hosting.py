"""Hosting: which versions this process serves, following what the registry says is wanted.

The registry is looked at again and again. A version that is newly wanted is loaded beside the one
that serves; an alias switches to it once it is loaded, checked and warm, and the old one is drained and
unloaded. What cannot be loaded stays out, and what served goes on serving. Versions that nobody keeps
loaded are loaded when they are asked for.
"""

import asyncio
import logging
import time
from contextlib import AbstractContextManager, suppress

from model.errors import CorruptCheckpoint, ModelError, ModelNotFound, RegistryUnavailable, VersionNotFound
from model.manifest import Manifest
from model.registry import ModelSnapshot, Registry, check_version, resolve_alias
from model.state import State
from model.types import PRODUCTION, ModelRef
from service.errors import ModelNotReady, NoRoom
from service.hosted import HostedModel, HostedVersion, LoadState
from service.lifecycle import Lifecycle
from service.loading import Loader
from service.metrics import Metrics
from service.plan import Plan, make_plan
from service.room import choose_leaving, limit_reached
from service.served import STOP_SECONDS, ServedModel
from service.settings import Settings
from service.traffic import falls_to

_log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0  # between looks at them
LOOK_SECONDS = 10.0  # a registry that takes longer is away


class ModelHost:
    """All models that this process knows, loaded or not."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self.registry = registry
        self.models: dict[str, HostedModel] = {}
        self.reason = ""  # why the registry cannot be read
        self.changed = asyncio.Event()  # set whenever a version's state changes
        self._settings = settings
        self._lifecycle = lifecycle
        self._default = ModelRef.parse(settings.default_model)
        self._awaited = list(dict.fromkeys([self._default, *settings.preloaded]))
        self._metrics = metrics
        self._loader = Loader(registry, settings, metrics, on_change=self._version_changed, on_hang=lifecycle.fail)
        self._looking = asyncio.Lock()
        self._reading: asyncio.Task[dict[str, ModelSnapshot]] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._manifests: dict[tuple[str, int], Manifest] = {}

    async def start(self) -> None:
        """Look at the registry, and begin to load what is wanted."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        await self.look()
        if lacking := self._lacking():
            _log.warning("not ready: %s", lacking)

    async def close(self) -> None:
        """Stop loading and serving."""
        for task in (self._reading, self._watching):
            if task is not None:
                task.cancel()
        await self._loader.close()
        for version in self._versions():
            if version.served is not None:
                await version.served.close()

    async def look(self) -> None:
        """Read what the registry has and wants, and set about it; a slow registry is not waited for."""
        async with self._looking:
            if self._reading is None:
                self._reading = asyncio.get_running_loop().create_task(asyncio.to_thread(self._read))
            done, _ = await asyncio.wait({self._reading}, timeout=LOOK_SECONDS)
            if not done:
                self._note_registry(f"{self.registry.address} has not answered for {LOOK_SECONDS:g} s")
                return
            reading, self._reading = self._reading, None
            try:
                found = reading.result()
            except RegistryUnavailable as error:
                self._note_registry(str(error))
                return
            if self.models and not found:  # a volume that is not mounted looks like this
                self._note_registry(f"{self.registry.address} has no model any more")
                return
            self._note_registry(self.registry.away)
            self._take_over(found)

    async def _watch(self) -> None:
        """Let versions rest, and find a decoder that does not come back.

        It cannot be stopped: its process must be replaced.
        """
        limit = self._settings.engine_timeout_ms / 1000
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for version in self._versions():
                if version.served is not None and not version.leaving:
                    version.served.rest()
            if self._loader.longest_decode_seconds > limit + STOP_SECONDS:
                self._lifecycle.fail(f"an image has been decoded for more than {limit:g} s (HUBEL_ENGINE_TIMEOUT_MS)")

    def find(self, ref: ModelRef) -> HostedVersion:
        """Return the version that a reference means in this process.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: the model's aliases could not be read.
        """
        model = self._model(ref.name)
        number = model.aliases.get(ref.alias or PRODUCTION) if ref.version is None else ref.version
        version = model.versions.get(number) if number is not None else None
        if version is not None and not version.gone:
            return version
        return self._find_otherwise(model, ref)

    def _find_otherwise(self, model: HostedModel, ref: ModelRef) -> HostedVersion:
        """Find a version that is gone and serves on, or say what is wrong with a reference."""
        if ref.version is not None:
            there = [number for number, version in model.versions.items() if not version.gone]
            return model.versions[check_version(ref.name, ref.version, there)]
        if model.reason and not model.aliases:
            raise ModelNotReady(f"the aliases of model {ref.name!r} cannot be read; GET /health says why")
        # What an alias means serves on, also when it is removed, until its successor is loaded.
        there = [number for number, version in model.versions.items() if not version.gone or model.ready(number)]
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
        if canary is None or ref.alias != PRODUCTION or canary == self.models[ref.name].suspended:
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

    async def lease(self, version: HostedVersion, seconds: float) -> AbstractContextManager[ServedModel]:
        """Return a version to be held for a request, loading it first, within `seconds`, where it is not loaded.

        It is to be entered at once, before anything else is awaited.

        Raises:
            VersionNotFound: it was removed.
            ModelNotReady: it is not loaded and will not be in time; the message says what to do.
            NoRoom: as many versions are in use as may be loaded.
        """
        return await self._bring(version, time.monotonic() + seconds)

    async def load(self, name: str, number: int) -> HostedVersion:
        """Load a version if it is not loaded, beside all others if there is no room, and wait until it is ready.

        Raises:
            ModelNotFound: there is none.
            ModelNotReady: it cannot be loaded; the message says why.
        """
        version = self.find(ModelRef(name, version=number))
        await self._bring(version, time.monotonic() + self._settings.request_timeout_ms / 1000, beside=True)
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

    def unload(self, version: HostedVersion) -> None:
        """Let go of a version that was loaded because a request named it."""
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

    def _read(self) -> dict[str, ModelSnapshot]:
        """Read the registry, in a thread; and the sizes of what will be loaded, where there is a limit on them."""
        found = self.registry.snapshot()
        if self._settings.max_loaded_bytes:
            for name, snapshot in found.items():
                for number in snapshot.state.wanted() if snapshot.state is not None else ():
                    if (name, number) not in self._manifests:
                        with suppress(ModelError):  # loading will say what is wrong
                            self._manifests[name, number] = self.registry.manifest(name, number)
        return found

    def _take_over(self, found: dict[str, ModelSnapshot]) -> None:
        """Note what the registry has and wants, and settle."""
        for name, snapshot in found.items():
            model = self.models.setdefault(name, HostedModel(name))
            reason = snapshot.reason
            if snapshot.state is not None:
                if PRODUCTION in model.wanted.aliases and PRODUCTION not in snapshot.state.aliases:  # which none loses
                    reason = f"the state of model {name!r} is missing; what it said before goes on"
                else:
                    model.wanted = snapshot.state
            if reason and reason != model.reason:
                _log.error("%s", reason)
            model.reason = reason
            if snapshot.reason and not snapshot.numbers:
                continue  # it cannot be read: what is known of it goes on
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
            manifest = self._manifests.get((model.name, number))
            model.versions[number] = HostedVersion(model.name, number, manifest=manifest)
        for version in list(model.versions.values()):
            version.gone = version.number not in there
            self._forget_if_gone(version)

    def _forget_if_gone(self, version: HostedVersion) -> None:
        if version.gone and version.state in (LoadState.STORED, LoadState.FAILED):
            del self.models[version.name].versions[version.number]
            self._manifests.pop((version.name, version.number), None)
            self._metrics.forget(*version.labels)

    def _settle(self) -> None:
        """Switch aliases to what is ready, load what is to be loaded, let go of what nobody needs."""
        for model in self.models.values():
            model.switch()
        plan = self._plan()
        for version in plan.kept:
            version.asked_for = False
            self._bring_in(version)
        for version in plan.preferred:
            if version.takes_room:
                continue
            if limit_reached(self._versions(), version, self._settings):
                break  # what comes after it is less important
            self._bring_in(version)
        for version in self._versions():
            if version.state is LoadState.READY and version not in plan and (version.gone or not version.asked_for):
                self._loader.drain(version)
            if version.state is LoadState.FAILED:
                self._metrics.failed.labels(*version.labels).set(version in plan)
        self.changed.set()

    def _bring_in(self, version: HostedVersion) -> None:
        """Let a planned version stay if it is leaving, and load it if it is not loaded."""
        if version.leaving:
            self._loader.take_back(version)
        elif version.state is LoadState.STORED or _may_be_tried_again(version):
            self._loader.load(version)

    def _plan(self) -> Plan:
        return make_plan(self.models, self._awaited, everything=self._settings.preloads_everything)

    def _version_changed(self, version: HostedVersion) -> None:
        """Settle again, since a version is warming, is ready, has failed or is unloaded."""
        self._forget_if_gone(version)
        self._settle()

    # ---- what a request names

    async def _bring(self, version: HostedVersion, until: float, *, beside: bool = False) -> ServedModel:
        """Do what is needed until a version is ready: take it back, wait for it, or load it.

        Args:
            version: which one.
            until: monotonic seconds.
            beside: whether it is an administrator's wish: a failure is no reason not to try again, and where there is
                no room, it is loaded beside what is there.
        """
        waited = False
        while version.served is None or version.leaving:
            if version.gone:
                raise VersionNotFound(f"{version} was removed")
            if version.leaving:
                self._loader.take_back(version)
                version.asked_for = True
            elif version.state is LoadState.STORED or (not waited and _may_be_tried_again(version, now=beside)):
                await self._begin(version, until, beside=beside)
            elif version.state is LoadState.FAILED:
                why = version.reason if beside else "GET /health says why"
                raise ModelNotReady(f"{version} could not be loaded; {why}")
            else:
                await self._wait_for(version, until)
                waited = True
        return version.served

    async def _begin(self, version: HostedVersion, until: float, *, beside: bool) -> None:
        """Begin to load a version because it was named, if nobody else does meanwhile, where there is room."""
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                await self.manifest(version)  # for its size
        except TimeoutError:
            raise ModelNotReady(
                f"the manifest of {version} could not be read in time; try again in a moment", retry_after_seconds=1
            ) from None
        except CorruptCheckpoint as error:
            if version.state in (LoadState.STORED, LoadState.FAILED):
                self._loader.fail(version, error)
        except ModelError:
            pass  # loading will say what is wrong
        if version.gone or not (version.state is LoadState.STORED or _may_be_tried_again(version, now=beside)):
            return
        try:
            leaving = choose_leaving(self._versions(), version, self._plan().kept, self._settings)
        except NoRoom:
            if not beside:
                raise
            leaving = []
        for other in leaving:
            self._loader.drain(other)
        version.asked_for = True
        self._loader.load(version)

    async def _wait_for(self, version: HostedVersion, until: float) -> None:
        """Wait for a version that is being loaded or unloaded, in a bounded crowd."""
        if version.waiting >= self._settings.max_queue_size:
            raise ModelNotReady(f"{version} is being loaded, and many wait for it; try again", retry_after_seconds=1)
        assert version.task is not None
        version.waiting += 1
        try:
            done, _ = await asyncio.wait({version.task}, timeout=max(0.0, until - time.monotonic()))
        finally:
            version.waiting -= 1
        if not done:
            raise ModelNotReady(f"{version} is still being loaded; try again in a moment", retry_after_seconds=1)

    def _versions(self) -> list[HostedVersion]:
        return [version for model in self.models.values() for version in model.versions.values()]


def _may_be_tried_again(version: HostedVersion, *, now: bool = False) -> bool:
    return version.state is LoadState.FAILED and (now or time.monotonic() >= version.retry_at)
