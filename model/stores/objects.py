"""Objects by path at an address that fsspec knows: listed, read, created, written, deleted.

Every failure of a driver is told in one way. Knows nothing of versions and states. Meant for stores
that put an object whole or not at all, as all those in a cloud do.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import fsspec  # type: ignore[import-untyped]

from model.errors import ModelError, RegistryMissing, RegistryUnavailable
from model.stores.conditional import Change, change_under_lock

_USER_AND_PASSWORD = re.compile(r"://([^/@:]*):[^/@]*@")


@dataclass(frozen=True)
class _Opened:
    process: int
    filesystem: Any
    root: str  # the address as the driver has it


class Objects:
    """What lies under an address.

    The driver is opened by the first call in a process, since its thread and its connections do
    not survive a fork; its cache of listings is off. Time limits are the driver's own.

    Raises:
        RegistryUnavailable: the package for such an address is not installed.
    """

    options: ClassVar[Mapping[str, Any]] = {}  # of the driver
    attributes: ClassVar[Mapping[str, Any]] = {}  # of the driver, for which it has no option

    def __init__(self, address: str) -> None:
        self.address = hide_password(address).rstrip("/")
        self._url = address
        self._lock = threading.Lock()
        self._opened: _Opened | None = None
        _check_driver(address)

    def where(self, path: str) -> str:
        """Return what a person would call an object."""
        return f"{self.address}/{path}"

    def listing(self, folder: str = "") -> list[str]:
        """Return the paths of all objects below a folder, in one recursive listing."""
        with self._talking():
            filesystem = self.filesystem
            filesystem.invalidate_cache()
            below = len(self._open().root) + 1
            return [path[below:] for path in filesystem.find(self.path(folder))]

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return an object's content, or the bytes from `start` to before `end`, as many as there are.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._talking():
            content: bytes = self.filesystem.cat_file(self.path(path), start=start, end=end)
            return content

    def create(self, path: str, content: bytes) -> bool:
        """Write an object that is not there yet; say whether that was so."""
        with self._talking():
            self._make_parent(path)
            try:
                self.filesystem.pipe_file(self.path(path), content, mode="create")
            except FileExistsError:
                return False
            return True

    def write(self, path: str, content: bytes) -> None:
        """Write an object over what is there."""
        with self._talking():
            self._make_parent(path)
            self.filesystem.pipe_file(self.path(path), content)

    def upload(self, source: Path, path: str) -> None:
        """Write a file's content as an object."""
        with self._talking():
            self._make_parent(path)
            self.filesystem.put_file(str(source), self.path(path))

    def delete(self, path: str) -> None:
        """Delete an object, if it is there."""
        with self._talking(), suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path(path))

    def change(self, path: str, change: Change) -> bytes:
        """Replace an object so that no other change is lost; see `change_under_lock` for how far that holds here."""
        return change_under_lock(self, path, change)

    @property
    def filesystem(self) -> Any:
        """The driver, opened in this process."""
        return self._open().filesystem

    def path(self, path: str) -> str:
        """Return an object's path as the driver has it."""
        return f"{self._open().root}/{path}".rstrip("/")

    def reason(self, error: Exception) -> str:
        """Say in a few words why the store could not do what it was asked for."""
        if isinstance(error, PermissionError):
            return "access is denied: check the credentials and what they may do"
        if isinstance(error, TimeoutError):
            return "it does not answer in time"
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        return hide_password(text)

    def is_missing(self, error: FileNotFoundError) -> bool:
        """Say whether it is not an object that is missing, but the whole place for them."""
        return False

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        except FileNotFoundError as error:
            if not self.is_missing(error):
                raise
            raise RegistryMissing(
                f"the registry {self.address} does not exist ({self.reason(error)}): make it, "
                "or name another with --registry or HUBEL_REGISTRY"
            ) from error
        except Exception as error:  # what drivers raise has no root in common
            raise RegistryUnavailable(f"the registry {self.address} cannot be reached: {self.reason(error)}") from error

    def _make_parent(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        self.filesystem.makedirs(self.path(parent), exist_ok=True)

    def _open(self) -> _Opened:
        with self._lock:
            if self._opened is None or self._opened.process != os.getpid():
                filesystem, root = fsspec.url_to_fs(
                    self._url, use_listings_cache=False, skip_instance_cache=True, **self.options
                )
                for name, value in self.attributes.items():
                    setattr(filesystem, name, value)
                self._opened = _Opened(os.getpid(), filesystem, root.rstrip("/"))
            return self._opened


def hide_password(text: str) -> str:
    """Return a text with stars for the passwords in its addresses."""
    return _USER_AND_PASSWORD.sub(r"://\1:***@", text)


def _check_driver(address: str) -> None:
    protocol = address.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        told = "run: pip install 'hubel[s3]'" if protocol in ("s3", "s3a") else str(error)
        raise RegistryUnavailable(f"a registry at {protocol}:// needs a package that is not here: {told}") from error
    except ValueError as error:
        raise RegistryUnavailable(
            f"nothing is known of addresses that begin with {protocol}://: name a folder, s3://bucket/folder, "
            "or another address that fsspec knows"
        ) from error
