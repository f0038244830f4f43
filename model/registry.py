"""The registry: immutable integer versions of named models, and what is wanted of them.

    <root>/<name>/state.json             aliases, traffic, what is to be loaded
    <root>/<name>/<version>/             the files of a version; it exists when its manifest does

Everything that changes is changed whole, so that any number of processes may change it at once;
how, is the store's affair. Loads no weights.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import digest_files, verify_file, write_manifest
from model.errors import (
    AliasNotFound,
    AliasNotMoved,
    CorruptCheckpoint,
    ModelError,
    ModelNotFound,
    RegistryUnavailable,
    StateConflict,
    VersionNotFound,
)
from model.manifest import Manifest, parse_manifest
from model.state import DiffRecord, PromotionRule, State, parse_state, write_state
from model.stores.open import open_store
from model.types import PRODUCTION, ModelRef, check_alias, check_name, is_name

DEFAULT_ROOT = "registry"
ROOT_VARIABLE = "HUBEL_REGISTRY"


@dataclass(frozen=True)
class StoredVersion:
    """A version in the registry: the folder of this machine where its files are, and its manifest."""

    name: str
    number: int
    folder: Path
    manifest: Manifest

    def __str__(self) -> str:
        """Write the version as a reference."""
        return f"{self.name}:{self.number}"


@dataclass(frozen=True)
class ModelSnapshot:
    """A model as the registry has it at one moment.

    `reason` says why its state cannot be read; where there are no numbers either, nothing of it can.
    """

    numbers: tuple[int, ...]
    state: State | None
    reason: str = ""


class Registry:
    """Versions and states in one store."""

    def __init__(self, address: str | Path, cache: Path | None = None) -> None:
        """Open a registry.

        Args:
            address: a folder, or an address that fsspec knows, as s3://bucket/folder.
            cache: the folder of this machine for what is fetched from another; the user's own by default.
        """
        self._store = open_store(str(address), cache)

    @property
    def address(self) -> str:
        """What a person would call the place."""
        return self._store.address

    @property
    def away(self) -> str:
        """Why the store could not be reached last time, where its copy here was read instead; else empty."""
        return self._store.away

    def check(self) -> None:
        """Make sure that the registry can be read.

        Raises:
            RegistryUnavailable: it does not exist, or cannot be read.
        """
        self._store.contents()

    def names(self) -> list[str]:
        """Return the names of the models that have a version, as far as they can be read."""
        return list(self._store.contents().numbers)

    def snapshot(self) -> dict[str, ModelSnapshot]:
        """Return every model that has a version, or cannot be read: its numbers and its state.

        Raises:
            RegistryUnavailable: the registry cannot be read.
        """
        contents = self._store.contents()
        return {
            **{name: self._snapshot(name, numbers) for name, numbers in contents.numbers.items()},
            **{name: ModelSnapshot((), None, reason) for name, reason in contents.unreadable.items()},
        }

    def numbers(self, name: str) -> list[int]:
        """Return a model's version numbers, rising.

        Raises:
            ModelNotFound: there is no such model.
            RegistryUnavailable: the registry, or the model in it, cannot be read.
        """
        numbers = self._store.numbers(name)
        if not numbers:
            known = ", ".join(self.names()) or "no model at all"
            raise ModelNotFound(f"there is no model {name!r}; the registry {self.address} has {known}")
        return numbers

    def has(self, name: str) -> bool:
        """Say whether a model has a version."""
        try:
            return bool(self.numbers(name))
        except ModelNotFound:
            return False

    def state(self, name: str) -> State:
        """Return what is wanted of a model.

        Raises:
            CorruptCheckpoint: its state is not understood.
        """
        return parse_state(self._store.read_state(name), self._store.where(name))

    def resolve(self, ref: ModelRef) -> int:
        """Return the version number that a reference means now.

        Raises:
            ModelNotFound: there is no such model, version or alias; the message names those there are.
        """
        numbers = self.numbers(ref.name)
        if ref.version is not None:
            return check_version(ref.name, ref.version, numbers)
        return resolve_alias(ref, self.state(ref.name).aliases, numbers)

    def manifest(self, name: str, number: int) -> Manifest:
        """Return a version's manifest.

        Raises:
            CorruptCheckpoint: it cannot be read or is not a manifest.
        """
        return parse_manifest(self._store.read_manifest(name, number), self._store.where(name, number))

    def version(self, ref: ModelRef) -> StoredVersion:
        """Return the version that a reference means now, its files on this machine.

        A version by its number need not be listed: a list may be older than what is there.

        Raises:
            ModelNotFound: there is no such model, version or alias.
            CorruptCheckpoint: its manifest is not understood, or a file is not the one that was published.
        """
        if ref.version is not None and is_name(ref.name):
            number, manifest = ref.version, self._manifest_or_not_found(ref, ref.version)
        else:
            number = self.resolve(ref)
            manifest = self.manifest(ref.name, number)
        self._store.fetch(ref.name, number, manifest.files)
        return StoredVersion(ref.name, number, self._store.folder(ref.name, number), manifest)

    def file(self, name: str, number: int, file: str) -> Path:
        """Return one file of a version, on this machine.

        Raises:
            KeyError: the manifest lists no such file.
            CorruptCheckpoint: the file is missing, or is not the one that was published.
        """
        record = self.manifest(name, number).files[file]
        self._store.fetch(name, number, {file: record})
        path = self._store.folder(name, number) / file
        verify_file(path, record)
        return path

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Give an empty folder to write a new version of `name` into; it is gone afterwards.

        Raises:
            RegistryUnavailable: the registry cannot be written.
        """
        check_name(name)
        with self._store.staging(name) as folder:
            yield folder

    def forget_empty(self, name: str) -> None:
        """Let a model without a version leave nothing behind."""
        self._store.forget_empty(name)

    def publish(self, staged: Path, manifest: Manifest, alias: str | None = None) -> StoredVersion:
        """Make the staged files the next version of `manifest.name`.

        The first version of a name becomes `production` by itself, and no other one, also where
        the state was lost; `alias` is moved to the new version in any case.

        Raises:
            RegistryUnavailable: the registry cannot be written; there is no new version.
            AliasNotMoved: there is a new version, but no alias was moved to it.
        """
        if alias is not None:
            check_alias(alias)
        name = manifest.name
        before = self.state(name)
        manifest = manifest.model_copy(update={"files": digest_files(staged)})
        try:
            write_manifest(staged, manifest)
        except OSError as error:
            raise RegistryUnavailable(f"{staged} cannot be written: {error.strerror or error}") from error
        number = self._store.add(staged, name, max(before.removed, default=0))
        try:
            first = PRODUCTION not in before.aliases and min(self._store.numbers(name), default=number) >= number
            self.change(name, lambda state: state.with_version(number, alias, first=first))
        except (ModelError, OSError) as error:
            raise AliasNotMoved(
                f"{name}:{number} was published, but no alias was moved to it: {error}; "
                f"run 'hubel models promote {name}:{number} --alias {alias or PRODUCTION}'"
            ) from error
        return StoredVersion(name, number, self._store.folder(name, number), manifest)

    def change(self, name: str, change: Callable[[State], State], *, expected: str | None = None) -> State:
        """Replace what is wanted of a model by what `change` makes of it; no other change is lost.

        Args:
            name: of the model.
            change: a pure function; it may be called more than once, and what it raises ends the attempt.
            expected: the tag of the state that the change is meant for; None for any.

        Raises:
            StateConflict: the state has another tag.
            RegistryUnavailable: the registry cannot be written.
        """

        def rewrite(text: str | None) -> str:
            state = parse_state(text, self._store.where(name))
            if expected is not None and expected != state_tag(state):
                raise StateConflict(f"the state of model {name!r} is {state_tag(state)} by now, not {expected}")
            changed = change(state)
            return write_state(changed)

        return parse_state(self._store.change_state(name, rewrite), self._store.where(name))

    def promote(self, ref: ModelRef, alias: str = PRODUCTION) -> StoredVersion:
        """Let `alias` mean the version that `ref` means now.

        Raises:
            ModelNotFound: there is no such model, version or alias.
            InvalidReference: `alias` cannot name an alias.
            PromotionRefused: the model asks for a diff first.
        """
        check_alias(alias)
        version = self.version(ref)
        self.change(ref.name, lambda state: state.with_alias(alias, version.number))
        return version

    def record_diff(self, name: str, record: DiffRecord) -> None:
        """Remember what a comparison of two versions of a model found."""
        self.change(name, lambda state: state.with_diff(record))

    def set_promotion_rule(self, name: str, rule: PromotionRule | None) -> None:
        """Ask for a diff before `production` moves, or for nothing."""
        self.numbers(name)
        self.change(name, lambda state: state.model_copy(update={"promotion": rule}))

    def remove(self, ref: ModelRef, *, last: bool = False, expected: str | None = None) -> int:
        """Take a version away for good, and return its number, which is never given again.

        Args:
            ref: which one.
            last: whether it may go although aliases mean it, if it is the only one; the model goes with it.
            expected: the tag of the state that the removal is meant for; None for any.

        Raises:
            ModelNotFound: there is no such model, version or alias.
            VersionInUse: an alias, the traffic or the list of what is loaded needs it.
            StateConflict: the state has another tag than `expected`.
        """
        number = self.resolve(ref)
        last = last and self.numbers(ref.name) == [number]
        self.change(ref.name, lambda state: state.without_version(number, last=last), expected=expected)
        self._store.remove(ref.name, number)
        return number

    def _manifest_or_not_found(self, ref: ModelRef, number: int) -> Manifest:
        try:
            return self.manifest(ref.name, number)
        except CorruptCheckpoint:
            self.resolve(ref)  # which names those there are
            raise

    def _snapshot(self, name: str, numbers: list[int]) -> ModelSnapshot:
        try:
            return ModelSnapshot(tuple(numbers), self.state(name))
        except ModelError as error:
            return ModelSnapshot(tuple(numbers), None, str(error))


def state_tag(state: State) -> str:
    """Return what tells one state from another."""
    return hashlib.sha256(write_state(state).encode()).hexdigest()[:16]


def check_version(name: str, number: int, numbers: list[int]) -> int:
    """Return `number` if it is one of `numbers`.

    Raises:
        VersionNotFound: it is not.
    """
    if number not in numbers:
        raise VersionNotFound(f"model {name!r} has no version {number}; it has {', '.join(map(str, numbers))}")
    return number


def resolve_alias(ref: ModelRef, aliases: dict[str, int], numbers: list[int]) -> int:
    """Return the version that a reference's alias means.

    Raises:
        AliasNotFound: there is no such alias.
        VersionNotFound: it means a version that is not there.
    """
    alias = ref.alias or PRODUCTION
    number = aliases.get(alias)
    if number is None:
        known = ", ".join(sorted(aliases)) or "none"
        raise AliasNotFound(f"model {ref.name!r} has no alias {alias!r}; it has {known}")
    if number not in numbers:
        raise VersionNotFound(f"alias {alias!r} of model {ref.name!r} means version {number}, which is not there")
    return number
