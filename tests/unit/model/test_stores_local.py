"""Publishing into a folder, walked step by step: killed, with a full disk, and against another process."""

import errno
import fcntl
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from model import checkpoint
from model.checkpoint import CARD, NETWORK
from model.errors import AliasNotMoved, CorruptCheckpoint, ModelNotFound, RegistryUnavailable, VersionNotFound
from model.manifest import FileRecord
from model.registry import ModelSnapshot, Registry, StoredVersion
from model.stores import local
from model.types import ModelRef
from tests.publishers import (
    check_all,
    instrument,
    publish_again,
    start_changing,
    start_publishing,
    wait,
)

MOST_STEPS = 100
SECOND = ModelRef("tiny", version=2)


def test_a_publisher_that_is_killed_at_any_step_leaves_a_whole_registry(
    tiny_root: Path, tiny: StoredVersion, tmp_path: Path
) -> None:
    registry = Registry(tiny_root)
    outcomes: list[tuple[int, int]] = []
    for step in range(1, MOST_STEPS):
        before = registry.numbers("tiny")
        code = wait(start_publishing(registry, tmp_path, tiny, killed_at=step))
        after = check_all(registry)
        assert after in (before, [*before, before[-1] + 1])
        outcomes.append((code, len(after) - len(before)))
        last = publish_again(registry, tiny).number
        assert last == after[-1] + 1
        for number in after[1:]:  # to keep the next round short
            registry.remove(ModelRef("tiny", version=number))
        if code == 0:
            break
    assert outcomes[-1] == (0, 1)
    assert len(outcomes) > 20
    added = [count for _, count in outcomes]
    assert added == sorted(added)  # there is one step before which the version is not there, and after which it is
    assert registry.state("tiny").aliases == {"production": 1}


def test_a_disk_that_is_full_at_any_step_leaves_no_version(
    tiny_root: Path, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tiny_root)
    for step in range(1, MOST_STEPS):
        steps = iter(range(1, step))
        failed: list[str] = []

        def fail(name: str, steps: object = steps, failed: list[str] = failed) -> None:
            if name not in ("unlink", "rmdir") and next(steps, None) is None and not failed:  # type: ignore[call-overload]
                failed.append(name)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before = registry.numbers("tiny")
        told: Exception | None = None
        with monkeypatch.context() as patch, registry.staging("tiny") as folder:
            for path in tiny.folder.iterdir():
                if path.name != "manifest.json":
                    shutil.copy(path, folder)
            instrument(patch.setattr, fail)
            try:
                registry.publish(folder, tiny.manifest)
            except RegistryUnavailable as error:
                told = error
        if not failed:
            break
        assert "No space left" in str(told)
        assert str(tiny_root) in str(told)
        assert check_all(registry) == before + [before[-1] + 1] * isinstance(told, AliasNotMoved)
    assert told is None
    assert step > 10


def test_staging_on_a_full_disk_names_the_registry(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkdtemp", fail)
    with (
        pytest.raises(RegistryUnavailable, match=r"registry .* cannot be written: No space left"),
        Registry(tiny_root).staging("tiny"),
    ):
        pass


def test_two_processes_that_publish_at_once_get_numbers_in_a_row(
    tiny_root: Path, tiny: StoredVersion, tmp_path: Path
) -> None:
    registry = Registry(tiny_root)
    publishers = [start_publishing(registry, tmp_path, tiny, count=10) for _ in range(2)]
    assert [wait(process) for process in publishers] == [0, 0]
    assert check_all(registry) == list(range(1, 22))


def test_two_processes_that_change_at_once_lose_no_change(tiny_root: Path, tmp_path: Path) -> None:
    registry = Registry(tiny_root)
    changers = [start_changing(registry, tmp_path, name, count=20) for name in ("one", "two")]
    assert [wait(process) for process in changers] == [0, 0]
    state = registry.state("tiny")
    assert len(state.aliases) == 41
    assert state.traffic.canary
    assert state.traffic.canary.percent == 40


@pytest.mark.parametrize("content", [b'{"aliases": [', b"\xff\xfe", b""])
def test_a_state_that_cannot_be_read_is_an_error_and_stays(
    content: bytes, tiny_root: Path, tiny: StoredVersion
) -> None:
    path = tiny_root / "tiny" / "state.json"
    path.write_bytes(content)
    registry = Registry(tiny_root)
    with pytest.raises(CorruptCheckpoint, match=r"tiny/state\.json"):
        publish_again(registry, tiny)
    with pytest.raises(CorruptCheckpoint, match=r"tiny/state\.json"):
        registry.promote(ModelRef("tiny", version=1), "canary")
    assert path.read_bytes() == content
    assert registry.numbers("tiny") == [1]


def test_what_was_left_behind_is_cleared_after_a_day(tiny_root: Path, tiny: StoredVersion) -> None:
    home = tiny_root / "tiny"
    then = time.time() - 25 * 3600
    for name in ("old", "young"):
        (home / f".staging-{name}").mkdir()
        (home / f".staging-{name}" / NETWORK).write_bytes(b"half")
        (home / f".writing-{name}").write_bytes(b"half")
    for path in (home / ".staging-old", home / ".writing-old"):
        os.utime(path, (then, then))
    publish_again(Registry(tiny_root), tiny)
    assert {path.name for path in home.glob(".*")} == {".lock", ".staging-young", ".writing-young"}


def test_a_writer_that_is_killed_leaves_what_is_cleared(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("os.fsync", kill)
    with pytest.raises(Killed):
        Registry(tiny_root).promote(ModelRef("tiny", version=1), "canary")
    (left,) = [path.name for path in (tiny_root / "tiny").glob(".*") if path.name != ".lock"]
    assert left.startswith(".writing-")


# Models that cannot be read at the moment


def fail_at(monkeypatch: pytest.MonkeyPatch, path: Path, code: int) -> None:
    """Let the system refuse to list a folder, or to look at a file."""
    for name in ("stat", "listdir", "scandir"):
        original = getattr(os, name)

        def fail(which: Any = ".", *rest: Any, _original: Any = original, **named: Any) -> Any:
            if isinstance(which, str | Path) and Path(which) == path:
                raise OSError(code, os.strerror(code), str(path))
            return _original(which, *rest, **named)

        monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("place", ["tiny", "tiny/1/manifest.json"])
def test_a_model_that_cannot_be_read_is_not_taken_for_one_without_versions(
    code: int, place: str, tiny_root: Path, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tiny_root)
    manifest = tiny.manifest.model_copy(update={"name": "other"})
    with registry.staging("other") as folder:
        (folder / CARD).write_text("card")
        registry.publish(folder, manifest)
    publish_again(registry, tiny)
    fail_at(monkeypatch, tiny_root / place, code)
    reason = f"{tiny_root / place} cannot be read: {os.strerror(code)}"
    assert registry.snapshot() == {
        "other": ModelSnapshot((1,), registry.state("other")),
        "tiny": ModelSnapshot((), None, reason),
    }
    assert registry.names() == ["other"]
    registry.check()
    for ask in (registry.numbers, registry.has, lambda name: registry.resolve(ModelRef(name, alias="production"))):
        with pytest.raises(RegistryUnavailable, match=re.escape(reason)):
            ask("tiny")
    with pytest.raises(ModelNotFound, match=r"has other$"):
        registry.numbers("dogs")
    registry.forget_empty("tiny")
    monkeypatch.undo()
    assert registry.snapshot()["tiny"].numbers == (1, 2)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR])
