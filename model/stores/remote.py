"""A store behind an address that fsspec knows, as s3://bucket/folder, with a verified copy on this machine.

    <address>/<name>/state.json
    <address>/<name>/<number>/.claim           whose number it is; it stays, so that no number is given twice
    <address>/<name>/<number>/<files>
    <address>/<name>/<number>/manifest.json    written last, and only where none is

What is read is asked of the store every time; what was last read is kept, and answers while the
store is away. Files are taken from the cache where they are what the manifest says.
"""

import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from model.checkpoint import CLAIM, MANIFEST, STATE
from model.errors import CorruptCheckpoint, RegistryUnavailable, VersionNotFound
from model.manifest import FileRecord
from model.stores.base import Contents, StateChange
from model.stores.cache import Cache, default_cache, folder_name
from model.stores.objects import Objects
from model.types import is_name, is_version_number

T = TypeVar("T")

_ABANDONED_SECONDS = 24 * 3600.0
_PIECE_BYTES = 16 * 2**20
_CLAIMS = 1000
_DEPTH = 3  # of a version's files: name, number, file


class RemoteStore:
    """Versions and states under one address.

    After a failure the store is left alone for as long as the failure took, so that one that
    hangs takes half of the time at most. Listing costs one request for every 1,000 objects.

    Raises:
        RegistryUnavailable: what talks to such an address is not installed.
    """

    def __init__(self, address: str, cache: Path | None) -> None:
        """Open a store; nothing is asked of it yet.

        Args:
            address: as s3://bucket/folder.
            cache: the folder for what is fetched; ~/.cache/hubel by default.
        """
        self._objects = open_objects(address)
        self.address = self._objects.address
        self.away = ""
        self._cache = Cache((cache or default_cache()) / folder_name(self.address))
        self._silent_until = 0.0
        self._lock = threading.Lock()
        self._fetching: dict[tuple[str, int], threading.Lock] = {}

    def contents(self) -> Contents:
        """Return every model's version numbers, rising."""
        self._cache.make()
        try:
            paths = self._ask(self._objects.listing)
        except RegistryUnavailable:
            kept = self._cache.contents()
            if kept is None:
                raise
            return Contents(kept, {})
        contents = _versions(paths)
        if self._cache.note_contents(contents):
            self._drop_what_is_gone(contents)
        return Contents(contents, {})

    def numbers(self, name: str) -> list[int]:
        """Return a model's version numbers, rising."""
        return self.contents().numbers.get(name, [])

    def read_manifest(self, name: str, number: int) -> str:
        """Return a manifest's text; whether the version is listed does not matter."""
        self._cache.make()
        try:
            text = self._ask(partial(self._read_text, self._manifest_path(name, number)))
        except FileNotFoundError as error:
            raise CorruptCheckpoint(f"{self.where(name, number)} cannot be read: it is not there") from error
        except RegistryUnavailable as error:
            kept = self._cache.manifest(name, number)
            if kept is None:
                raise self._not_kept(error, f"the manifest of {name}:{number}") from error
            return kept
        self._cache.note_manifest(name, number, text)
        return text

    def folder(self, name: str, number: int) -> Path:
        """Return the folder of the cache for a version."""
        return self._cache.version(name, number)

    def where(self, name: str, number: int | None = None) -> str:
        """Return a manifest's address, or a state's."""
        return self._objects.where(f"{name}/{STATE}" if number is None else self._manifest_path(name, number))

    def fetch(self, name: str, number: int, files: Mapping[str, FileRecord]) -> None:
        """Download what is not in the cache, and what is there but is not what was published."""
        self._cache.make()
        with self._lock:
            alone = self._fetching.setdefault((name, number), threading.Lock())
        with alone:
            for file, record in files.items():
                if not self._cache.holds(self.folder(name, number) / file, record):
                    self._fetch_file(name, number, file, record)

    def read_state(self, name: str) -> str | None:
        """Return a state's text."""
        self._cache.make()
        try:
            text = self._ask(partial(self._read_text, f"{name}/{STATE}"))
        except FileNotFoundError:
            text = None
        except RegistryUnavailable as error:
            kept = self._cache.state(name)
            if kept is None:
                raise self._not_kept(error, f"the state of {name!r}") from error
            return kept or None
        self._cache.note_state(name, text)
        return text

    def change_state(self, name: str, change: StateChange) -> str:
        """Replace a state: on S3 if it is still the one that was read, elsewhere under a lock."""
        where = self.where(name)

        def rewrite(content: bytes | None) -> bytes:
            return change(None if content is None else _decode(content, where)).encode()

        text = self._objects.change(f"{name}/{STATE}", rewrite).decode()
        self._cache.note_state(name, text)
        return text

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Give a temporary folder, once the store has answered."""
        self._objects.listing(name)
        try:
            staged = tempfile.TemporaryDirectory(prefix="hubel-", ignore_cleanup_errors=True)
        except OSError as error:
            raise RegistryUnavailable(
                f"no temporary folder can be made ({error.strerror or error}): make room, or set TMPDIR"
            ) from error
        with staged as folder:
            yield Path(folder)

    def add(self, staged: Path, name: str, above: int) -> int:
        """Claim the next number, upload the files, and write the manifest last."""
        paths = self._objects.listing(name)
        number = self._claim_next_number(name, max((above, *_taken(paths))) + 1)
        files = [path for path in sorted(staged.rglob("*")) if path.is_file() and path != staged / MANIFEST]
        for path in files:
            self._objects.upload(path, f"{name}/{number}/{path.relative_to(staged).as_posix()}")
        self._write_manifest(name, number, (staged / MANIFEST).read_bytes())
        self._cache.adopt(staged, name, number)
        with suppress(RegistryUnavailable):  # the version is there; the next publisher will clear
            self._clear_abandoned(name, paths)
        return number

    def remove(self, name: str, number: int) -> None:
        """Delete a version's manifest, then its files; the claim stays, and the cache of this machine is cleared."""
        manifest = self._manifest_path(name, number)
        try:
            self._objects.read(manifest)
        except FileNotFoundError as error:
            raise VersionNotFound(f"model {name!r} has no version {number} any more") from error
        self._objects.delete(manifest)
        self._cache.drop(name, number)
        self._delete_files(self._objects.listing(f"{name}/{number}"))

    def forget_empty(self, name: str) -> None:
        """Do nothing: a model without a version is not listed, and attempts that failed are cleared a day later."""

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the store something, and take note of whether it answers."""
        if self.away and time.monotonic() < self._silent_until:
            raise RegistryUnavailable(self.away)
        began = time.monotonic()
        try:
            answer = question()
        except RegistryUnavailable as error:
            now = time.monotonic()
            self._silent_until = now + (now - began)
            self.away = str(error)
            raise
        except FileNotFoundError:
            self.away = ""
            raise
        self.away = ""
        return answer

    def _read_text(self, path: str) -> str:
        return _decode(self._objects.read(path), self._objects.where(path))

    def _manifest_path(self, name: str, number: int) -> str:
        return f"{name}/{number}/{MANIFEST}"

    def _not_kept(self, error: RegistryUnavailable, what: str) -> RegistryUnavailable:
        return type(error)(f"{error}; and {what} is not in the cache {self._cache.folder}")

    def _fetch_file(self, name: str, number: int, file: str, record: FileRecord) -> None:
        path = f"{name}/{number}/{file}"
        for _ in range(2):  # once more: a download may have been torn
            try:
                if self._cache.fill(self.folder(name, number) / file, record, self._pieces(path, record.bytes)):
                    return
            except FileNotFoundError as error:
                raise CorruptCheckpoint(f"{self._objects.where(path)} is missing; publish the version again") from error
        raise CorruptCheckpoint(
            f"{self._objects.where(path)} is not the file that was published: its size or SHA-256 is not what "
            f"{MANIFEST} says; restore the file or publish the version again"
        )

    def _pieces(self, path: str, size: int) -> Iterator[bytes]:
        for start in range(0, size, _PIECE_BYTES):
            try:
                yield self._ask(partial(self._objects.read, path, start, min(start + _PIECE_BYTES, size)))
            except RegistryUnavailable as error:
                raise self._not_kept(error, path) from error

    def _claim_next_number(self, name: str, number: int) -> int:
        """Return the first number that nobody has; a listing may have missed some."""
        mine = json.dumps({"id": uuid.uuid4().hex, "time": time.time()}).encode()
        for _ in range(_CLAIMS):
            claim = f"{name}/{number}/{CLAIM}"
            if self._objects.create(claim, mine) or self._read_or_none(claim) == mine:
                if self._read_or_none(self._manifest_path(name, number)) is None:
                    return number
            elif self._read_or_none(claim) is None:  # two at the same moment, and the store let neither
                time.sleep(0.05)
                continue
            number += 1
        raise RegistryUnavailable(f"{self.address} lets nobody claim a number for {name!r}: {_CLAIMS} attempts failed")

    def _write_manifest(self, name: str, number: int, content: bytes) -> None:
        path = self._manifest_path(name, number)
        try:
            written = self._objects.create(path, content) or self._objects.read(path) == content
        except RegistryUnavailable as error:
            raise RegistryUnavailable(
                f"{error}; whether {name}:{number} was published is not known: see 'hubel models list'"
            ) from error
        if not written:
            raise RegistryUnavailable(f"{self._objects.where(path)} was written by somebody else: publish again")

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self._objects.read(path)
        except FileNotFoundError:
            return None

    def _clear_abandoned(self, name: str, paths: list[str]) -> None:
        """Delete what publishers that failed have left, once nobody can be writing it any more."""
        whole = {number for number in _taken(paths) if self._manifest_path(name, number) in paths}
        for number in sorted(_taken(paths) - whole):
            left = [path for path in paths if path.startswith(f"{name}/{number}/") and not path.endswith(f"/{CLAIM}")]
            if left and self._is_abandoned(name, number):
                self._delete_files(left)

    def _is_abandoned(self, name: str, number: int) -> bool:
        try:
            claimed = float(json.loads(self._objects.read(f"{name}/{number}/{CLAIM}"))["time"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return False  # whoever put it there without a claim is none of us
        old = claimed < time.time() - _ABANDONED_SECONDS
        return old and self._read_or_none(self._manifest_path(name, number)) is None

    def _delete_files(self, paths: list[str]) -> None:
        for path in paths:
            if not path.endswith(f"/{CLAIM}"):
                self._objects.delete(path)

    def _drop_what_is_gone(self, contents: dict[str, list[int]]) -> None:
        """Let the cache keep no version that was removed; a list that misses one is not enough to say so."""
        with suppress(RegistryUnavailable):
            for name, number in self._cache.versions():
                if (
                    number not in contents.get(name, [])
                    and self._read_or_none(self._manifest_path(name, number)) is None
                ):
                    self._cache.drop(name, number)


def open_objects(address: str) -> Objects:
    """Return the objects at an address.

    Raises:
        RegistryUnavailable: what talks to such an address is not installed.
    """
    objects = Objects(address)
    if address.partition("://")[0] not in ("s3", "s3a"):
        return objects
    from model.stores.s3 import S3Objects

    return S3Objects(address)


def _versions(paths: list[str]) -> dict[str, list[int]]:
    """Return the versions whose manifests are listed."""
    found: dict[str, list[int]] = {}
    for path in paths:
        parts = path.split("/")
        if len(parts) == _DEPTH and parts[2] == MANIFEST and is_version_number(parts[1]) and is_name(parts[0]):
            found.setdefault(parts[0], []).append(int(parts[1]))
    return {name: sorted(numbers) for name, numbers in sorted(found.items())}


def _taken(paths: list[str]) -> set[int]:
    """Return all numbers of one model of which anything is listed."""
    numbers = (path.split("/")[1] for path in paths if path.count("/") >= _DEPTH - 1)
    return {int(number) for number in numbers if is_version_number(number)}


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptCheckpoint(f"{where} cannot be read: {error}") from error
