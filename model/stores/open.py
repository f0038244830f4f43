"""From an address to the store there."""

from pathlib import Path

from model.stores.base import Store
from model.stores.local import LocalStore

_FILE = "file://"


def open_store(address: str, cache: Path | None = None) -> Store:
    """Return the store at an address: a folder's path, or anything that fsspec knows.

    Args:
        address: a path, file://..., s3://bucket/folder, ...
        cache: the folder of this machine for what is fetched; the user's own by default.

    Raises:
        RegistryUnavailable: what talks to such an address is not installed.
    """
    if "://" not in address or address.startswith(_FILE):
        return LocalStore(Path(address.removeprefix(_FILE)))
    from model.stores.remote import RemoteStore

    return RemoteStore(address, cache)
