"""How many versions may be loaded at once, and which of them makes room for another."""

from collections.abc import Collection, Sequence

from model.errors import Limit
from service.errors import NoRoom
from service.hosted import HostedVersion, LoadState
from service.settings import Settings


def choose_leaving(
    versions: Sequence[HostedVersion], newcomer: HostedVersion, kept: Collection[HostedVersion], settings: Settings
) -> list[HostedVersion]:
    """Return which versions go so that one more fits: the least recently used that nobody uses or keeps.

    Raises:
        NoRoom: too much of what is loaded is in use or kept.
    """
    staying = [version for version in versions if version.takes_room]
    spare = [
        (version.served.last_used, version)
        for version in staying
        if version.served is not None
        and version.state is LoadState.READY
        and not version.served.in_use
        and version not in kept
    ]
    spare.sort(key=lambda each: each[0], reverse=True)
    leaving = []
    while limit := limit_reached(staying, newcomer, settings):
        if not spare:
            raise NoRoom(
                f"{newcomer} is not loaded, and there is no room for it: what is loaded is in use or kept loaded", limit
            )
        _, version = spare.pop()
        staying.remove(version)
        leaving.append(version)
    return leaving


def limit_reached(versions: Sequence[HostedVersion], newcomer: HostedVersion, settings: Settings) -> Limit | None:
    """Return the limit that one more version would pass, None where it fits."""
    staying = [version for version in versions if version.takes_room]
    if settings.max_loaded_models and len(staying) >= settings.max_loaded_models:
        return Limit("max_loaded_models", settings.max_loaded_models)
    size = newcomer.size + sum(version.size for version in staying)
    if settings.max_loaded_bytes and size > settings.max_loaded_bytes:
        return Limit("max_loaded_bytes", settings.max_loaded_bytes)
    return None
