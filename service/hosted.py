"""Where models and their versions stand in this process. Records: nothing here loads, waits or decides what is kept."""

import asyncio
import logging
from dataclasses import dataclass, field
from enum import StrEnum

from model.checkpoint import WEIGHTS
from model.manifest import Manifest
from model.state import Canary, State
from service.served import ServedModel

_log = logging.getLogger(__name__)


class LoadState(StrEnum):
    """Where a version stands in this process."""

    STORED = "stored"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(eq=False)
class HostedVersion:
    """A version of the registry and where it stands here.

    Attributes:
        name: the model's.
        number: the version's.
        state: where it stands.
        manifest: once it was read.
        reason: why it could not be loaded.
        served: what answers, from when it is ready until nobody can need it any more.
        asked_for: it is loaded because a request needed it, and stays until the room is needed.
        gone: it is no longer in the registry.
        task: loads it, or drains it.
        waiting: how many requests wait for it to be loaded.
        failures: how many attempts to load it have failed, one after the other.
        retry_at: when it may be tried again, monotonic seconds.
    """

    name: str
    number: int
    state: LoadState = LoadState.STORED
    manifest: Manifest | None = None
    reason: str = ""
    served: ServedModel | None = None
    asked_for: bool = False
    gone: bool = False
    task: asyncio.Task[None] | None = None
    waiting: int = 0
    failures: int = 0
    retry_at: float = 0.0

    def __str__(self) -> str:
        """Write the version as a reference."""
        return f"{self.name}:{self.number}"

    @property
    def labels(self) -> tuple[str, str]:
        """What the metrics call it."""
        return self.name, str(self.number)

    @property
    def loading(self) -> bool:
        """Whether it is on its way to be ready."""
        return self.state in (LoadState.LOADING, LoadState.WARMING)

    @property
    def leaving(self) -> bool:
        """Whether it is about to go, and could still stay."""
        return self.state is LoadState.DRAINING and self.served is not None

    @property
    def takes_room(self) -> bool:
        """Whether it counts among the loaded ones."""
        return self.loading or self.state is LoadState.READY

    @property
    def size(self) -> int:
        """Bytes of its weights; 0 while they are not known."""
        return self.manifest.files[WEIGHTS].bytes if self.manifest is not None else 0


@dataclass(eq=False)
class HostedModel:
    """A model of the registry.

    Attributes:
        name: the model's name.
        wanted: what the registry says.
        aliases: the versions that the aliases mean here: those wanted, or those before while these are not loaded.
        versions: every version that is known, by number.
        reason: why the registry's word on it cannot be understood.
        suspended: the canary that has failed and is asked nothing in this process, whether or not the registry says so.
    """

    name: str
    wanted: State = field(default_factory=State)
    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, HostedVersion] = field(default_factory=dict)
    reason: str = ""
    suspended: Canary | None = None

    def ready(self, number: int) -> HostedVersion | None:
        """Return a version if it is loaded."""
        version = self.versions.get(number)
        return version if version is not None and version.state is LoadState.READY else None

    def switch(self) -> None:
        """Let each alias mean what is wanted as soon as that is loaded; until then, what it meant before."""
        for alias, target in self.wanted.aliases.items():
            before = self.aliases.get(alias, 0)
            if before == target or (self.ready(target) is None and self.ready(before) is not None):
                continue
            if before:
                _log.info("%s@%s is version %s now, and was %s", self.name, alias, target, before)
            self.aliases[alias] = target
        for alias in self.aliases.keys() - self.wanted.aliases.keys():
            del self.aliases[alias]

    def changing(self) -> set[HostedVersion]:
        """Return what serves, and its successor that is still to be loaded, for every alias that is about to switch."""
        found = set()
        for alias, number in self.aliases.items():
            target = self.wanted.aliases.get(alias, number)
            if target != number and self.ready(number) is not None and target in self.versions:
                found |= {self.versions[number], self.versions[target]}
        return found
