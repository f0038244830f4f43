"""The store protocol: all that the registry knows of the place where versions lie.

A version exists when its manifest does, which appears with or after all its other files and is never
replaced. A state is read whole and changed whole. A store knows no word of what is in either.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model.manifest import FileRecord

StateChange = Callable[[str | None], str]
"""From a state's text, None where there is none yet, to the text that is to stand there."""


@dataclass(frozen=True)
class Contents:
    """What a store has.

    Attributes:
        numbers: every model's version numbers, rising; models without a version are left out.
        unreadable: of models that may be there, but cannot be read at the moment: why, with the path.
    """

    numbers: dict[str, list[int]]
    unreadable: dict[str, str]


class Store(Protocol):
    """Versions by name and number, and a state for each name.

    `address` is what a person would call the store; `away` says why it cannot be reached at the
    moment, if what is returned comes from a copy that was made when it could; else it is empty.
    """

    address: str
    away: str

    def contents(self) -> Contents:
        """Return every model's version numbers.

        Raises:
            RegistryUnavailable: the store cannot be read.
        """
        ...

    def numbers(self, name: str) -> list[int]:
        """Return a model's version numbers, rising; none where it has none.

        Raises:
            RegistryUnavailable: the store cannot be read, or the model in it cannot.
        """
        ...

    def read_manifest(self, name: str, number: int) -> str:
        """Return a manifest's text.

        Raises:
            CorruptCheckpoint: it cannot be read.
            RegistryUnavailable: the store cannot be read.
        """
        ...

    def folder(self, name: str, number: int) -> Path:
        """Return the folder of this machine where a version's files are, once they are fetched."""
        ...

    def fetch(self, name: str, number: int, files: Mapping[str, FileRecord]) -> None:
        """See to it that these files of a version are in its folder.

        Raises:
            CorruptCheckpoint: a file is missing, or is not the one that was published.
            RegistryUnavailable: the store cannot be read.
        """
        ...

    def where(self, name: str, number: int | None = None) -> str:
        """Return what a person would call the place of a version, or of a model's state."""
        ...

    def read_state(self, name: str) -> str | None:
        """Return a state's text; None where there is none yet.

        Raises:
            CorruptCheckpoint: it cannot be read.
            RegistryUnavailable: the store cannot be read.
        """
        ...

    def change_state(self, name: str, change: StateChange) -> str:
        """Replace a state by what `change` makes of it, so that no other change is lost; return the new text.

        `change` may be called more than once; what it raises ends the attempt, and nothing is changed.

        Raises:
            CorruptCheckpoint: the state cannot be read.
            RegistryUnavailable: the store cannot be written.
        """
        ...

    def staging(self, name: str) -> AbstractContextManager[Path]:
        """Give an empty folder of this machine to write a new version of `name` into; it is gone afterwards.

        Raises:
            RegistryUnavailable: the store cannot be written.
        """
        ...

    def add(self, staged: Path, name: str, above: int) -> int:
        """Make the staged files, the manifest among them, the next version; return its number, over `above`.

        Raises:
            RegistryUnavailable: the store cannot be written.
        """
        ...

    def remove(self, name: str, number: int) -> None:
        """Take a version away: first it no longer exists, then its files go; its number stays taken.

        Raises:
            RegistryUnavailable: the store cannot be written.
        """
        ...

    def forget_empty(self, name: str) -> None:
        """Take away what attempts to publish have left of a model that has no version."""
        ...
