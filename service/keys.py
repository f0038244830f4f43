"""API keys: what a key is, the lines that list them, and the file of such lines that may change meanwhile.

    # name   role     SHA-256 of the key   limits of its own, if any
    phone    predict  sha256:5feceb66...   requests_per_second=5 concurrent_requests=2
    deploy   admin    sha256:6b86b273...

A key is random, so its SHA-256 alone is kept: there is nothing to guess for which a salt or a slow hash would help.
Knows no HTTP and no rates.
"""

import asyncio
import enum
import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import SettingsError
from service.settings import Settings

_PREFIX = "hubel_"  # by which scanners of source code find a key that was left there
_RANDOM_BYTES = 32
_SELECTOR = 8  # bytes of a digest that find a key; the whole digest is then compared in constant time
_POLL_SECONDS = 1.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_LIMIT = re.compile(r"(requests_per_second=[0-9]{1,7}(\.[0-9]{1,3})?|concurrent_requests=[0-9]{1,7})")

_log = logging.getLogger(__name__)


class Role(enum.StrEnum):
    """What a key may do."""

    PREDICT = "predict"
    ADMIN = "admin"  # everything
    METRICS = "metrics"  # of HUBEL_METRICS_KEY only


@dataclass(frozen=True)
class Key:
    """A key as it is kept: without the key itself. Limits are None where the settings' count, 0 where none does."""

    name: str
    role: Role
    digest: bytes
    requests_per_second: float | None = None
    concurrent_requests: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("the name is not 1 to 64 letters, digits, dots, dashes and underscores, a letter first")

    @classmethod
    def parse(cls, line: str) -> "Key":
        """Read a line.

        Raises:
            ValueError: it is not one; the text repeats nothing of it, since it may hold a key by mistake.
        """
        words = line.split()
        if len(words) < len(("name", "role", "digest")):
            raise ValueError("a line is: name role sha256:HEX [requests_per_second=5] [concurrent_requests=2]")
        name, role, digest, *limits = words
        if role not in (Role.PREDICT, Role.ADMIN):
            raise ValueError("the role is neither predict nor admin")
        if not (found := _DIGEST.fullmatch(digest)):
            raise ValueError("the third word is not sha256: with 64 hexadecimal digits; hubel keys new makes one")
        given = dict(limit.split("=") for limit in limits if _LIMIT.fullmatch(limit))
        if len(given) != len(limits):
            raise ValueError("after the digest only requests_per_second=N and concurrent_requests=N may follow, once")
        rate, concurrency = given.get("requests_per_second"), given.get("concurrent_requests")
        return cls(
            name,
            Role(role),
            bytes.fromhex(found[1]),
            None if rate is None else float(rate),
            None if concurrency is None else int(concurrency),
        )

    def __str__(self) -> str:
        words = [self.name, self.role, f"sha256:{self.digest.hex()}"]
        if self.requests_per_second is not None:
            words.append(f"requests_per_second={self.requests_per_second:.10g}")
        if self.concurrent_requests is not None:
            words.append(f"concurrent_requests={self.concurrent_requests}")
        return " ".join(words)

    def may(self, needed: Role) -> bool:
        """Whether the key is enough for what asks for a role."""
        return self.role in (needed, Role.ADMIN)


class KeyRing:
    """Keys, found by their secret; no two of one name or one secret."""

    def __init__(self, keys: Iterable[Key]) -> None:
        """Make a ring.

        Raises:
            ValueError: two keys have the same name or the same secret.
        """
        self._keys: dict[bytes, Key] = {}
        for key in keys:
            if any(other.name == key.name for other in self):
                raise ValueError(f"there are two keys of the name {key.name!r}")
            other = self._keys.setdefault(key.digest[:_SELECTOR], key)
            if other is not key:
                raise ValueError(f"{other.name!r} and {key.name!r} are the same key")

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def find(self, secret: bytes) -> Key | None:
        """Return the key with a secret."""
        digest = _digest(secret)
        key = self._keys.get(digest[:_SELECTOR])
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None


