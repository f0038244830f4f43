"""Publishing copies of a version: here, in processes of their own, and in ones that are killed on the way."""

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from model.checkpoint import MANIFEST, verify_files
from model.registry import Registry, StoredVersion
from model.state import Canary, State, Traffic
from model.types import ModelRef
from tests.children import DEADLINE_SECONDS, FORKS

STEPS = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync", "fchmod")


def publish_again(registry: Registry, version: StoredVersion, alias: str | None = None) -> StoredVersion:
    """Publish a copy of a version's files as the next version."""
    with registry.staging(version.name) as folder:
        for path in version.folder.iterdir():
            if path.name != MANIFEST:
                shutil.copy(path, folder)
        return registry.publish(folder, version.manifest, alias)


def check_all(registry: Registry, name: str = "tiny") -> list[int]:
    """Verify every version that is listed, and the state; return the numbers."""
    numbers = registry.numbers(name)
    for number in numbers:
        version = registry.version(ModelRef(name, version=number))
        verify_files(version.folder, version.manifest)
    assert set(registry.state(name).aliases.values()) <= set(numbers)
    return numbers


def instrument(set_attribute: Callable[[object, str, object], None], at_step: Callable[[str], None]) -> None:
    """Let the functions of `os` that change what is on a disk call `at_step` first."""
    for name in STEPS:
        original = getattr(os, name)

        def step(*arguments: Any, _name: str = name, _original: Any = original, **named: Any) -> Any:
            at_step(_name)
            return _original(*arguments, **named)

        set_attribute(os, name, step)


def start_publishing(
    registry: Registry,
    cache: Path,
    source: StoredVersion,
    *,
    count: int = 1,
    killed_at: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> ForkServerProcess:
    """Start a process that publishes, and kills itself at a step if it is told which."""
    return _start(_publish, registry.address, cache, source, count, killed_at, variables=variables)


def start_changing(
    registry: Registry, cache: Path, name: str, *, count: int, variables: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Start a process that adds aliases and raises the canary's share by one, `count` times."""
    return _start(_change, registry.address, cache, name, count, variables=variables)


def start_reading(
    registry: Registry, cache: Path, folder: Path, *, variables: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Start a process that verifies all versions, and writes why the store is away to a file in `folder`."""
    return _start(_read, registry.address, cache, folder, variables=variables)


def wait(process: ForkServerProcess) -> int:
    """Return the exit code; less than 0 for the signal that ended it."""
    process.join(DEADLINE_SECONDS)
    assert process.exitcode is not None
    return process.exitcode


def raise_share(state: State) -> State:
    """Give the canary one percent more."""
    percent = state.traffic.canary.percent if state.traffic.canary else 0
    return state.model_copy(update={"traffic": Traffic(canary=Canary(version=1, percent=percent + 1))})


def _start(target: Callable[..., None], *arguments: object, variables: Mapping[str, str] | None) -> ForkServerProcess:
    process = FORKS.Process(target=_run, args=(target, dict(variables or {}), *arguments))
    process.start()
    return process


def _run(target: Callable[..., None], variables: dict[str, str], *arguments: object) -> None:
    os.environ.update(variables)
    target(*arguments)


def _publish(address: str, cache: Path, source: StoredVersion, count: int, killed_at: int | None) -> None:
    registry = Registry(address, cache)
    if killed_at is not None:
        steps = iter(range(1, killed_at))
        instrument(setattr, lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(steps, None) is None else None)
    for _ in range(count):
        publish_again(registry, source)


def _change(address: str, cache: Path, name: str, count: int) -> None:
    registry = Registry(address, cache)
    for number in range(count):
        registry.promote(ModelRef("tiny", version=1), f"{name}-{number}")
        registry.change("tiny", raise_share)


def _read(address: str, cache: Path, folder: Path) -> None:
    registry = Registry(address, cache)
    check_all(registry)
    (folder / "away").write_text(registry.away)
