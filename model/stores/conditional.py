"""Changing an object so that no other change is lost: by comparing, or under a lock where a store cannot compare.

Knows nothing of what is in the objects.
"""

import json
import random
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from model.errors import RegistryUnavailable

LOCK_SECONDS = 20.0  # after these a lock is taken for one that was left behind
_PATIENCE_SECONDS = LOCK_SECONDS + 10
_ATTEMPTS = 15
_LONGEST_PAUSE_SECONDS = 1.0

Change = Callable[[bytes | None], bytes]
"""From an object's content, None where there is none, to the content that is to stand there."""


@dataclass(frozen=True)
class Found:
    """An object as it was read: its content, None where there is none, the tag of that content, and who wrote it."""

    content: bytes | None = None
    tag: str = ""
    writer: str = ""


class Comparing(Protocol):
    """Objects that can be replaced on the condition that they are what they were, and tell who wrote them."""

    def where(self, path: str) -> str:
        """Return what a person would call an object."""
        ...

    def find(self, path: str) -> Found:
        """Read an object."""
        ...

    def replace(self, path: str, found: Found, content: bytes, writer: str) -> bool:
        """Write an object if it still is what was found, also if that was none; say whether it was."""
        ...


class Creating(Protocol):
    """Objects that can be made on the condition that they are not there, and no more."""

    def where(self, path: str) -> str:
        """Return what a person would call an object."""
        ...

    def read(self, path: str) -> bytes:
        """Return an object's content.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def create(self, path: str, content: bytes) -> bool:
        """Write an object that is not there yet; say whether that was so."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write an object over what is there."""
        ...

    def delete(self, path: str) -> None:
        """Delete an object, if it is there."""
        ...


def change_if_unchanged(objects: Comparing, path: str, change: Change) -> bytes:
    """Read, change, and write only where nobody has written meanwhile; otherwise again, after a random pause.

    No change is lost. One is made twice only if the answer to its writing is lost, and another
    process has changed the object before it is looked at again.

    Raises:
        RegistryUnavailable: others were faster every time, or the store does not answer.
    """
    writer = ""
    for attempt in range(_ATTEMPTS):
        found = objects.find(path)
        if found.content is not None and writer and found.writer == writer:
            return found.content  # it was written after all: only the answer was lost
        writer = uuid.uuid4().hex  # the same content may be another's: both may have added one
        written = change(found.content)
        if objects.replace(path, found, written, writer):
            return written
        time.sleep(random.uniform(0, min(_LONGEST_PAUSE_SECONDS, 0.05 * 2**attempt)))  # noqa: S311
    raise RegistryUnavailable(
        f"{objects.where(path)} was changed by others {_ATTEMPTS} times while it was to be changed here: try again"
    )


def change_under_lock(objects: Creating, path: str, change: Change) -> bytes:
    """Read, change and write while an object beside it, `*.lock`, tells others to wait.

    Whoever creates the lock holds it and deletes it afterwards. One that is older than
    `LOCK_SECONDS` belongs to a process that has died, and is taken over. So no change is lost as
    long as a change takes less than that, as the machines' clocks differ by less, and as the
    driver really creates only what is not there. What is not excluded: a holder that is paused
    for longer exactly between its last look at the lock and its writing, and two that take over
    at the same instant.

    Raises:
        RegistryUnavailable: the lock was not free in time, or was lost, or the store does not answer.
    """
    lock = f"{path.removesuffix('.json')}.lock"
    owner = uuid.uuid4().hex
    _acquire(objects, lock, owner)
    try:
        written = change(_read(objects, path))
        if _holder(objects, lock).owner != owner:
            raise RegistryUnavailable(
                f"{objects.where(path)} was not changed: it took longer than {LOCK_SECONDS:.0f} s, "
                f"and another process has taken over {objects.where(lock)}; try again"
            )
        objects.write(path, written)
    finally:
        with suppress(RegistryUnavailable):  # what is left is taken over when it is old
            if _holder(objects, lock).owner == owner:
                objects.delete(lock)
    return written


@dataclass(frozen=True)
class _Holder:
    owner: str = ""
    time: float | None = None  # None where the lock is gone, or cannot be read


def _acquire(objects: Creating, lock: str, owner: str) -> None:
    first_seen = time.time()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not objects.create(lock, json.dumps({"owner": owner, "time": time.time()}).encode()):
        holder = _holder(objects, lock)
        if holder.owner == owner:
            return  # it was created after all: only the answer was lost
        if time.time() - (holder.time or first_seen) > LOCK_SECONDS:
            objects.delete(lock)
        elif time.monotonic() > deadline:
            raise RegistryUnavailable(f"{objects.where(lock)} is held by others all the time: try again")
        else:
            time.sleep(random.uniform(0.01, 0.1))  # noqa: S311


def _holder(objects: Creating, lock: str) -> _Holder:
    try:
        noted = json.loads(_read(objects, lock) or b"{}")
        return _Holder(str(noted["owner"]), float(noted["time"]))
    except (ValueError, TypeError, KeyError):
        return _Holder()


def _read(objects: Creating, path: str) -> bytes | None:
    try:
        return objects.read(path)
    except FileNotFoundError:
        return None