class KeyStore:
    """The keys of a process: those that are fixed, and those of a file as it was when it could last be read."""

    def __init__(
        self, fixed: Iterable[Key], path: Path | None = None, tell: Callable[[bool], object] = lambda readable: None
    ) -> None:
        """Read the keys.

        Args:
            fixed: keys that do not change.
            path: the file of the others.
            tell: is told whether the file, as it is now, can be read.

        Raises:
            SettingsError: the file cannot be read, or two keys are the same.
        """
        self.fault = ""
        self._fixed = tuple(fixed)
        self._path = path
        self._tell = tell
        self._stamp: tuple[int, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self.ring = self._read()
        tell(True)

    @classmethod
    def of(cls, settings: Settings, tell: Callable[[bool], object] = lambda readable: None) -> "KeyStore":
        """Read the keys that the settings name.

        Raises:
            SettingsError: not all of them can be read.
        """
        fixed = []
        if settings.admin_key is not None:
            fixed.append(Key("admin", Role.ADMIN, _digest(settings.admin_key.get_secret_value().encode())))
        if settings.metrics_key is not None:
            fixed.append(Key("metrics", Role.METRICS, _digest(settings.metrics_key.get_secret_value().encode())))
        if settings.api_keys is not None:
            fixed.extend(read_keys(settings.api_keys.get_secret_value(), "HUBEL_API_KEYS"))
        return cls(fixed, settings.api_keys_file, tell)

    def refresh(self) -> None:
        """Read the file again if it has changed; while it cannot be read the keys stay as they were."""
        try:
            ring, fault = self._read(), ""
        except SettingsError as error:
            ring, fault = self.ring, str(error)
        if ring is not self.ring:
            self.ring = ring
            _log.info("%s has changed: its keys are read", self._path)
        if fault != self.fault:
            self.fault = fault
            self._tell(not fault)
            if fault:
                _log.error("the keys stay as they were: %s", fault)

    def start(self) -> None:
        """Begin to follow the file, on the running loop."""
        if self._path is not None:
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """Follow the file no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception:  # one failure must not end the following
                _log.exception("following the file of keys failed")

    def _read(self) -> KeyRing:
        source, stamp = str(self._path or "HUBEL_API_KEYS"), self._stamp
        keys = list(self._fixed)
        try:
            if self._path is not None:
                stamp = _stamp_of(self._path)  # what is written from here on is read next time
                if stamp == self._stamp:
                    return self.ring
                text = self._path.read_text(encoding="utf-8")
                if not text and self._stamp:  # whoever writes it anew has emptied it and is not done
                    raise SettingsError(f"the file of keys {source} is empty: to have no key, leave a comment in it")
                keys += read_keys(text, source)
            ring = KeyRing(keys)
        except OSError as error:
            raise SettingsError(f"the file of keys {source} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"the file of keys {source} is not text") from error
        except ValueError as error:
            raise SettingsError(f"{source}: {error}") from error
        self._stamp = stamp
        return ring


def read_keys(text: str, source: str) -> list[Key]:
    """Read keys, a line each; what is behind # and empty lines say nothing.

    Args:
        text: the lines.
        source: what to name where one is not understood.

    Raises:
        SettingsError: a line is not understood.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not (stripped := strip_comment(line)):
            continue
        try:
            keys.append(Key.parse(stripped))
        except ValueError as error:
            raise SettingsError(f"{source}, line {number}: {error}") from error
    return keys


def strip_comment(line: str) -> str:
    """Return what a line says."""
    return line.partition("#")[0].strip()


def make_key(
    name: str, role: Role, requests_per_second: float | None = None, concurrent_requests: int | None = None
) -> tuple[str, Key]:
    """Make a new key; return it as it is given away, and as it is kept.

    Raises:
        ValueError: a line could not hold it.
    """
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    key = Key(name, role, _digest(secret.encode()), requests_per_second, concurrent_requests)
    return secret, Key.parse(str(key))


def check_keys(settings: Settings) -> None:
    """Look at the keys before anything is started, and warn where strangers may come in without one.

    Raises:
        SettingsError: not all keys can be read.
    """
    KeyStore.of(settings)
    if not settings.asks_for_keys and not _is_loopback(settings.host):
        _log.warning(
            "whoever reaches %s may ask for predictions: there are no API keys (hubel keys new, HUBEL_API_KEYS_FILE)",
            settings.host,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stamp_of(path: Path) -> tuple[int, ...]:
    found = os.stat(path)  # noqa: PTH116
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
