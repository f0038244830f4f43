"""A store that is a folder: versions are renamed into place whole, states are replaced under a lock.

Publishing writes into a hidden folder beside the versions; one `rename` makes it a version, so
whoever is stopped on the way leaves nothing that could be taken for one. A version that is removed
leaves its folder with a claim in it, so that nothing can be renamed to its number again.
"""

import fcntl
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from model.checkpoint import CLAIM, MANIFEST, STATE, WRITING, sync, write_temporary
from model.errors import CorruptCheckpoint, RegistryMissing, RegistryUnavailable, VersionNotFound
from model.manifest import FileRecord
from model.stores.base import Contents, StateChange
from model.types import is_name, is_version_number

_LOCK = ".lock"
_STAGING = ".staging-"
_ABANDONED_SECONDS = 24 * 3600.0
LOCK_SECONDS = 10.0  # a change takes milliseconds: whoever holds the lock for so long was stopped
_LOCK_POLL_SECONDS = 0.01


class LocalStore:
    """Versions and states under one folder."""

    away = ""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = str(root.absolute())

    def contents(self) -> Contents:
        """Return every model's version numbers, rising, and which models cannot be read."""
        contents = Contents({}, {})
        for name in self._names():
            try:
                if numbers := self._listed(name):
                    contents.numbers[name] = numbers
            except RegistryUnavailable as error:
                contents.unreadable[name] = str(error)
        return contents

    def numbers(self, name: str) -> list[int]:
        """Return a model's version numbers, rising."""
        numbers = self._listed(name)
        if not numbers:
            self._names()  # tells a registry that is not there from one without the model
        return numbers

    def read_manifest(self, name: str, number: int) -> str:
        """Return a manifest's text."""
        return self._read(self.folder(name, number) / MANIFEST)

    def folder(self, name: str, number: int) -> Path:
        """Return where a version's files are."""
        return self.root / name / str(number)

    def where(self, name: str, number: int | None = None) -> str:
        """Return a manifest's path, or a state's."""
        return str(self.root / name / STATE if number is None else self.folder(name, number) / MANIFEST)

    def fetch(self, name: str, number: int, files: Mapping[str, FileRecord]) -> None:
        """Do nothing: the files are here, and whoever loads them compares their digests."""

    def read_state(self, name: str) -> str | None:
        """Return a state's text."""
        path = self.root / name / STATE
        try:
            return self._read(path)
        except CorruptCheckpoint as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def change_state(self, name: str, change: StateChange) -> str:
        """Replace a state while no other process can."""
        home = self.root / name
        try:
            lock = (home / _LOCK).open("a")
        except OSError as error:
            raise self._not_writable(error) from error
        with lock:
            self._wait_for(lock)
            text = change(self.read_state(name))
            try:
                write_temporary(home, text).replace(home / STATE)
                sync(home)
            except OSError as error:
                raise self._not_writable(error) from error
        return text

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Give a hidden folder beside the versions."""
        home = self.root / name
        try:
            home.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=home))
        except OSError as error:
            raise self._not_writable(error) from error
        self._clear_abandoned(home)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, staged: Path, name: str, above: int) -> int:
        """Rename the staged folder to the next number."""
        home = self.root / name
        try:
            for path in (*staged.rglob("*"), staged):
                path.chmod(0o755 if path.is_dir() else 0o644)  # the service may run as another user than the publisher
                sync(path)
            number = self._rename_to_next_number(staged, home, above)
            try:
                sync(home)
            except OSError:
                (home / str(number)).rename(staged)  # what is told to have failed shall not be there
                raise
        except OSError as error:
            raise self._not_writable(error) from error
        return number

    def remove(self, name: str, number: int) -> None:
        """Delete a version's manifest, then its files; the folder stays, with a claim in it."""
        folder = self.folder(name, number)
        try:
            (folder / MANIFEST).stat()
            (folder / CLAIM).touch()
            (folder / MANIFEST).unlink()
            sync(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise VersionNotFound(f"model {name!r} has no version {number} any more") from error
        except OSError as error:
            raise self._not_writable(error) from error
        with suppress(OSError):  # the version is gone; the next publisher will clear
            _delete_files(folder)

    def forget_empty(self, name: str) -> None:
        """Take away the folder of a model without a version."""
        home = self.root / name
        with suppress(OSError, RegistryUnavailable):  # it is not empty, or not there
            if not self._listed(name) and {path.name for path in home.iterdir()} <= {_LOCK}:
                (home / _LOCK).unlink(missing_ok=True)
                home.rmdir()

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.root.iterdir())
        except OSError as error:
            kind = RegistryMissing if isinstance(error, FileNotFoundError) else RegistryUnavailable
            raise kind(
                f"the registry {self.address} cannot be read ({error.strerror}): fill one with 'hubel setup', "
                "or name another with --registry or HUBEL_REGISTRY"
            ) from error

    def _listed(self, name: str) -> list[int]:
        """Return the numbers of the versions that exist; none where the folder is not a model's.

        Raises:
            RegistryUnavailable: whether there are any, or all, cannot be told.
        """
        if not is_name(name):
            return []
        home = self.root / name
        try:
            folders = [path for path in home.iterdir() if is_version_number(path.name)]
            return sorted(int(path.name) for path in folders if _is_file(path / MANIFEST))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise RegistryUnavailable(f"{error.filename or home} cannot be read: {error.strerror or error}") from error

    def _read(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptCheckpoint(f"{path} cannot be read: {error}") from error

    def _rename_to_next_number(self, staged: Path, home: Path, above: int) -> int:
        while True:
            taken = [int(path.name) for path in home.iterdir() if is_version_number(path.name)]
            number = max((above, *taken)) + 1
            try:
                staged.rename(home / str(number))  # fails where another publisher's files are
            except OSError:
                if not (home / str(number)).exists():
                    raise
                continue
            return number

    def _clear_abandoned(self, home: Path) -> None:
        """Delete what those who were killed have left, once nobody can be at it any more."""
        for path in (*home.glob(f"{_STAGING}*"), *home.glob(f"{WRITING}*")):
            with suppress(OSError):
                if _is_abandoned(path):
                    _delete(path)
        for claim in home.glob(f"*/{CLAIM}"):
            with suppress(OSError):
                removed = is_version_number(claim.parent.name) and not _is_file(claim.parent / MANIFEST)
                if removed and _is_abandoned(claim):
                    _delete_files(claim.parent)

    def _wait_for(self, lock: IO[str]) -> None:
        """Take a lock.

        Raises:
            RegistryUnavailable: another process does not let go of it.
        """
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise RegistryUnavailable(
                        f"{lock.name} has been locked by another process for {LOCK_SECONDS:g} s; is one stopped?"
                    ) from error
                time.sleep(_LOCK_POLL_SECONDS)
            else:
                return

    def _not_writable(self, error: OSError) -> RegistryUnavailable:
        return RegistryUnavailable(f"the registry {self.address} cannot be written: {error.strerror or error}")


def _is_file(path: Path) -> bool:
    """Say whether a file is there; unlike Path's own, raise where that cannot be told."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_abandoned(path: Path) -> bool:
    return path.stat().st_mtime < time.time() - _ABANDONED_SECONDS


def _delete_files(folder: Path) -> None:
    """Delete all that is in the folder of a version but the claim, as far as that can be done."""
    for path in folder.iterdir():
        if path.name != CLAIM:
            with suppress(OSError):
                _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
