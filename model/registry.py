"""The registry: immutable integer versions of named models, and the aliases that point at them.

    <root>/<name>/state.json             the aliases
    <root>/<name>/<version>/             the files of a version; it exists when its manifest does

Everything that changes is changed whole: a version's folder is renamed into place and its
manifest linked last, `state.json` is replaced under a lock. Loads no weights.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from model.checkpoint import MANIFEST, digest_files, read_manifest, sync, write_manifest, write_temporary
from model.errors import (
    AliasNotFound,
    CorruptCheckpoint,
    InvalidReference,
    ModelNotFound,
    RegistryUnavailable,
    VersionNotFound,
)
from model.manifest import Manifest
from model.types import PRODUCTION, ModelRef, check_alias, check_name

DEFAULT_ROOT = Path("registry")
ROOT_VARIABLE = "HUBEL_REGISTRY"

_STATE = "state.json"
_LOCK = ".lock"


class State(BaseModel):
    """What is wanted of a model: which version each alias means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    aliases: dict[str, int] = {}


@dataclass(frozen=True)
class StoredVersion:
    """A version in the registry: its place and its manifest."""

    name: str
    number: int
    folder: Path
    manifest: Manifest

    def __str__(self) -> str:
        """Write the version as a reference."""
        return f"{self.name}:{self.number}"


class Registry:
    """Versions and aliases under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        """Make sure that the registry's folder can be read.

        Raises:
            RegistryUnavailable: it does not exist, or is not a readable folder.
        """
        try:
            next(self.root.iterdir(), None)
        except OSError as error:
            raise RegistryUnavailable(
                f"the registry {self.root.absolute()} cannot be read ({error.strerror}): fill one with 'hubel setup', "
                "or name another with --registry or HUBEL_REGISTRY"
            ) from error

    def folder(self, name: str, number: int) -> Path:
        """Return where a version's files are."""
        return self.root / name / str(number)

    def names(self) -> list[str]:
        """Return the names of the models that have a version."""
        self.check()
        return [path.name for path in sorted(self.root.iterdir()) if self._numbers(path.name)]

    def numbers(self, name: str) -> list[int]:
        """Return a model's version numbers, rising.

        Raises:
            ModelNotFound: there is no such model.
        """
        numbers = self._numbers(name)
        if not numbers:
            self.check()
            known = ", ".join(self.names()) or "no model at all"
            raise ModelNotFound(f"there is no model {name!r}; the registry {self.root} has {known}")
        return numbers

    def state(self, name: str) -> State:
        """Return what is wanted of a model.

        Raises:
            CorruptCheckpoint: its `state.json` is not understood.
        """
        path = self.root / name / _STATE
        try:
            return State.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return State()
        except ValidationError as error:
            raise CorruptCheckpoint(f"{path} is not understood: {error.errors()[0]['msg']}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptCheckpoint(f"{path} cannot be read: {error}") from error

    def resolve(self, ref: ModelRef) -> int:
        """Return the version number that a reference means now.

        Raises:
            ModelNotFound: there is no such model, version or alias; the message names those there are.
        """
        numbers = self.numbers(ref.name)
        if ref.version is not None:
            if ref.version not in numbers:
                raise VersionNotFound(
                    f"model {ref.name!r} has no version {ref.version}; it has {', '.join(map(str, numbers))}"
                )
            return ref.version
        aliases = self.state(ref.name).aliases
        number = aliases.get(ref.alias or PRODUCTION)
        if number is None:
            known = ", ".join(sorted(aliases)) or "none"
            raise AliasNotFound(f"model {ref.name!r} has no alias {ref.alias!r}; it has {known}")
        if number not in numbers:
            raise VersionNotFound(
                f"alias {ref.alias!r} of model {ref.name!r} means version {number}, which is not there"
            )
        return number

    def version(self, ref: ModelRef) -> StoredVersion:
        """Return the version that a reference means now.

        Raises:
            ModelNotFound: there is no such model, version or alias.
            CorruptCheckpoint: its manifest is not understood.
        """
        number = self.resolve(ref)
        folder = self.folder(ref.name, number)
        return StoredVersion(ref.name, number, folder, read_manifest(folder))

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """Give an empty folder to write a new version of `name` into; it is gone afterwards.

        Raises:
            RegistryUnavailable: the registry cannot be written.
        """
        check_name(name)
        try:
            (self.root / name).mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.root / name))
        except OSError as error:
            raise self._not_writable(error) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, manifest: Manifest, alias: str | None = None) -> StoredVersion:
        """Make the staged files the next version of `manifest.name`.

        The first version of a name becomes `production` by itself; `alias` is moved to the
        new version in any case.
        """
        if alias is not None:
            check_alias(alias)
        for path in staged.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # the service may run as another user than the publisher
            sync(path)
        sync(staged)
        manifest = manifest.model_copy(update={"files": digest_files(staged)})
        number = self._rename_to_next_number(staged, manifest.name)
        folder = self.folder(manifest.name, number)
        write_manifest(folder, manifest)
        with self._changing_state(manifest.name) as aliases:
            if alias is not None:
                aliases[alias] = number
            if PRODUCTION not in aliases:
                aliases[PRODUCTION] = number
        return StoredVersion(manifest.name, number, folder, manifest)

    def promote(self, ref: ModelRef, alias: str = PRODUCTION) -> StoredVersion:
        """Let `alias` mean the version that `ref` means now.

        Raises:
            ModelNotFound: there is no such model, version or alias.
            InvalidReference: `alias` cannot name an alias.
        """
        check_alias(alias)
        version = self.version(ref)
        with self._changing_state(ref.name) as aliases:
            aliases[alias] = version.number
        return version

    def _numbers(self, name: str) -> list[int]:
        """Return the numbers of the versions that exist; none where the folder is not a model's."""
        if not _is_name(name):
            return []
        try:
            entries = list((self.root / name).iterdir())
        except OSError:
            return []
        return sorted(int(path.name) for path in entries if path.name.isdecimal() and _is_file(path / MANIFEST))

    def _rename_to_next_number(self, staged: Path, name: str) -> int:
        home = self.root / name
        staged.chmod(0o755)
        while True:
            taken = [int(path.name) for path in home.iterdir() if path.name.isdecimal()]
            number = max(taken, default=0) + 1
            try:
                staged.rename(home / str(number))  # fails where another publisher's files are
            except OSError:
                if not (home / str(number)).exists():
                    raise
                continue
            sync(home)
            return number

    @contextmanager
    def _changing_state(self, name: str) -> Iterator[dict[str, int]]:
        """Give the aliases to change, alone, and replace `state.json` by the result."""
        home = self.root / name
        try:
            lock = (home / _LOCK).open("a")
        except OSError as error:
            raise self._not_writable(error) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.state(name)
            aliases = dict(state.aliases)
            yield aliases
            changed = state.model_copy(update={"aliases": aliases})
            write_temporary(home, changed.model_dump_json(indent=1) + "\n").replace(home / _STATE)
            sync(home)

    def _not_writable(self, error: OSError) -> RegistryUnavailable:
        return RegistryUnavailable(f"the registry {self.root.absolute()} cannot be written: {error.strerror}")


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except InvalidReference:
        return False
    return True


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered holds nothing for us
        return False
