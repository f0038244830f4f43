"""A store that is a folder: versions are renamed into place whole, states are replaced under a lock.

Publishing writes into a hidden folder beside the versions; one `rename` makes it a version, so
whoever is stopped on the way leaves nothing that could be taken for one.
"""

import fcntl
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from model.checkpoint import MANIFEST, STATE, sync, write_temporary
from model.errors import CorruptCheckpoint, RegistryMissing, RegistryUnavailable, VersionNotFound
from model.manifest import FileRecord
from model.stores.base import StateChange
from model.types import is_name, is_version_number

_LOCK = ".lock"
_STAGING, _REMOVED = ".staging-", ".removed-"
_ABANDONED_SECONDS = 24 * 3600.0


class LocalStore:
    """Versions and states under one folder."""

    away = ""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = str(root.absolute())

    def contents(self) -> dict[str, list[int]]:
        """Return every model's version numbers, rising."""
        return {name: numbers for name in self._names() if (numbers := self._listed(name))}

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
            fcntl.flock(lock, fcntl.LOCK_EX)
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
        """Rename a version out of sight, then delete it."""
        home = self.root / name
        hidden = home / f"{_REMOVED}{number}-{uuid.uuid4().hex}"
        try:
            (home / str(number)).rename(hidden)
            sync(home)
            shutil.rmtree(hidden)
        except FileNotFoundError as error:
            raise VersionNotFound(f"model {name!r} has no version {number} any more") from error
        except OSError as error:
            raise self._not_writable(error) from error

    def forget_empty(self, name: str) -> None:
        """Take away the folder of a model without a version."""
        home = self.root / name
        with suppress(OSError):  # it is not empty, or not there
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
        """Return the numbers of the versions that exist; none where the folder is not a model's."""
        if not is_name(name):
            return []
        try:
            entries = list((self.root / name).iterdir())
        except OSError:
            return []
        return sorted(int(path.name) for path in entries if is_version_number(path.name) and _is_file(path / MANIFEST))

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
        """Delete what publishers that were killed have left, once nobody can be writing it any more."""
        for prefix in (_STAGING, _REMOVED):
            for folder in home.glob(f"{prefix}*"):
                with suppress(OSError):
                    if folder.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                        shutil.rmtree(folder, ignore_errors=True)

    def _not_writable(self, error: OSError) -> RegistryUnavailable:
        return RegistryUnavailable(f"the registry {self.address} cannot be written: {error.strerror or error}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered holds nothing for us
        return False