def test_a_model_that_went_away_meanwhile_is_none(code: int, tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, tiny_root / "tiny", code)
    assert Registry(tiny_root).snapshot() == {}


# Versions that are removed


def test_a_number_is_not_given_again_after_a_removal_while_another_publishes(
    tiny_root: Path, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tiny_root)
    publish_again(registry, tiny)
    digest_files = checkpoint.digest_files

    def hash_slowly(folder: Path) -> dict[str, FileRecord]:
        registry.remove(SECOND)
        return digest_files(folder)

    monkeypatch.setattr("model.registry.digest_files", hash_slowly)
    assert publish_again(registry, tiny).number == 3
    assert check_all(registry) == [1, 3]


def test_a_removed_version_leaves_only_its_claim(tiny_root: Path, tiny: StoredVersion) -> None:
    registry = Registry(tiny_root)
    folder = publish_again(registry, tiny).folder
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("report")
    registry.remove(SECOND)
    assert [path.name for path in folder.iterdir()] == [".claim"]
    with pytest.raises(VersionNotFound, match=r"it has 1$"):
        registry.version(SECOND)


@pytest.mark.parametrize("step", ["unlink", "fsync", "rmtree"])
def test_a_removal_that_is_stopped_is_not_half_seen_and_is_finished(
    step: str, tiny_root: Path, tiny: StoredVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tiny_root)
    folder = publish_again(registry, tiny).folder

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, suppress(RegistryUnavailable):
        patch.setattr("model.stores.local._delete_files" if step == "rmtree" else f"os.{step}", fail)
        registry._store.remove("tiny", 2)
    if step == "unlink":  # it is there as before
        assert check_all(registry) == [1, 2]
        assert checkpoint.digest_files(folder) == tiny.manifest.files
        assert registry.remove(SECOND) == 2
    else:
        then = time.time() - 25 * 3600
        assert (folder / NETWORK).is_file()
        os.utime(folder / ".claim", (then, then))
    assert registry.numbers("tiny") == [1]
    assert publish_again(registry, tiny).number == 3
    assert [path.name for path in folder.iterdir()] == [".claim"]


# Files that are asked for


@pytest.mark.parametrize("content", [None, b"", b"altered"])
def test_a_file_that_is_not_the_published_one_is_told(
    content: bytes | None, tiny_root: Path, tiny: StoredVersion
) -> None:
    path = tiny_root / "tiny" / "1" / CARD
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=re.escape(str(path))):
        Registry(tiny_root).file("tiny", 1, CARD)


def test_a_process_that_keeps_the_lock_is_told_and_not_waited_for_for_ever(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOCK_SECONDS", 0.1)
    registry = Registry(tiny_root)
    with (tiny_root / "tiny" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RegistryUnavailable, match=r"\.lock has been locked by another process for 0\.1 s"):
            registry.promote(ModelRef("tiny", version=1), "other")
    registry.promote(ModelRef("tiny", version=1), "other")
