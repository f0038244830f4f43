"""What this machine keeps of a registry elsewhere: verified copies of files, and what was last read of the rest.

    <folder>/.contents.json               which versions there were
    <folder>/<name>/state.json            a state; empty where there was none
    <folder>/<name>/<number>/             files of a version, and its manifest

A file gets its name only after its size and SHA-256 were compared with the manifest's, so any
number of processes may fill the same folder. Knows nothing of where the files come from.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from model.checkpoint import MANIFEST, STATE, sync, write_temporary
from model.errors import RegistryUnavailable
from model.manifest import FileRecord

CACHE_VARIABLE = "HUBEL_CACHE"

_CONTENTS = ".contents.json"
_FETCHING = ".fetching-"
_ABANDONED_SECONDS = 24 * 3600.0

_Seen = tuple[str, int, int, int]  # SHA-256, inode, bytes, nanoseconds of the last change


class Cache:
    """The folder for one registry.

    Whoever makes it need not be able to write yet: the first use makes the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._verified: dict[Path, _Seen] = {}
        self._notes: dict[Path, str] = {}
        self._lock = threading.Lock()

    def version(self, name: str, number: int) -> Path:
        """Return the folder of a version."""
        return self.folder / name / str(number)

    def make(self) -> None:
        """Make the folder.

        Raises:
            RegistryUnavailable: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(0, "it may not be written", str(self.folder))
        except OSError as error:
            raise self.unwritable(error) from error

    def holds(self, path: Path, record: FileRecord) -> bool:
        """Say whether a file is there, and is the one that was published.

        A file is read and its digest taken once in a process, and again if it has changed since.
        """
        try:
            before = path.stat()
            seen = (record.sha256, before.st_ino, before.st_size, before.st_mtime_ns)
            if before.st_size != record.bytes:
                return False
            with self._lock:
                if self._verified.get(path) == seen:
                    return True
            with path.open("rb") as file:
                right = hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
        except OSError:
            return False
        if right:
            with self._lock:
                self._verified[path] = seen
        return right

    def fill(self, path: Path, record: FileRecord, pieces: Iterable[bytes]) -> bool:
        """Write a file; say whether its content was the one that was published, and leave nothing if not.

        Raises:
            RegistryUnavailable: the folder cannot be written; what `pieces` raises is passed on.
        """
        temporary = self._temporary(path.parent)
        try:
            digest, size = hashlib.sha256(), 0
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                self._append(temporary, piece)
            if (digest.hexdigest(), size) != (record.sha256, record.bytes):
                return False
            self._move(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return self.holds(path, record)

    def adopt(self, staged: Path, name: str, number: int) -> None:
        """Copy a version's files, as far as that can be done: what is missing is fetched when it is asked for."""
        with suppress(OSError, RegistryUnavailable):
            for source in staged.rglob("*"):
                path = self.version(name, number) / source.relative_to(staged)
                if source.is_file():
                    temporary = self._temporary(path.parent)
                    try:
                        shutil.copyfile(source, temporary)
                        self._move(temporary, path)
                    finally:
                        temporary.unlink(missing_ok=True)

    def note_contents(self, contents: dict[str, list[int]]) -> bool:
        """Keep which versions there are; say whether that is news in this process."""
        return self._note(self.folder / _CONTENTS, json.dumps(contents, sort_keys=True))

    def contents(self) -> dict[str, list[int]] | None:
        """Return which versions there were; None where that was never read."""
        try:
            noted = json.loads(self._noted(self.folder / _CONTENTS) or "null")
            return None if noted is None else {str(name): [int(n) for n in numbers] for name, numbers in noted.items()}
        except (ValueError, TypeError, AttributeError):
            return None

    def note_state(self, name: str, text: str | None) -> None:
        """Keep a state's text."""
        self._note(self.folder / name / STATE, text or "")

    def state(self, name: str) -> str | None:
        """Return a state's text, empty where there was no state; None where it was never read."""
        return self._noted(self.folder / name / STATE)

    def note_manifest(self, name: str, number: int, text: str) -> None:
        """Keep a manifest's text."""
        self._note(self.version(name, number) / MANIFEST, text)

    def manifest(self, name: str, number: int) -> str | None:
        """Return a manifest's text; None where it was never read."""
        return self._noted(self.version(name, number) / MANIFEST)

    def versions(self) -> list[tuple[str, int]]:
        """Return the versions of which there is anything here."""
        return [(path.parent.name, int(path.name)) for path in self.folder.glob("*/*") if path.name.isdecimal()]

    def drop(self, name: str, number: int) -> None:
        """Delete what is here of a version."""
        shutil.rmtree(self.version(name, number), ignore_errors=True)
        with self._lock:
            self._notes.pop(self.version(name, number) / MANIFEST, None)

    def unwritable(self, error: OSError) -> RegistryUnavailable:
        """Return the error that tells that the folder cannot be written."""
        return RegistryUnavailable(
            f"the cache {self.folder} cannot be written ({error.strerror or error}): "
            "make room there, or name another folder with HUBEL_CACHE"
        )

    def _note(self, path: Path, text: str) -> bool:
        """Keep a text if that can be done, in memory in any case; say whether it is news in this process."""
        with self._lock:
            if self._notes.get(path) == text:
                return False
            self._notes[path] = text
        with suppress(OSError):
            if self._noted_on_disk(path) != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_temporary(path.parent, text).replace(path)
        return True

    def _noted(self, path: Path) -> str | None:
        with self._lock:
            noted = self._notes.get(path)
        return self._noted_on_disk(path) if noted is None else noted

    def _noted_on_disk(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _temporary(self, folder: Path) -> Path:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"{_FETCHING}*"):
                with suppress(OSError):
                    if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                        left.unlink()
            descriptor, name = tempfile.mkstemp(prefix=_FETCHING, dir=folder)
            os.close(descriptor)
        except OSError as error:
            raise self.unwritable(error) from error
        return Path(name)

    def _append(self, path: Path, piece: bytes) -> None:
        try:
            with path.open("ab") as file:
                file.write(piece)
        except OSError as error:
            raise self.unwritable(error) from error

    def _move(self, temporary: Path, path: Path) -> None:
        try:
            sync(temporary)
            temporary.replace(path)
        except OSError as error:
            raise self.unwritable(error) from error


def default_cache() -> Path:
    """Return the folder for what is fetched: $HUBEL_CACHE, or $XDG_CACHE_HOME/hubel, or ~/.cache/hubel.

    Raises:
        RegistryUnavailable: the user has no home.
    """
    if named := os.environ.get(CACHE_VARIABLE):  # so that every command and publisher takes the service's
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubel"
    except RuntimeError as error:
        raise RegistryUnavailable(
            f"there is no home folder for a cache: name a folder with {CACHE_VARIABLE}"
        ) from error


def folder_name(address: str) -> str:
    """Return a name for an address' folder: one that can be read, and that no other address has."""
    readable = re.sub(r"[^a-z0-9]+", "-", address.lower()).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
