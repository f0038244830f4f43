"""What is to be loaded, from what is wanted and what stands loaded. Pure: loads and unloads nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from model.types import PRODUCTION, ModelRef
from service.hosted import HostedModel, HostedVersion


@dataclass(frozen=True)
class Plan:
    """Versions to be loaded, the most important first.

    Attributes:
        kept: in any case, and never unloaded to make room: what the settings name, what the registry lists to be
            loaded, and both versions of an alias that is about to switch.
        preferred: as long as there is room, like what a request names: all else that aliases and traffic mean.
    """

    kept: tuple[HostedVersion, ...]
    preferred: tuple[HostedVersion, ...]

    def __contains__(self, version: HostedVersion) -> bool:
        """Say whether a version is to be loaded."""
        return version in self._all

    @cached_property
    def _all(self) -> frozenset[HostedVersion]:
        return frozenset((*self.kept, *self.preferred))


def make_plan(models: Mapping[str, HostedModel], named: Sequence[ModelRef], *, everything: bool) -> Plan:
    """Decide what is to be loaded.

    Args:
        models: all that are known.
        named: what the settings name.
        everything: whether all that aliases and traffic mean is preferred, or only what goes with a `production` that
            was loaded for a request: its traffic.
    """
    kept: dict[HostedVersion, None] = {}
    preferred: dict[HostedVersion, None] = {}
    for ref in named:
        if ref.name in models:
            kept.update(_versions(models[ref.name], _meant(models[ref.name], ref)))
    for model in models.values():
        kept.update(_versions(model, model.wanted.load))
        kept.update(dict.fromkeys(model.changing()))
        if everything:
            preferred.update(_versions(model, sorted(model.wanted.wanted())))
        elif model.ready(model.aliases.get(PRODUCTION, 0)) is not None:
            preferred.update(_versions(model, sorted(model.wanted.traffic.versions())))
    return Plan(tuple(kept), tuple(version for version in preferred if version not in kept))


def _meant(model: HostedModel, ref: ModelRef) -> list[int]:
    """Return the numbers that requests with this reference may reach."""
    if ref.version is not None:
        return [ref.version]
    shares = sorted(model.wanted.traffic.versions()) if ref.alias == PRODUCTION else []
    return [model.wanted.aliases.get(ref.alias or PRODUCTION, 0), *shares]


def _versions(model: HostedModel, numbers: Iterable[int]) -> dict[HostedVersion, None]:
    return {model.versions[number]: None for number in numbers if number in model.versions}
